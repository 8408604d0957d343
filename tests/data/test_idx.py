import gzip
import re
import struct

import numpy as np
import pytest

from trust_exp.data import store
from trust_exp.data.readers.idx import read_idx
from trust_exp.data.sources import import_dataset, is_present
from trust_exp.data.sources.mnist import FILES, find_idx
from trust_exp.errors import UserError


def idx_bytes(array, code=0x08):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def write_set(folder, train=20, test=10, end=""):
    """Four small IDX files in MNIST's names and form."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for (images, labels), n in zip(FILES.values(), (train, test), strict=True):
        for stem, array in (
            (images, random.integers(0, 256, (n, 28, 28), dtype=np.uint8)),
            (labels, np.arange(n, dtype=np.uint8) % 10),
        ):
            content = idx_bytes(array)
            (folder / f"{stem}{end}").write_bytes(gzip.compress(content) if end == ".gz" else content)
    return folder


@pytest.mark.parametrize(
    ("code", "dtype"), [(0x08, ">u1"), (0x09, ">i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")]
)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4)])
def test_every_type_and_shape_is_read_back(tmp_path, code, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    content = idx_bytes(array, code)
    for name, stored in (
        ("plain", content),
        ("packed.gz", gzip.compress(content)),
        ("misnamed", gzip.compress(content)),
    ):
        (tmp_path / name).write_bytes(stored)
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)


GOOD = idx_bytes(np.zeros((3, 28, 28), np.uint8))


PACKED = gzip.compress(GOOD, mtime=0)  # the same bytes at any time, as processes compare the names of tests


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (b"", "is not an IDX file: it begins with nothing"),
        (b"<!DOCTYPE html>", "is not an IDX file: it begins with 3c 21 44 4f"),
        (b"\0\0\x07\x03" + GOOD[4:], "is not an IDX file: it begins with 00 00 07 03"),
        (b"\0\0\x08\x00", "is not an IDX file: it begins with 00 00 08 00"),
        (b"\0\0\x08\xff" + bytes(2000), "is not an IDX file: it begins with 00 00 08 ff"),
        (GOOD[:10], "is truncated: it ends inside its header"),
        (GOOD[:-1], "is truncated: its header announces 2352 bytes of data and 2351 follow"),
        (GOOD + b"\0", "is too long: its header announces 2352 bytes of data and 2353 follow"),
        (b"\0\0\x0e\x03" + b"\xff" * 8 + bytes(4), "is not an IDX file: its header announces the shape [4294967295,"),
        (PACKED[:-9], "is a corrupt gzip file: Compressed file ended"),
        (PACKED[:-8] + bytes(8), "is a corrupt gzip file: CRC check failed"),
        (PACKED[:12] + b"\xff\xff\xff\xff", "is a corrupt gzip file: "),
    ],
)
def test_every_defect_is_one_sentence_that_names_the_file(tmp_path, content, defect):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path} {defect}')}") as raised:
        read_idx(path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'none'} cannot be read: No such file or directory")):
        read_idx(tmp_path / "none")


@pytest.mark.parametrize(
    ("file", "array", "defect"),
    [
        ("train-images-idx3-ubyte", np.zeros((19, 28, 28), np.uint8), "has 20 labels, but"),
        ("train-images-idx3-ubyte", np.zeros((20, 32, 32), np.uint8), r"holds uint8 \[20, 32, 32\]; images are uint8"),
        ("t10k-labels-idx1-ubyte", np.zeros((10, 1), np.uint8), r"holds uint8 \[10, 1\]; labels are uint8 \[N\]"),
        ("t10k-labels-idx1-ubyte", np.full(10, 10, np.uint8), "has the label 10; labels are 0 to 9"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(tmp_path, file, array, defect):
    folder = write_set(tmp_path / "raw")
    (folder / file).write_bytes(idx_bytes(array))
    with pytest.raises(UserError, match=f"{re.escape(str(folder))}.* {defect}"):
        import_dataset("mnist", folder, tmp_path)
    assert not store.is_prepared(tmp_path, "mnist")


def test_empty_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="train-labels-idx1-ubyte has no labels at all"):
        import_dataset("mnist", write_set(tmp_path / "raw", train=0), tmp_path)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_files_are_found_deep_in_a_folder_and_prepared(tmp_path, end):
    write_set(tmp_path / "downloads" / "a" / "b", end=end)
    folder = import_dataset("mnist", tmp_path / "downloads", tmp_path)
    assert folder == tmp_path / "prepared" / "mnist"
    train = store.open_part(tmp_path, "mnist", "train")
    assert train["images"].shape == (20, 1, 28, 28)
    assert train["labels"].tolist() == [*range(10)] * 2
    manifest = store.verify(tmp_path, "mnist")
    assert manifest["source"]["verified"] is False
    assert manifest["folder"] == str(tmp_path / "downloads")
    assert manifest["files"]["test_images.npy"]["shape"] == [10, 1, 28, 28]


def test_scattered_files_and_the_other_spelling_are_found(tmp_path):
    folder = write_set(tmp_path / "raw")
    (folder / "deep").mkdir()
    (folder / "t10k-labels-idx1-ubyte").rename(folder / "deep" / "t10k-labels.idx1-ubyte")
    assert find_idx(folder)["t10k-labels-idx1-ubyte"] == folder / "deep" / "t10k-labels.idx1-ubyte"


def test_a_missing_file_is_named(tmp_path):
    folder = write_set(tmp_path / "raw")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"lacks t10k-labels-idx1-ubyte \(plain or .gz\)"):
        import_dataset("mnist", folder, tmp_path)


def test_two_sets_in_pieces_are_not_mixed(tmp_path):
    for name in ("one", "two"):
        write_set(tmp_path / name)
    (tmp_path / "one" / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "two" / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="holds train-images-idx3-ubyte more than once"):
        find_idx(tmp_path)


def test_a_set_that_is_not_known_or_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^the data set 'mnits' does not exist; did you mean mnist\? There are: "):
        import_dataset("mnits", tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"nowhere is not a folder$"):
        import_dataset("mnist", tmp_path / "nowhere", tmp_path)


def test_presence(tmp_path):
    assert is_present("digits", tmp_path)
    assert is_present("two_moons", tmp_path)
    assert not is_present("mnist", tmp_path)
    write_set(tmp_path / "MNIST" / "raw")
    assert is_present("mnist", tmp_path)
    assert not is_present("fashion_mnist", tmp_path)
    import_dataset("fashion_mnist", tmp_path / "MNIST", tmp_path)
    assert is_present("fashion_mnist", tmp_path)
    assert not is_present("cifar10", tmp_path)
