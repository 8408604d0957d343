"""Files that a reader finds whole, whenever it looks, and whether weights are fit to be saved."""

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trust_exp import durable
from trust_exp.errors import UserError


def save_whole(value: Any, path: Path) -> None:
    """``torch.save`` as a whole, into a folder that is made; see ``durable.put``."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.sync(path.parent.parent)
    part = path.with_suffix(".part")
    torch.save(value, part)
    durable.put(part, path)


def load_whole(path: Path, device: str | torch.device = "cpu") -> Any:
    """What ``save_whole`` wrote.

    Raises:
        UserError: if the file is missing or damaged, or holds more than tensors and plain values.
    """
    check_whole(path)
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # of many kinds, some of which advise to unpickle whatever it holds
        raise UserError(f"{path} cannot be read, and the run needs it; force=true starts it anew") from error


def check_whole(path: Path) -> None:
    """Raise UserError unless a file that ``torch.save`` wrote is there to its end, each part with its checksum.

    torch itself compares no checksum: a number that the disk changed would be used without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # of many kinds: OSError, BadZipFile, NotImplementedError, zlib.error, ...
        raise UserError(f"{path} is missing or damaged, and the run needs it; force=true starts it anew") from error
    if broken is not None:
        raise UserError(f"{path} is damaged, and the run needs it; force=true starts it anew")


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds a nan or an infinity."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())
