"""The sets that are prepared into arrays: real samples in every layout that people have, and what is refused."""

import hashlib
import io
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.clutter import cluttered
from trust_exp.data import sources, store
from trust_exp.data.cifar10plus1 import CifarPlusOne
from trust_exp.data.cifar100 import Cifar100
from trust_exp.data.module import PreparedDataModule
from trust_exp.data.remarks import sentences
from trust_exp.data.sources.cifar import COARSE_OF, Cifar10
from trust_exp.data.sources.imagenet32 import ImageNet32
from trust_exp.data.sources.svhn import MD5 as SVHN_MD5
from trust_exp.data.subset import occurrence_in_class
from trust_exp.data.super_classes import COARSE, FINE, SUPER_CLASSES, super_class
from trust_exp.errors import UserError
from trust_exp.schema import ROOT

TRAIN_BATCHES = [f"data_batch_{i}" for i in range(1, 6)]


def refused(name, folder, root):
    """The sentence with which an import is refused; nothing of it may stay."""
    with pytest.raises(UserError) as raised:
        sources.import_dataset(name, folder, root)
    assert [path.name for path in (root / "prepared").iterdir()] == [f".{name}.lock"]
    assert "\n" not in str(raised.value)
    return str(raised.value)


def imported(name, folder, root):
    """Every array of a set, by part and kind."""
    sources.import_dataset(name, folder, root)
    manifest = store.verify(root, name)
    return {part: store.open_part(root, name, part) for part in store.parts(manifest)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for part in expected:
        assert found[part].keys() == expected[part].keys()
        for kind in expected[part]:
            np.testing.assert_array_equal(found[part][kind], expected[part][kind])


def tiles(path, count):
    """The images of a packed sheet, uint8 [N, 3, 32, 32]."""
    sheet = np.asarray(Image.open(path).convert("RGB"))
    rows = sheet.reshape(sheet.shape[0] // 32, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3)
    return rows.reshape(-1, 3, 32, 32)[:count]


def packed(folder, packs):
    """Images and labels of the shared packs in the order of their index in the original."""
    found = {}
    for part in ("train", "test"):
        images, labels, index = [], [], []
        for pack in packs:
            with np.load(folder / f"{pack}_labels.npz") as facts:
                labels.append(facts[f"{part}_labels"])
                index.append(facts[f"{part}_index"])
            images.append(tiles(folder / f"{pack}_{part}.webp", len(labels[-1])))
        order = np.argsort(np.concatenate(index))
        found[part] = {"images": np.concatenate(images)[order], "labels": np.concatenate(labels)[order]}
    return found


@pytest.fixture(scope="module")
def originals(shared_data):
    """The shared samples of CIFAR-10 and CIFAR-100."""
    ten = packed(shared_data / "cifar10", ["cifar10_core", "cifar10_extra"])
    hundred = packed(shared_data / "cifar100", ["cifar100"])
    with np.load(shared_data / "cifar100" / "cifar100_labels.npz") as facts:
        for part in hundred.values():
            part["coarse"] = facts["fine_to_coarse"][part["labels"]]
    return {"cifar10": ten, "cifar100": hundred}


@pytest.fixture(scope="module")
def laid_out(shared_data, tmp_path_factory):
    """The shared samples in the folders that people have."""
    folder = tmp_path_factory.mktemp("layouts")
    script = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, script, "--to", folder, "cifar10", "cifar100", "tiny_imagenet"], check=True)
    return folder


@pytest.fixture(scope="module")
def root(laid_out, tmp_path_factory):
    """A data folder with the samples prepared."""
    root = tmp_path_factory.mktemp("data")
    for name, folder in (("cifar10", "cifar10"), ("cifar100", "cifar100"), ("tiny_imagenet", "tiny-imagenet-200")):
        sources.import_dataset(name, laid_out / folder, root)
    return root


# --- CIFAR-10 and CIFAR-100 ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_class_folders_of_cifar_give_the_original_pixels_labels_and_order(root, originals, name):
    manifest = store.verify(root, name)
    assert (manifest["source"]["verified"], manifest["converted"]) == (False, {})
    assert manifest["info"]["shape"] == [3, 32, 32]
    assert_equal({part: store.open_part(root, name, part) for part in ("train", "test")}, originals[name])


def test_the_classes_of_cifar_are_the_published_ones(shared_data):
    with np.load(shared_data / "cifar10" / "cifar10_core_labels.npz") as facts:
        assert facts["classes"].tolist() == list(Cifar10.classes)
    with np.load(shared_data / "cifar100" / "cifar100_labels.npz") as facts:
        assert facts["fine_names"].tolist() == list(FINE)
        assert facts["coarse_names"].tolist() == list(COARSE)
        assert facts["fine_to_coarse"].tolist() == COARSE_OF.tolist()


def test_the_super_classes_are_those_of_figure_a3(shared_data):
    text = (shared_data.parent / "papers" / "losch_thesis.txt").read_text()
    figure = text[: text.index("Figure A.3: 20 CIFAR-100")].rpartition("listed in figure A.3")[2]
    printed = {name: re.findall(r"'(\w+)'", fine) for name, fine in re.findall(r"^([\w-]+): \[(.*)\]$", figure, re.M)}
    assert {found.thesis: list(found.fine) for found in SUPER_CLASSES.values()} == printed
    assert len(printed) == 20


def some(original, count):
    return {part: {kind: array[:count] for kind, array in arrays.items()} for part, arrays in original.items()}


def write_batches(folder, name, original, form):
    """The batches of a set as they were published, pickled or binary; CIFAR-10's training images in five of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, arrays in original.items():
        names = [part] if name == "cifar100" else TRAIN_BATCHES if part == "train" else ["test_batch"]
        for file, rows in zip(names, np.array_split(np.arange(len(arrays["labels"])), len(names)), strict=True):
            data = arrays["images"][rows].reshape(len(rows), -1)
            if form == "binary":
                kinds = [arrays[kind][rows, None] for kind in ("coarse", "labels") if kind in arrays]
                (folder / f"{file}.bin").write_bytes(np.concatenate([*kinds, data], axis=1).tobytes())
            else:
                labels = {b"fine_labels" if name == "cifar100" else b"labels": arrays["labels"][rows].tolist()}
                if name == "cifar100":
                    labels[b"coarse_labels"] = arrays["coarse"][rows].tolist()
                (folder / file).write_bytes(pickle.dumps({b"data": data, **labels}, protocol=2))
    return folder


ARCHIVES = {
    ("cifar10", "pickled"): ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    ("cifar10", "binary"): ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    ("cifar100", "pickled"): ("cifar-100-python.tar.gz", "cifar-100-python"),
    ("cifar100", "binary"): ("cifar-100-binary.tar.gz", "cifar-100-binary"),
}


@pytest.mark.parametrize("packing", ["folder", "folder in a folder", "archive"])
@pytest.mark.parametrize(("name", "form"), ARCHIVES)
def test_every_published_form_of_cifar_gives_the_same_arrays(tmp_path, originals, name, form, packing):
    archive, inner = ARCHIVES[name, form]
    expected = some(originals[name], 100)
    given = tmp_path / "given"
    batches = write_batches(given if packing == "folder" else given / inner, name, expected, form)
    if packing == "archive":
        with tarfile.open(given / archive, "w:gz") as tar:
            tar.add(batches, inner)
        shutil.rmtree(batches)
    assert_equal(imported(name, given, tmp_path), expected)
    assert sorted(path.name for path in (tmp_path / "prepared").iterdir()) == [f".{name}.lock", name]
    assert not any(path.is_dir() for path in (tmp_path / "prepared" / name).iterdir())


def test_batches_are_verified_by_their_published_checksums(tmp_path, originals, monkeypatch):
    folder = write_batches(tmp_path / "cifar-10-batches-py", "cifar10", some(originals["cifar10"], 20), "pickled")
    published = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    monkeypatch.setattr(Cifar10, "published", published)
    assert PreparedDataModule("cifar10", root=tmp_path).origin()["verified"] is True
    monkeypatch.setattr(Cifar10, "published", {**published, "test_batch": "0" * 32})
    sources.import_dataset("cifar10", folder, tmp_path)
    assert PreparedDataModule("cifar10", root=tmp_path).origin()["verified"] is False


def batch(**changed):
    good = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}
    content = {**good, **changed}
    return pickle.dumps({key.encode(): value for key, value in content.items() if value is not None}, protocol=2)


@pytest.mark.parametrize(
    ("content", "defect"),
    [
        (batch(labels=[0, 1, 2, 10]), "has the label 10; labels are 0 to 9"),
        (batch(labels=[0, 1, 2, -1]), "has the label -1; labels are 0 to 9"),
        (batch(labels=[0, 1, 2]), "has 3 labels for 4 images"),
        (batch(labels=[0.0, 1.0, 2.0, 3.0]), "holds a list as labels; they are whole numbers, one for each image"),
        (batch(labels=None), "lacks labels; it has data"),
        (batch(data=np.zeros((4, 3072))), r"holds float64 \[4, 3072\] under data; images are uint8 \[N, 3072\]"),
        (batch(data=np.zeros((4, 3000), np.uint8)), r"holds uint8 \[4, 3000\] under data"),
        (batch(data=b"1234"), "holds a bytes under data"),
        (batch()[:-100], ""),
    ],
)
def test_a_wrong_batch_is_refused_by_name(tmp_path, originals, content, defect):
    folder = write_batches(tmp_path / "given", "cifar10", some(originals["cifar10"], 20), "pickled")
    (folder / "data_batch_4").write_bytes(content)
    assert re.match(f"{folder / 'data_batch_4'} {defect}", refused("cifar10", folder, tmp_path))


def test_a_truncated_binary_batch_is_refused_by_name(tmp_path, originals):
    folder = write_batches(tmp_path / "given", "cifar100", some(originals["cifar100"], 20), "binary")
    (folder / "test.bin").write_bytes((folder / "test.bin").read_bytes()[:-1])
    expected = f"{folder / 'test.bin'} is truncated: it has {20 * 3074 - 1} bytes, and each image takes 3074"
    assert refused("cifar100", folder, tmp_path) == expected
    (folder / "test.bin").write_bytes(b"")
    assert refused("cifar100", folder, tmp_path) == f"{folder / 'test.bin'} has no images at all"


def test_a_fine_label_in_the_wrong_super_class_is_refused(tmp_path, originals):
    wrong = some(originals["cifar100"], 20)
    wrong["train"]["coarse"] = (wrong["train"]["coarse"] + np.arange(20) // 19).astype(np.uint8) % 20
    folder = write_batches(tmp_path / "given", "cifar100", wrong, "pickled")
    fine = FINE[wrong["train"]["labels"][19]]
    assert f"{folder / 'train'} puts a {fine} into " in refused("cifar100", folder, tmp_path)


def test_a_missing_batch_is_named(tmp_path, originals):
    folder = write_batches(tmp_path / "given" / "cifar-10-batches-py", "cifar10", some(originals["cifar10"], 20), "")
    for name in ("data_batch_2", "test_batch"):
        (folder / name).unlink()
    assert refused("cifar10", folder.parent, tmp_path) == f"{folder} lacks data_batch_2, test_batch"


@pytest.fixture
def ten_pngs(tmp_path):
    """CIFAR-10 in class folders, two images in each."""
    for part in ("train", "test"):
        for number, name in enumerate([*Cifar10.classes] * 2):
            folder = tmp_path / "given" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number, 0, 0)).save(folder / f"{number}_{name}.png")
    return tmp_path / "given"


def test_the_numbers_in_file_names_give_the_order(tmp_path, ten_pngs):
    found = imported("cifar10", ten_pngs, tmp_path)
    assert found["train"]["labels"].tolist() == [*range(10)] * 2
    assert found["test"]["images"][:, 0, 0, 0].tolist() == list(range(20))


def test_wrong_class_folders_are_refused(tmp_path, ten_pngs):
    frog = ten_pngs / "train" / "frog"
    (ten_pngs / "train" / "toad").mkdir()
    expected = f"{ten_pngs / 'train' / 'toad'} is not a class of cifar10; remove it from {ten_pngs / 'train'}"
    assert refused("cifar10", ten_pngs, tmp_path) == expected
    (ten_pngs / "train" / "toad").rmdir()
    shutil.rmtree(frog)
    assert refused("cifar10", ten_pngs, tmp_path) == f"{ten_pngs} lacks the folders train/frog"


@pytest.mark.parametrize(
    ("image", "defect"),
    [
        (Image.new("RGB", (33, 32)), "is 33 by 32 pixels; the images of this set are 32 by 32"),
        (Image.new("I;16", (32, 32)), "has more than 8 bits a channel"),
        (None, "is not an image of a known kind"),
    ],
)
def test_a_wrong_image_is_refused_by_name(tmp_path, ten_pngs, image, defect):
    path = ten_pngs / "test" / "frog" / "6_frog.png"
    if image is None:
        path.write_bytes(b"no image")
    else:
        image.save(path)
    assert refused("cifar10", ten_pngs, tmp_path).startswith(f"{path} {defect}")


def test_grey_images_are_converted_and_counted(tmp_path, ten_pngs):
    Image.new("L", (32, 32), 77).save(ten_pngs / "train" / "airplane" / "0_airplane.png")
    found = imported("cifar10", ten_pngs, tmp_path)
    assert found["train"]["images"][0, :, 5, 5].tolist() == [77] * 3
    assert store.verify(tmp_path, "cifar10")["converted"] == {"grey images": 1}


def test_files_without_a_number_or_without_any_png_are_refused(tmp_path, ten_pngs):
    path = ten_pngs / "train" / "ship" / "8_ship.png"
    path.rename(path.with_name("ship.png"))
    assert f"{path.with_name('ship.png')} has no number in its name" in refused("cifar10", ten_pngs, tmp_path)
    for png in ten_pngs.glob("train/*/*.png"):
        png.rename(png.with_suffix(".jpg"))
    assert "holds no .png file; the images of cifar10 must be stored without loss" in refused(
        "cifar10", ten_pngs, tmp_path
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "tiny_imagenet", "imagenet32"])
def test_a_folder_with_something_else_is_refused_with_what_there_must_be(tmp_path, name):
    (tmp_path / "given" / "train" / "cats").mkdir(parents=True)
    expected = f"{tmp_path / 'given'} holds no {name}: there must be {sources.find_source(name).layout}"
    assert refused(name, tmp_path / "given", tmp_path) == expected
    assert not sources.is_present(name, tmp_path)


@pytest.mark.slow
def test_cifar100_is_served_with_fine_or_coarse_labels(root, originals):
    fine, coarse = (Cifar100("cifar100", root=root, labels=labels) for labels in ("fine", "coarse"))
    assert (fine.info.classes, coarse.info.classes) == (FINE, COARSE)
    for split in ("train", "test"):
        assert torch.equal(fine.arrays(split).images, coarse.arrays(split).images)
        assert fine.arrays(split).labels.tolist() == originals["cifar100"][split]["labels"].tolist()
        assert coarse.arrays(split).labels.tolist() == originals["cifar100"][split]["coarse"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("extra", "thesis"), [("rodent", "rodent"), ("medium_mammals", "small-mammal")])
def test_the_eleventh_class_comes_after_cifar10(root, originals, extra, thesis):
    data = CifarPlusOne("cifar10plus1", extra=extra, root=root)
    assert data.info.classes == (*Cifar10.classes, thesis)
    assert data.info.name == "cifar10plus1"
    for split in ("train", "test"):
        ten, hundred = originals["cifar10"][split], originals["cifar100"][split]
        chosen = hundred["coarse"] == super_class(thesis)
        arrays = data.arrays(split)
        assert arrays.labels.tolist() == [*ten["labels"].tolist(), *[10] * chosen.sum()]
        np.testing.assert_array_equal(arrays.images, np.concatenate([ten["images"], hundred["images"][chosen]]))
        names = {FINE[label] for label in hundred["labels"][chosen]}
        assert names == set(SUPER_CLASSES[COARSE[super_class(extra)]].fine)
    data.prepare_data()
    assert data.origin().keys() == {"cifar10", "cifar100"}


def test_the_choices_of_cifar_are_checked_before_anything_starts(composed):
    assert composed("dataset=cifar10plus1", "dataset.extra=fruit_and_vegetables")["dataset"]["batch_size"] == 128
    with pytest.raises(
        UserError, match=r"^the super-class of CIFAR-100 'rodents' does not exist; did you mean rodent\?"
    ):
        composed("dataset=cifar10plus1", "dataset.extra=rodents")
    with pytest.raises(
        UserError, match=r"^dataset.labels must be one of fine, coarse; got 'corse'; did you mean coarse"
    ):
        composed("dataset=cifar100", "dataset.labels=corse")


# --- SVHN ----------------------------------------------------------------------------------------------------------


def write_mat(path, images, digits, **changed):
    """A file as it was published: images [32, 32, 3, N] in Fortran order, labels [N, 1] with 10 for a zero."""
    from scipy.io import savemat

    labels = np.where(digits == 0, 10, digits)[:, None].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"X": images.transpose(2, 3, 1, 0), "y": labels, **changed}
    savemat(path, {key: value for key, value in content.items() if value is not None}, do_compression=True)


@pytest.fixture
def svhn(tmp_path, originals):
    """Real pixels in SVHN's form."""
    expected = {
        part: {"images": arrays["images"][:60], "labels": arrays["labels"][:60]}
        for part, arrays in originals["cifar10"].items()
    }
    for part, arrays in expected.items():
        write_mat(tmp_path / "SVHN" / f"{part}_32x32.mat", arrays["images"], arrays["labels"])
    return tmp_path / "SVHN", expected


def test_svhn_is_read_with_zero_as_zero(tmp_path, svhn):
    folder, expected = svhn
    assert {0, 9} <= set(expected["train"]["labels"].tolist())
    assert sources.is_present("svhn", tmp_path)
    assert_equal(imported("svhn", folder, tmp_path), expected)
    manifest = store.verify(tmp_path, "svhn")
    assert manifest["info"]["classes"] == list("0123456789")
    assert manifest["source"]["verified"] is False
    assert manifest["source"]["md5"].keys() == {"train", "test"}


def test_the_extra_part_of_svhn_is_joined_when_it_is_there(tmp_path, svhn):
    folder, expected = svhn
    write_mat(folder / "extra_32x32.mat", expected["test"]["images"][:7], expected["test"]["labels"][:7])
    data = PreparedDataModule("svhn", root=tmp_path, train=["train", "extra"])
    assert len(data.arrays("train")) == 67
    assert data.arrays("train").labels[60:].tolist() == expected["test"]["labels"][:7].tolist()


def test_only_the_published_files_of_svhn_are_downloaded():
    remotes = sources.find_source("svhn").remotes
    assert {remote.name: remote.checksum for remote in remotes} == {
        f"{part}_32x32.mat": f"md5:{SVHN_MD5[part]}" for part in ("train", "test")
    }


@pytest.mark.parametrize(
    ("changed", "defect"),
    [
        ({"y": np.array([[0], [1]], np.uint8)}, "has the label 0; labels are 1 to 10"),
        ({"y": np.array([[11], [1]], np.uint8)}, "has the label 11; labels are 1 to 10"),
        ({"y": np.array([[1.5], [1]])}, "holds float64 [2] as labels; they are whole numbers"),
        ({"y": np.array([[1], [1], [1]], np.uint8)}, "has 3 labels for 2 images"),
        ({"y": None}, "lacks y; it has X"),
        ({"X": np.zeros((32, 32, 2, 3), np.uint8)}, "holds uint8 [32, 32, 2, 3] as X"),
        ({"X": np.zeros((32, 32, 3, 2))}, "holds float64 [32, 32, 3, 2] as X"),
        ({"X": np.array([["a", "b"]], object)}, "holds object [1, 2] as X"),
    ],
)
def test_wrong_arrays_of_svhn_are_refused(tmp_path, svhn, changed, defect):
    folder, _ = svhn
    path = folder / "test_32x32.mat"
    write_mat(path, np.zeros((2, 3, 32, 32), np.uint8), np.array([1, 2]), **changed)
    assert refused("svhn", folder, tmp_path).startswith(f"{path} {defect}")


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file" + bytes(105) + b"\0\x02IM" + bytes(99), "half"])
def test_a_damaged_file_of_svhn_is_refused(tmp_path, svhn, content):
    folder, _ = svhn
    path = folder / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    assert refused("svhn", folder, tmp_path).startswith(f"{path} cannot be read as a MATLAB 5 file: ")


def test_a_missing_part_of_svhn_is_named(tmp_path, svhn):
    (svhn[0] / "test_32x32.mat").unlink()
    assert refused("svhn", svhn[0], tmp_path) == f"{svhn[0]} lacks test_32x32.mat"


# --- Tiny-ImageNet -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tiny_imagenet_gives_the_original_pixels_and_labels(root, shared_data):
    with np.load(shared_data / "tiny_imagenet" / "tiny_imagenet200_subset.npz") as pack:
        facts = {key: pack[key] for key in pack.files}
    numbers = np.array([int(re.search(r"_(\d+)\.", name).group(1)) for name in facts["files"]])
    for number, part in enumerate(("train", "val")):
        rows = np.flatnonzero(facts["split"] == number)
        rows = rows[np.lexsort((numbers[rows], facts["labels"][rows] if part == "train" else 0 * rows))]
        found = store.open_part(root, "tiny_imagenet", part)
        np.testing.assert_array_equal(found["labels"], facts["labels"][rows])
        for image, row in zip(found["images"], rows, strict=True):
            jpeg = facts["jpeg"][facts["offsets"][row] : facts["offsets"][row + 1]].tobytes()
            np.testing.assert_array_equal(
                image, np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).transpose(2, 0, 1)
            )
    manifest = store.verify(root, "tiny_imagenet")
    assert manifest["info"]["classes"][:2] == ["goldfish", "European fire salamander"]
    assert len(set(manifest["info"]["classes"])) == 200
    assert manifest["converted"]["grey images"] > 0


WNIDS = ["n01443537", "n01629819", "n01641577"]


@pytest.fixture
def tiny(laid_out, tmp_path):
    """Three classes of the real set in its layout; wnids.txt is not sorted, as in the published set."""
    source, folder = laid_out / "tiny-imagenet-200", tmp_path / "tiny-imagenet-200"
    for wnid in WNIDS:
        shutil.copytree(source / "train" / wnid, folder / "train" / wnid)
    (folder / "wnids.txt").write_text("\n".join(WNIDS[::-1]) + "\n")
    shutil.copy(source / "words.txt", folder)
    (folder / "val" / "images").mkdir(parents=True)
    listed = (source / "val" / "val_annotations.txt").read_text().splitlines()
    kept = [line for line in listed if line.split("\t")[1] in WNIDS]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(kept) + "\n")
    for line in kept:
        shutil.copy(source / "val" / "images" / line.split("\t")[0], folder / "val" / "images")
    return folder


def test_labels_of_tiny_imagenet_are_places_among_the_sorted_wnids(tmp_path, tiny):
    found = imported("tiny_imagenet", tiny, tmp_path)
    assert found["train"]["labels"].tolist() == [0] * 28 + [1] * 28 + [2] * 28
    first = np.asarray(Image.open(tiny / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_10.JPEG").convert("RGB"))
    np.testing.assert_array_equal(found["train"]["images"][10], first.transpose(2, 0, 1))


@pytest.mark.parametrize("deep", [True, False])
def test_val_in_class_folders_is_the_same_set(tmp_path, tiny, deep):
    expected = imported("tiny_imagenet", tiny, tmp_path / "published")
    for line in (tiny / "val" / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        to = tiny / "val" / wnid / "images" if deep else tiny / "val" / wnid
        to.mkdir(parents=True, exist_ok=True)
        (tiny / "val" / "images" / name).rename(to / name)
    (tiny / "val" / "images").rmdir()
    assert_equal(imported("tiny_imagenet", tiny, tmp_path / "other"), expected)


def test_the_zip_file_of_tiny_imagenet_is_the_same_set(tmp_path, tiny):
    expected = imported("tiny_imagenet", tiny, tmp_path / "published")
    given = tmp_path / "given"
    given.mkdir()
    with zipfile.ZipFile(given / "tiny-imagenet-200.zip", "w") as archive:
        for path in tiny.rglob("*"):
            archive.write(path, path.relative_to(tiny.parent))
    assert_equal(imported("tiny_imagenet", given, tmp_path / "other"), expected)
    source = store.verify(tmp_path / "other", "tiny_imagenet")["source"]
    assert (source["verified"], list(source["md5"])) == (False, ["tiny-imagenet-200.zip"])


def test_classes_of_tiny_imagenet_have_different_names(tmp_path, tiny):
    (tiny / "words.txt").write_text(f"{WNIDS[0]}\tcrane, bird\n{WNIDS[2]}\tcrane\n")
    imported("tiny_imagenet", tiny, tmp_path)
    data = PreparedDataModule("tiny_imagenet", root=tmp_path, test=["val"])
    assert data.info.classes == (f"crane ({WNIDS[0]})", WNIDS[1], f"crane ({WNIDS[2]})")


def _val_image(tiny):
    return min((tiny / "val" / "images").iterdir())


def _cut(tiny):
    path = tiny / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_3.JPEG"
    path.write_bytes(path.read_bytes()[:700])


def _sixteen_bits(tiny):
    Image.new("I;16", (64, 64)).save(tiny / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_3.JPEG", "PNG")


def _too_large(tiny):
    Image.new("RGB", (64, 72)).save(tiny / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_3.JPEG")


def _empty_class(tiny):
    for path in (tiny / "train" / WNIDS[1] / "images").iterdir():
        path.unlink()


def _annotate(line):
    def change(tiny):
        with (tiny / "val" / "val_annotations.txt").open("a") as file:
            file.write(line)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tiny: (tiny / "val" / "val_annotations.txt").unlink(), "val lacks val_annotations.txt, which has the "),
        (lambda tiny: shutil.rmtree(tiny / "val"), "lacks the folder val"),
        (
            lambda tiny: shutil.rmtree(tiny / "train" / WNIDS[1]),
            f"train lacks the folder {WNIDS[1]} of a class in wnids",
        ),
        (
            lambda tiny: (tiny / "wnids.txt").write_text("cats\n"),
            "wnids.txt holds 'cats'; it should have one wnid a line",
        ),
        (lambda tiny: (tiny / "wnids.txt").write_bytes(b"\xff\xfe"), "wnids.txt is not a text file"),
        (
            lambda tiny: (tiny / "wnids.txt").write_text(f"{WNIDS[0]}\n" * 2),
            "wnids.txt has 2 lines, 1 of them different",
        ),
        (_empty_class, f"{WNIDS[1]} holds no images; there must be some of each class"),
        (_cut, f"{WNIDS[1]}_3.JPEG is damaged: "),
        (_sixteen_bits, f"{WNIDS[1]}_3.JPEG has more than 8 bits a channel"),
        (_too_large, f"{WNIDS[1]}_3.JPEG is 64 by 72 pixels; the images of this set are 64 by 64"),
        (_annotate(f"val_99999.JPEG\t{WNIDS[0]}\t0\t0\t1\t1\n"), "val_99999.JPEG, which is not there"),
        (_annotate("val_1.JPEG\tn09999999\t0\t0\t1\t1\n"), "val_annotations.txt has the line 'val_1.JPEG"),
        (lambda tiny: shutil.copy(_val_image(tiny), tiny / "val" / "images" / "val_99999.JPEG"), "has no class for "),
        (lambda tiny: _val_image(tiny).rename(tiny / "val" / "images" / "val_x.JPEG"), "val_annotations.txt "),
    ],
)
def test_a_wrong_tiny_imagenet_is_refused_in_one_sentence(tmp_path, tiny, change, message):
    change(tiny)
    assert message in refused("tiny_imagenet", tiny, tmp_path)


# --- ImageNet at 32x32 ---------------------------------------------------------------------------------------------


IMAGENET32 = [f"train_data_batch_{i}" for i in range(1, 11)]


def write_imagenet32(folder, end="", skip=()):
    """Small batches in its form: labels from 1, validation in a folder of its own."""
    random = np.random.default_rng(0)
    expected = {"train": ([], []), "val": ([], [])}
    for number, name in enumerate([*IMAGENET32, "val_data"]):
        data = random.integers(0, 256, (3 + number, 3072), dtype=np.uint8)
        labels = random.integers(1, 1001, 3 + number)
        labels[0] = (1, 1000)[number % 2]
        to = folder / ("Imagenet32_val" if name == "val_data" else "Imagenet32_train") / f"{name}{end}"
        to.parent.mkdir(parents=True, exist_ok=True)
        if name not in skip and end:
            np.savez(to, data=data, labels=labels, mean=data.mean(0))
        elif name not in skip:
            to.write_bytes(pickle.dumps({"data": data, "labels": labels.tolist(), "mean": data.mean(0)}))
        images, numbers = expected["val" if name == "val_data" else "train"]
        images.append(data.reshape(-1, 3, 32, 32))
        numbers.append(labels - 1)
    return {
        part: {"images": np.concatenate(images), "labels": np.concatenate(labels)}
        for part, (images, labels) in expected.items()
    }


@pytest.mark.parametrize("end", ["", ".npz"])
def test_imagenet32_is_read_in_the_order_of_its_batches(tmp_path, end):
    expected = write_imagenet32(tmp_path / "Imagenet32", end)
    assert sources.is_present("imagenet32", tmp_path)
    found = imported("imagenet32", tmp_path / "Imagenet32", tmp_path)
    assert_equal(found, expected)
    assert found["train"]["labels"].dtype == np.int16
    data = PreparedDataModule("imagenet32", root=tmp_path, test=["val"])
    assert data.info.classes == tuple(map(str, range(1000)))
    assert len(data.arrays("test")) == 13


def test_classes_of_imagenet32_are_named_by_the_map_beside_it(tmp_path):
    write_imagenet32(tmp_path / "given")
    names = ["kit_fox", *(f"thing_{i}" for i in range(2, 1000)), "kit_fox"]
    rows = [f"n{i:08d} {i} {name}" for i, name in enumerate(names, 1)]
    (tmp_path / "given" / "map_clsloc.txt").write_text("\n".join(rows[::-1]) + "\n")
    imported("imagenet32", tmp_path / "given", tmp_path)
    classes = store.verify(tmp_path, "imagenet32")["info"]["classes"]
    assert (classes[0], classes[1], classes[999]) == ("kit fox (n00000001)", "thing 2", "kit fox (n00001000)")
    (tmp_path / "given" / "map_clsloc.txt").write_text("\n".join(rows[1:]) + "\n")
    with pytest.raises(UserError, match=r"map_clsloc.txt should have a line such as 'n02119789 1 kit_fox' for each"):
        sources.import_dataset("imagenet32", tmp_path / "given", tmp_path)


def test_missing_batches_of_imagenet32_are_all_named(tmp_path):
    write_imagenet32(tmp_path / "given", skip=("train_data_batch_3", "train_data_batch_10", "val_data"))
    assert refused("imagenet32", tmp_path / "given", tmp_path) == (
        f"{tmp_path / 'given'} lacks train_data_batch_3, train_data_batch_10, val_data (pickled or .npz); "
        "imagenet32 is imported as a whole"
    )
    assert ImageNet32.remotes == ()


@pytest.mark.parametrize("label", [0, 1001])
def test_labels_of_imagenet32_are_1_to_1000(tmp_path, label):
    write_imagenet32(tmp_path / "given", ".npz")
    path = tmp_path / "given" / "Imagenet32_train" / "train_data_batch_7.npz"
    np.savez(path, data=np.zeros((2, 3072), np.uint8), labels=np.array([5, label]))
    expected = f"{path} has the label {label}; labels are 1 to 1000"
    assert refused("imagenet32", tmp_path / "given", tmp_path) == expected


# --- a user's own .npz file ----------------------------------------------------------------------------------------


def save(folder, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "my.npz", **arrays)
    return folder / "my.npz"


def grey(count, seed=0, shape=(8, 8)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count, classes=3):
    return np.arange(count) % classes


@pytest.mark.parametrize(
    ("x", "y", "parts"),
    [("x_{}", "y_{}", ["train", "test"]), ("{}_images", "{}_labels", ["train", "val", "test"])],
)
def test_the_names_of_keras_and_of_medmnist_are_known(tmp_path, x, y, parts):
    arrays = {part: (grey(9, number), labels(9)[:, None]) for number, part in enumerate(parts)}
    keys = {x.format(part): images for part, (images, _) in arrays.items()}
    keys |= {y.format(part): numbers for part, (_, numbers) in arrays.items()}
    found = imported("npz", save(tmp_path / "given", **keys).parent, tmp_path)
    assert_equal(
        found,
        {part: {"images": images[:, None], "labels": numbers[:, 0]} for part, (images, numbers) in arrays.items()},
    )
    assert found["train"]["labels"].dtype == np.uint8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [True, False])
def test_channels_may_come_first_or_last(tmp_path, channels, last):
    images = grey(30, shape=(channels, 6, 7))
    given = images.transpose(0, 2, 3, 1) if last else images
    path = save(tmp_path / "given", images=given, labels=labels(30), classes=np.array(["a", "b", "c"]))
    data = PreparedDataModule("npz", root=tmp_path, path=str(path.parent))
    assert data.info.shape == (channels, 6, 7)
    assert data.info.classes == ("a", "b", "c")
    test = occurrence_in_class(torch.from_numpy(labels(30))) % 5 == 2  # as for digits
    for split, chosen in (("train", ~test), ("test", test)):
        arrays = data.arrays(split)
        np.testing.assert_array_equal(arrays.images, images[chosen.numpy()])
        np.testing.assert_array_equal(arrays.labels, labels(30)[chosen.numpy()])


def test_a_split_by_name_is_followed(tmp_path):
    parts = np.array(["train", "val", "test", "train"] * 3)
    path = save(tmp_path / "given", images=grey(12), labels=labels(12), split=parts)
    found = imported("npz", path.parent, tmp_path)
    for part in ("train", "val", "test"):
        np.testing.assert_array_equal(found[part]["images"][:, 0], grey(12)[parts == part])


def test_another_or_a_changed_file_is_another_set(tmp_path):
    path = save(tmp_path / "given", images=grey(30), labels=labels(30))
    (first,) = {sources.find_source("npz").at(path).name for _ in range(2)}
    assert re.fullmatch(r"npz-[0-9a-f]{10}", first)
    before = PreparedDataModule("npz", root=tmp_path, path=str(path.parent)).arrays("test").images.clone()
    save(tmp_path / "given", images=255 - grey(30), labels=labels(30))
    after = PreparedDataModule("npz", root=tmp_path, path=str(path.parent)).arrays("test").images
    assert torch.equal(after, 255 - before)
    assert sources.find_source("npz").at(path).name != first
    assert sources.find_source("npz").name == "npz"


GOOD = {"images": grey(30), "labels": labels(30)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": grey(30) / 255}, "images is float64 [30, 8, 8]; images are uint8"),
        ({"images": grey(30) / 255}, "if they are in [0, 1], save (255 * x).round().astype(np.uint8)"),
        ({"images": grey(30).astype(np.int32)}, "images is int32 [30, 8, 8]; images are uint8"),
        ({"images": grey(30, shape=(8, 8, 2))}, "images is uint8 [30, 8, 8, 2]; images are uint8"),
        ({"images": grey(30, shape=(3, 8, 3))}, "so its channels may come first or last"),
        ({"images": grey(30)[0, 0]}, "images is uint8 [8]; images are uint8"),
        ({"labels": labels(30) / 1}, "labels is float64 [30]; labels are whole numbers [N] or [N, 1]"),
        ({"labels": np.eye(3, dtype=int)[labels(30)]}, "labels is int64 [30, 3]; labels are whole numbers"),
        ({"labels": labels(30) - 1}, "labels has the label -1; labels are 0 to 32767"),
        ({"labels": labels(29)}, "has 29 labels for 30 images"),
        ({"classes": np.array(["a", "b"])}, "has the label 2; labels are 0 to 1"),
        ({"classes": np.array(["a", "b", "a"])}, "classes is <U1 [3]; it must be one name for each class"),
        ({"classes": np.array([1, 2, 3])}, "classes is int64 [3]; it must be one name for each class"),
        (
            {"classes": np.array(["a", None, "b"], object)},
            "cannot be read as an .npz file of plain arrays: Object arrays",
        ),
        ({"split": np.arange(30) % 2}, "split is int64 [30]; it must be train, val or test for each"),
        ({"split": np.array(["train", "test"])}, "split is <U5 [2]; it must be train, val or test for each"),
        ({"split": np.array(["train"] * 30)}, "has no images for test: add some, as x_test and y_test or by split"),
        (
            {"images": grey(6), "labels": labels(6)},
            "has no images for test: of each class it is the third, the eighth, ..., and none has three; add some",
        ),
        (
            {"labels": labels(30) + 1, "classes": np.array(["a", "b", "c"])},
            "has the labels 1 to 3 and 3 names of classes, which count from 0: subtract 1 from the labels",
        ),
        (
            {"x_train": grey(3), "y_train": labels(3)},
            "holds images and x_train, two names of the images of one part; keep one",
        ),
        (
            {"x_valid": grey(3), "y_valid": labels(3), "validation_images": grey(3), "validation_labels": labels(3)},
            "holds x_valid and validation_images, two names of the images of one part",
        ),
        (
            {"x_test": grey(3), "y_test": labels(3), "split": np.array(["train"] * 30)},
            "tells the parts of images twice: by split, and by x_test; keep one of them",
        ),
        ({"x_test": grey(3)}, "lacks y_test; it has images, labels, x_test"),
        ({"labels": None}, "lacks labels; it has images"),
        ({"images": None, "x": grey(3)}, "holds labels, x; name the arrays x_train"),
    ],
)
def test_a_wrong_npz_file_is_refused_with_the_way_out(tmp_path, arrays, message):
    path = save(tmp_path / "given", **{key: value for key, value in {**GOOD, **arrays}.items() if value is not None})
    said = refused("npz", path.parent, tmp_path)
    assert str(path) in said
    assert message in said


@pytest.mark.parametrize(("given", "named"), [([1, 2, 10], "1 2 10"), ([0, 5, 3], "0 3 5"), ([2, 0, 1], "0 1 2")])
def test_classes_without_names_are_the_labels_that_occur(tmp_path, given, named):
    numbers = np.array(given)[labels(30)]
    path = save(tmp_path / "given", images=grey(30), labels=numbers)
    data = PreparedDataModule("npz", root=tmp_path, path=str(path))
    assert data.info.classes == tuple(named.split())
    for split in ("train", "test"):
        arrays = data.arrays(split)
        test = (occurrence_in_class(torch.from_numpy(numbers)) % 5 == 2).numpy()
        expected = numbers[test if split == "test" else ~test]
        assert [int(data.info.classes[label]) for label in arrays.labels] == expected.tolist()


def test_parts_may_be_spelt_in_different_ways(tmp_path):
    path = save(
        tmp_path / "given",
        images=grey(9),
        labels=labels(9),
        X_test=grey(4, 1),
        y_test=labels(4),
        valid_images=grey(3, 2),
        valid_labels=labels(3),
        extra=grey(1),
        y_extra=labels(1),
    )
    found = imported("npz", path.parent, tmp_path)
    assert {part: len(arrays["images"]) for part, arrays in found.items()} == {"train": 9, "val": 3, "test": 4}
    np.testing.assert_array_equal(found["test"]["images"][:, 0], grey(4, 1))
    (sentence,) = sentences(store.verify(tmp_path, "npz")["remarks"])
    assert sentence == "2 arrays are left out, as their names mean nothing (extra, y_extra)"


def test_classes_without_an_image_to_test_on_and_files_without_any_are_named(tmp_path):
    arrays = {"x_train": grey(9), "y_train": labels(9), "x_val": grey(4), "y_val": labels(4, 2)}
    path = save(tmp_path / "given", **arrays)
    data = PreparedDataModule("npz", root=tmp_path, path=str(path))
    with pytest.raises(UserError, match=r"has no images to test on; name some x_test, or .*dataset.test=\[val\]"):
        data.arrays("test")
    save(tmp_path / "given", **arrays, x_test=grey(4), y_test=labels(4, 2))
    assert PreparedDataModule("npz", root=tmp_path, path=str(path)).remarks() == [
        "dataset=npz: 1 class has no image to test on (2)"
    ]


def test_parts_of_different_sizes_are_refused(tmp_path):
    path = save(tmp_path / "given", x_train=grey(9), y_train=labels(9), x_test=grey(9, shape=(9, 8)), y_test=labels(9))
    expected = f"{path} has images of [1, 8, 8] and [1, 9, 8] in its parts; they must be of one size"
    assert refused("npz", path.parent, tmp_path) == expected


@pytest.mark.parametrize("content", [b"", b"no zip file", pickle.dumps([1, 2, 3]), "half"])
def test_a_damaged_npz_file_is_refused(tmp_path, content):
    path = save(tmp_path / "given", **GOOD)
    path.write_bytes(path.read_bytes()[:1000] if content == "half" else content)
    assert refused("npz", path.parent, tmp_path).startswith(f"{path} cannot be read as an .npz file of plain arrays: ")


def test_what_is_no_npz_file_is_refused(tmp_path):
    (tmp_path / "given").mkdir()
    for path, what in (
        ("given", "holds 0 .npz files"),
        ("none.npz", "does not exist"),
        ("a.npy", "is not an .npz file"),
    ):
        (tmp_path / "a.npy").write_bytes(b"")
        with pytest.raises(UserError, match=f"^{tmp_path / path} {what}; give the .npz file as dataset.path$"):
            sources.find_source("npz").at(tmp_path / path)


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "fixture"), [("cifar10", "ten_pngs"), ("tiny_imagenet", "tiny"), ("npz", None)])
def test_what_systems_and_links_add_to_a_folder_changes_nothing(request, tmp_path, name, fixture):
    folder = request.getfixturevalue(fixture) if fixture else save(tmp_path / "given", **GOOD).parent
    for images in folder.glob("train/*/images"):
        for path in sorted(images.iterdir())[2:]:  # two of a class are enough
            path.unlink()
    expected = imported(name, folder, tmp_path / "data")
    assert_equal(imported(name, cluttered(folder, tmp_path / "copy" / folder.name), tmp_path / "other"), expected)


@pytest.mark.parametrize(
    "name",
    ["mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "tiny_imagenet", "imagenet32", "npz"],
)
def test_each_source_has_a_configuration_that_asks_for_its_parts(composed, name):
    checked = composed(f"dataset={name}")["dataset"]
    source = sources.find_source(name)
    assert {*checked["train"], *checked["test"]} <= (source.images.keys() or {"train", "test"})
    assert source.facts()["images"] == dict(source.images)


def test_listing_these_sources_loads_neither_torch_nor_what_reads_their_files():
    code = (
        "import sys; from trust_exp.data.sources import cifar, imagenet32, mnist, npz, svhn, tiny_imagenet; "
        "print([name for name in ('torch', 'scipy', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
