"""MNIST and Fashion-MNIST: the real files where they lie beside the checkout, and what happens without them."""

import http.client
import re
import shutil
import socket
from dataclasses import replace

import pytest
import torch

from tests.data.clutter import cluttered
from trust_exp.data import sources, store
from trust_exp.data.fetch import Remote
from trust_exp.data.module import PreparedDataModule
from trust_exp.data.readers.idx import read_idx
from trust_exp.data.sources.mnist import STEMS, FashionMnist, Mnist, find_idx
from trust_exp.errors import UserError

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def root(tmp_path_factory, shared_data):
    """A data folder with both sets imported from the real files."""
    root = tmp_path_factory.mktemp("data")
    for name in ("mnist", "fashion_mnist"):
        sources.import_dataset(name, shared_data / name, root)
    return root


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("mnist", {"train": MNIST_TRAIN, "test": MNIST_TEST}),
        ("fashion_mnist", {"train": [6000] * 10, "test": [1000] * 10}),
    ],
)
def test_the_real_sets_are_whole_and_the_published_ones(root, name, counts):
    assert store.verify(root, name)["source"]["verified"] is True
    data = PreparedDataModule(name, root=root)
    assert data.info.domain == (0, 1)
    assert sources.find_source(name).images == {split: sum(expected) for split, expected in counts.items()}
    for split, expected in counts.items():
        arrays = data.arrays(split)
        assert arrays.images.shape == (sum(expected), 1, 28, 28) == (sum(expected), *data.info.shape)
        assert (arrays.images.dtype, arrays.labels.dtype) == (torch.uint8, torch.int64)
        assert arrays.labels.bincount().tolist() == expected


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("mnist", ["5", "0", "4", "1", "9"]),
        ("fashion_mnist", ["Ankle boot", "T-shirt/top", "T-shirt/top", "Dress", "T-shirt/top"]),
    ],
)
def test_images_and_labels_are_in_the_files_order(root, shared_data, name, first):
    data = PreparedDataModule(name, root=root)
    batch = next(iter(data.eval_loader("train")))
    assert [data.info.classes[label] for label in batch.label[:5]] == first
    raw = read_idx(next((shared_data / name).rglob("train-images-idx3-ubyte.gz")))
    assert torch.equal((batch.image[:, 0] * 255).round().to(torch.uint8), torch.tensor(raw[:500]))


def test_training_batches_of_mnist(root):
    data = PreparedDataModule("mnist", root=root, augment={"pad": 2, "rotate": 5.0}, limit_train=1000)
    batches = list(data.train_dataloader())
    assert len(batches) == 7
    assert batches[0].image.shape == (128, 1, 28, 28)
    assert all(0 <= batch.image.min() <= batch.image.max() <= 1 for batch in batches)
    assert data.arrays("train").labels.bincount().tolist() == [100] * 10


def test_files_of_the_other_set_are_refused(root, shared_data):
    with pytest.raises(UserError, match=r"ubyte.gz belongs to fashion_mnist, not to mnist$"):
        sources.import_dataset("mnist", shared_data / "fashion_mnist", root)


def test_raw_files_under_the_root_are_prepared_when_needed(shared_data, tmp_path):
    (tmp_path / "mnist").symlink_to(shared_data / "mnist")
    assert len(PreparedDataModule("mnist", root=tmp_path).arrays("test")) == 10000
    assert store.is_prepared(tmp_path, "mnist")


def test_what_systems_and_links_add_to_a_folder_is_no_second_copy(tmp_path):
    (tmp_path / "files").mkdir()
    for stem in STEMS:
        (tmp_path / "files" / stem).touch()
    shutil.copytree(tmp_path / "files", tmp_path / "files" / "#recycle")
    found = find_idx(cluttered(tmp_path / "files", tmp_path / "copy"))
    assert found == {stem: tmp_path / "copy" / stem for stem in STEMS}


def test_a_download_is_prepared_and_verified(shared_data, tmp_path, monkeypatch):
    raw = shared_data / "fashion_mnist" / "FashionMNIST" / "raw"  # the published .gz files, byte for byte
    local = tuple(replace(remote, url=(raw / remote.name).as_uri()) for remote in FashionMnist.remotes)
    monkeypatch.setattr(FashionMnist, "remotes", local)
    data = PreparedDataModule("fashion_mnist", root=tmp_path)
    data.prepare_data()
    assert data.origin()["verified"] is True
    assert list((tmp_path / "downloads").glob("[!.]*")) == []  # what was prepared is not kept twice


@pytest.mark.parametrize("source", [Mnist, FashionMnist])
def test_each_file_has_a_remote(source):
    assert [remote.name for remote in source.remotes] == [f"{stem}.gz" for stem in STEMS]
    assert all(isinstance(remote, Remote) and remote.bytes for remote in source.remotes)


def test_without_files_and_network_one_sentence_says_what_to_do(tmp_path, monkeypatch, capfd):
    def unreachable(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(http.client.HTTPConnection, "connect", unreachable)
    message = (
        f"dataset=fashion_mnist is not in {tmp_path}; {FashionMnist.remotes[0].url} could not be fetched into "
        f"{tmp_path / 'downloads'}: Name or service not known; get the four IDX files from "
        "https://github.com/zalandoresearch/fashion-mnist and run: trust-exp data import fashion_mnist <folder>"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        PreparedDataModule("fashion_mnist", root=tmp_path).prepare_data()
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
