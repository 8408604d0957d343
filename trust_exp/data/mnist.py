"""MNIST and Fashion-MNIST."""

import contextlib
import http.client
import io
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trust_exp.data import store
from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.idx import SETS, import_idx, raw_folder
from trust_exp.data.module import ArrayDataModule
from trust_exp.errors import UserError

__all__ = ["FashionMnist", "Mnist", "import_idx"]


class Mnist(ArrayDataModule):
    """Handwritten digits, uint8 [N, 1, 28, 28], 60,000 for training and 10,000 for testing.

    Served from prepared arrays; these are made from IDX files under ``root`` or from a download when first needed.

    Raises:
        UserError: from ``prepare_data`` and ``load``, if the data are neither there nor to be had, or are damaged.

    Source: LeCun et al. 1998.
    """

    info = DatasetInfo("mnist", tuple("0123456789"), (1, 28, 28), (0.0, 1.0))

    def prepare_data(self) -> None:
        name = self.info.name
        if store.is_prepared(self.root, name):
            store.verify(self.root, name)  # a third of a second, against training on damaged data
        elif raw := raw_folder(name, self.root):
            import_idx(name, raw, self.root)
        else:
            download_and_import(name, self.root)

    def source(self) -> dict[str, Any]:
        manifest = store.read_manifest(store.prepared_folder(self.root, self.info.name))
        return {"verified": manifest["source"].get("verified"), "files": manifest["files"]}

    def load(self, split: Split) -> Arrays:
        if not store.is_prepared(self.root, self.info.name):
            self.prepare_data()
        images, labels = store.open_split(self.root, self.info.name, split)
        return Arrays(torch.from_numpy(images), torch.from_numpy(labels).long())


class FashionMnist(Mnist):
    """Articles of clothing, in the form of MNIST. Source: Xiao, Rasul, Vollgraf 2017."""

    info = DatasetInfo(
        "fashion_mnist",
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        (1, 28, 28),
        (0.0, 1.0),
    )


def download_and_import(name: str, root: Path) -> None:
    """Fetch the four files with torchvision, which checks them, and prepare them.

    Raises:
        UserError: if that fails: what to do by hand.
    """
    from torchvision import datasets

    try:
        root.mkdir(parents=True, exist_ok=True)
        # A folder of its own: jobs that start together must not write into each other's files.
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root) as folder:
            with _quiet_and_impatient():
                getattr(datasets, SETS[name].folder)(folder, download=True)
            import_idx(name, folder, root)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(
            f"dataset={name} is not in {root}; it could not be downloaded ({reason}); "
            f"download the four IDX files and run: trust-exp data import {name} <folder>"
        ) from error


@contextlib.contextmanager
def _quiet_and_impatient(seconds: float = 20) -> Iterator[None]:
    """torchvision prints every attempt, and waits for ever where a firewall drops packets."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
    finally:
        socket.setdefaulttimeout(before)
