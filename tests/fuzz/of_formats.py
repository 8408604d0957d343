"""Readers of single files: arrays, pickles, images, archives, lists of numbers, weights."""

import io
import json
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tests.fuzz.harness import Reader
from tests.fuzz.valid import idx, image, lines, mat, npy, npz, photo, tar, zipped
from trust_exp.data.fetch import unpack
from trust_exp.data.numpy_files import load_npz
from trust_exp.data.ranking import FORMAT, read_ranking
from trust_exp.data.readers.idx import read_idx
from trust_exp.data.readers.images import check_images, image_facts, read_labels, read_rgb
from trust_exp.data.readers.matlab import read_mat
from trust_exp.data.readers.pickles import load_pickled_arrays
from trust_exp.data.sources.pixels import ROW
from trust_exp.data.subset import read_index
from trust_exp.models.frozen import frozen_features
from trust_exp.models.trained import SourceNetwork, load_published, read_state
from trust_exp.networks import load_state
from trust_exp.saving import load_whole

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6)
IMAGES = {
    "rgb.png": image(photo()),
    "deep.png": image(Image.fromarray(np.arange(24, dtype=np.uint16).reshape(4, 6))),
    "alpha.png": image(photo(channels=4)),
    "interlaced.png": image(Image.fromarray(GREY).convert("P", colors=4), bits=2),
    "one.png": image(Image.fromarray(GREY).convert("1")),
    "photo.jpg": image(photo(9, 9), "JPEG"),
    "cmyk.jpg": image(Image.fromarray(photo(9, 9)).convert("CMYK"), "JPEG", progressive=True),
    "plain.bmp": image(photo(), "BMP"),
    "two.gif": image(Image.fromarray(GREY).convert("P"), "GIF", save_all=True, append_images=[Image.fromarray(GREY)]),
    "plain.tif": image(photo(), "TIFF"),
    "packed.tif": image(photo(), "TIFF", compression="tiff_lzw"),
    "lossy.webp": image(photo(), "WEBP"),
    "lossless.webp": image(photo(channels=4), "WEBP", lossless=True),
}
EIGHT_BITS = {name: content for name, content in IMAGES.items() if name != "deep.png"}
LABELS = ("rgb.png", "deep.png", "interlaced.png", "one.png")
BATCH = {"data": np.arange(4, dtype=np.uint8).repeat(ROW // 2).reshape(2, ROW), "labels": [3, 9]}


def python2(values: dict[str, Any]) -> bytes:
    """As the published batches: protocol 2 with the strings of Python 2."""
    content = pickle.dumps({key.encode(): value for key, value in values.items()}, 2, fix_imports=True)
    return content.replace(b"numpy._core.", b"numpy.core.")


def each(name: str, *contents: bytes) -> list[dict[str, bytes]]:
    return [{name: content} for content in contents]


def rgb(folder: Path) -> None:
    found, facts = read_rgb(folder / "image"), image_facts(folder / "image")
    assert found.dtype == np.uint8
    assert found.shape == (facts.height, facts.width, 3)


def label_map(folder: Path) -> None:
    found = read_labels(folder / "image")
    assert found.dtype in (np.uint8, np.uint16)
    assert found.ndim == 2 or found.shape[2] == 3


def pickled(folder: Path) -> None:
    for value in load_pickled_arrays(folder / "batch").values():
        for item in value if isinstance(value, list) else [value]:
            assert item is None or type(item) in (np.ndarray, int, float, bool, str, bytes)
            assert not isinstance(item, np.ndarray) or item.dtype.kind in "biuf"


def plain_arrays(folder: Path) -> None:
    assert all(array.dtype.kind in "biufcSUV" for array in load_npz(folder / "a.npz").values())


def index_file(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        found = read_index(folder / name, FACTS)
        assert ((found >= 0) & (found < 9)).all()

    return read


FACTS = {"name": "digits", "samples": 9, "labels": "ab" * 32}
RANKED = {"index": np.array([2, 0, 1]), "score": np.array([0.5, 0.25, -1.0])}
RANKING = {"format": FORMAT, "measure": "loss", "dataset": {**FACTS, "samples": 3}, "run": "0123456789"}


def archive(folder: Path) -> None:
    to = unpack(folder / "archive", folder.parent / "scratch" / "a" / "content", limit=2**20)
    assert sum(path.stat().st_size for path in to.rglob("*") if path.is_file()) <= 2**20


def weights() -> tuple[dict[str, bytes], ...]:
    """A network's state alone, under a name, and in torch's older format."""
    own = network().state_dict()
    named = {"state_dict": {f"_orig_mod.{name}": value for name, value in own.items()}, "epoch": 3}
    made = []
    for content, as_zip in ((own, True), (named, True), (own, False)):
        torch.save(content, file := io.BytesIO(), _use_new_zipfile_serialization=as_zip)
        made.append({"weights.pt": file.getvalue()})
    return tuple(made)


def network() -> nn.Module:
    return nn.Sequential(OrderedDict(features=nn.Linear(3, 2), head=nn.Linear(2, 2)))


def published(folder: Path) -> None:
    model = network()
    load_published(model, folder / "weights.pt")
    assert all(value.isfinite().all() for value in model.state_dict().values())


def state(folder: Path) -> None:
    load_state(network(), folder / "weights.pt")


def frozen(folder: Path) -> None:
    frozen_features((3,), 2, SourceNetwork("a", network(), read_state(folder / "weights.pt")))


WEIGHTS = weights()
MEMBERS = {"a/one.txt": b"one", "a/two.bin": bytes(700), "three": b""}
ARCHIVES = (
    tar(MEMBERS),
    tar(MEMBERS, packed=True),
    tar({"x" * 120: b"long", **MEMBERS}, tarfile.GNU_FORMAT),
    tar({"é" * 80: b"long", **MEMBERS}, tarfile.PAX_FORMAT),
    zipped(MEMBERS),
)

FIELDS = np.array([[(1.5, "text", GREY)], [(-1, "", [])]], [("number", object), ("name", object), ("more", object)])
MATRICES = (GREY, np.ones((2, 3, 2)), "a text", np.array(["one", "other"]), np.array([GREY, "cell"], object), FIELDS)

READERS = (
    Reader(
        "idx",
        lambda folder: read_idx(folder / "a"),
        each(
            "a",
            idx(np.arange(6, dtype=">u1"), 8),
            idx(np.ones((2, 3, 2), ">f8"), 14),
            idx(np.ones((2, 2), ">i4"), 12, packed=True),
        ),
    ),
    Reader(
        "pickle",
        pickled,
        each("batch", python2(BATCH), pickle.dumps(BATCH, 4), pickle.dumps({**BATCH, "mean": np.float32(1)}, 5)),
    ),
    Reader(
        "npz",
        plain_arrays,
        each("a.npz", npz(x_train=GREY, y_train=[1, 2]), npz(True, images=GREY, classes=np.array(["a", "b"]))),
    ),
    Reader(
        "mat",
        lambda folder: read_mat(folder / "a.mat", "a"),
        each("a.mat", *(mat(packed, a=value) for packed in (False, True) for value in MATRICES)),
    ),
    Reader("image", rgb, each("image", *EIGHT_BITS.values())),
    Reader("label map", label_map, each("image", *(IMAGES[name] for name in LABELS), image(GREY))),
    Reader("images at once", lambda folder: check_images(sorted(folder.iterdir())), [EIGHT_BITS], quick=50),
    Reader(
        "index.txt", index_file("index.txt"), each("index.txt", lines("# samples of " + json.dumps(FACTS), "3", "8"))
    ),
    Reader("index.npy", index_file("index.npy"), each("index.npy", npy([3, 8]), npy(np.array([1], np.uint8)))),
    Reader(
        "ranking",
        lambda folder: read_ranking(folder / "loss.npz"),
        each("loss.npz", npz(facts=np.array(json.dumps(RANKING)), **RANKED)),
    ),
    Reader("weights", state, WEIGHTS),
    Reader("weights of a run", lambda folder: load_whole(folder / "weights.pt"), WEIGHTS[:2]),
    Reader("published weights", published, WEIGHTS),
    Reader("frozen weights", frozen, WEIGHTS),
    Reader("archive", archive, each("archive", *ARCHIVES), writes=True, quick=500),
)
