"""MNIST and Fashion-MNIST: the real files where they lie beside the checkout, and what happens without them."""

import re
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from trust_exp.data import store
from trust_exp.data.idx import read_idx
from trust_exp.data.mnist import FashionMnist, Mnist
from trust_exp.data.sources import import_dataset
from trust_exp.errors import UserError

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data"
MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder with both sets imported from the real files."""
    folders = {name: REAL / name for name in ("mnist", "fashion_mnist")}
    for folder in folders.values():
        if not folder.is_dir():
            pytest.skip(f"the real IDX files are not at {folder}")
    root = tmp_path_factory.mktemp("data")
    for name, folder in folders.items():
        import_dataset(name, folder, root)
    return root


@pytest.mark.parametrize(
    ("dataset", "counts"),
    [
        (Mnist, {"train": MNIST_TRAIN, "test": MNIST_TEST}),
        (FashionMnist, {"train": [6000] * 10, "test": [1000] * 10}),
    ],
)
def test_the_real_sets_are_whole_and_the_published_ones(root, dataset, counts):
    name = dataset.info.name
    assert store.verify(root, name)["source"]["verified"] is True
    data = dataset(name, root=root)
    for split, expected in counts.items():
        arrays = data.arrays(split)
        assert arrays.images.shape == (sum(expected), *dataset.info.shape)
        assert (arrays.images.dtype, arrays.labels.dtype) == (torch.uint8, torch.int64)
        assert arrays.labels.bincount().tolist() == expected


@pytest.mark.parametrize(
    ("dataset", "first"),
    [
        (Mnist, ["5", "0", "4", "1", "9"]),
        (FashionMnist, ["Ankle boot", "T-shirt/top", "T-shirt/top", "Dress", "T-shirt/top"]),
    ],
)
def test_images_and_labels_are_in_the_files_order(root, dataset, first):
    name = dataset.info.name
    batch = next(iter(dataset(name, root=root).eval_loader("train")))
    assert [dataset.info.classes[label] for label in batch.label[:5]] == first
    raw = read_idx(next((REAL / name).rglob("train-images-idx3-ubyte.gz")))
    assert torch.equal((batch.image[:, 0] * 255).round().to(torch.uint8), torch.tensor(raw[:500]))


def test_training_batches_of_mnist(root):
    data = Mnist("mnist", root=root, augment={"pad": 2, "rotate": 5.0}, limit_train=1000)
    batches = list(data.train_dataloader())
    assert len(batches) == 7
    assert batches[0].image.shape == (128, 1, 28, 28)
    assert all(0 <= batch.image.min() <= batch.image.max() <= 1 for batch in batches)
    assert data.arrays("train").labels.bincount().tolist() == [100] * 10


def test_files_of_the_other_set_are_refused(root):
    with pytest.raises(UserError, match=r"ubyte.gz belongs to fashion_mnist, not to mnist$"):
        import_dataset("mnist", REAL / "fashion_mnist", root)


def test_raw_files_under_the_root_are_prepared_when_needed(root, tmp_path):
    (tmp_path / "mnist").symlink_to(REAL / "mnist")
    assert len(Mnist("mnist", root=tmp_path).arrays("test")) == 10000
    assert store.is_prepared(tmp_path, "mnist")


def test_without_files_and_network_one_sentence_says_what_to_do(tmp_path, monkeypatch, capfd):
    def unreachable(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    message = (
        f"dataset=fashion_mnist is not in {tmp_path}; it could not be downloaded "
        "(<urlopen error Name or service not known>); "
        "download the four IDX files and run: trust-exp data import fashion_mnist <folder>"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        FashionMnist("fashion_mnist", root=tmp_path).prepare_data()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
