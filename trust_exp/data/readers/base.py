"""Worker processes of streams: they read the samples in some rows of an index, and import this but no Lightning."""

import os
import signal
import sys
import threading
from multiprocessing import parent_process
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from trust_exp.data import store
from trust_exp.data.batch import AnyBatch
from trust_exp.errors import UserError

WATCH_SECONDS = 1.0


class Reader(Protocol):
    """Reads samples of one split in a worker process, where it was pickled to, and makes batches of them."""

    draws: int  # uniform numbers that the changes of one training sample take

    def __call__(self, row: int, uniform: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """The sample in ``row`` of the index: the image (uint8 [C, H, W]) first, all of fixed shapes and types.

        ``uniform`` (float32 [draws], in [0, 1)) are the random numbers of its changes; None: as in evaluation.

        Raises:
            UserError: naming the file that cannot be read.
        """

    def batch(self, parts: tuple[Tensor, ...], index: Tensor) -> AnyBatch:
        """Stacked parts of samples as a batch, images as floats in [0, 1].

        ``parts`` and ``index`` (int64 [B], the rows) lie on the device; runs in the main process.
        """


class Index(dict[str, np.ndarray]):
    """The arrays of some parts of a prepared set, one after the other, for readers.

    Workers open the files again instead of getting a copy, as an index may have a million rows.
    """

    def __init__(self, root: Path, name: str, parts: list[str]) -> None:
        super().__init__(store.open_parts(root, name, parts))
        self.origin = root, name, parts

    def __reduce__(self) -> tuple[Any, ...]:
        return Index, self.origin


class Request(NamedTuple):
    """Rows to read together, and the random numbers (float32 [B, draws]) of their changes."""

    rows: list[int]
    uniform: np.ndarray | None


class Decoder:
    """A reader as the data set of a DataLoader: a request gives the stacked parts of its samples.

    A UserError is returned: raised here, it would be shown as the traceback of a worker.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __getitem__(self, request: Request) -> tuple[Tensor, ...] | UserError:
        uniform = [None] * len(request.rows) if request.uniform is None else list(request.uniform)
        try:
            samples = [self.reader(row, numbers) for row, numbers in zip(request.rows, uniform, strict=True)]
        except UserError as error:
            return error
        return tuple(torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))


def watch_signals(_: int) -> None:
    """In a worker: end when the process that it works for dies or ends it, and for no other signal.

    SIGTERM is blocked in workers, as it may be meant for a whole process group; and a fork server keeps workers alive
    when the process that they work for is killed.
    """
    threading.Thread(target=_wait_for_end, daemon=True).start()
    # The thread that hands over memory would print that the other process has ended.
    sys.excepthook = lambda *_: None


def _wait_for_end() -> None:
    parent = parent_process()
    while parent is not None and parent.is_alive():
        sent = signal.sigtimedwait({signal.SIGTERM}, WATCH_SECONDS)
        if sent is not None and sent.si_pid == parent.pid:
            break
    os._exit(1)
