"""Sets of photographs with a class each: real samples where they lie beside the checkout, and folders with defects."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, features
from scipy.io import savemat

from trust_exp.data import store
from trust_exp.data.remarks import sentences
from trust_exp.data.sources import ensure, find_source, import_dataset
from trust_exp.data.sources.caltech import split
from trust_exp.data.stream import StreamDataModule
from trust_exp.errors import UserError
from trust_exp.schema import CONF


@pytest.fixture(scope="session")
def samples(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    script = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, script, "--to", folder, "caltech101", "imagenet_samples"], check=True)
    return folder


def write_image(path: Path, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 100 if mode == "L" else (100, 50, 20)).save(path)


def write_classes(folder: Path, **classes: int) -> Path:
    for name, count in classes.items():
        for number in range(count):
            write_image(folder / name / f"image_{number:04d}.jpg")
    return folder


def names(root: Path, name: str, part: str) -> list[str]:
    return [os.fsdecode(path) for path in store.open_part(root, name, part)["paths"]]


def check_refused(name: str, folder: Path, root: Path, message: str) -> None:
    """Importing the folder fails with one sentence, and leaves nothing."""
    with pytest.raises(UserError, match=message) as refused:
        import_dataset(name, folder, root)
    assert "\n" not in str(refused.value)
    assert not store.is_prepared(root, name)
    assert not [path for path in (root / "prepared").iterdir() if path.suffix != ".lock"]


# --- anyone's folder -----------------------------------------------------------------------------------------------


def test_parts_of_a_folder_have_many_names_and_files_that_are_no_images_are_counted(tmp_path):
    folder = tmp_path / "mine"
    for part in ("Train", "validation", "test"):
        write_classes(folder / part, cat=2, dog=1)
    write_image(folder / "Train" / "cat" / "deeper" / "grey.png", mode="L")
    write_image(folder / "Train" / "cat" / ".hidden.png")
    (folder / "Train" / ".cache").mkdir()
    (folder / "Train" / "dog" / "Thumbs.db").touch()
    import_dataset("folder", folder, tmp_path)
    manifest = store.verify(tmp_path, "folder")
    assert manifest["info"]["classes"] == ["cat", "dog"]
    assert manifest["converted"] == {"grey images": 1}
    assert sentences(manifest["remarks"]) == [
        "3 hidden or system files and folders are left out (.cache, .hidden.png, Thumbs.db)"
    ]
    assert store.parts(manifest) == ["test", "train", "val"]
    train = store.open_part(tmp_path, "folder", "train")
    assert names(tmp_path, "folder", "train") == [
        "Train/cat/deeper/grey.png",
        "Train/cat/image_0000.jpg",
        "Train/cat/image_0001.jpg",
        "Train/dog/image_0000.jpg",
    ]
    assert train["labels"].tolist() == [0, 0, 0, 1]
    assert train["sizes"].tolist() == [[9, 12]] * 4


def test_val_is_tested_on_where_there_is_no_test(tmp_path):
    for part in ("train", "val"):
        write_classes(tmp_path / "mine" / part, cat=1)
    import_dataset("folder", tmp_path / "mine", tmp_path)
    assert names(tmp_path, "folder", "test") == ["val/cat/image_0000.jpg"]


def test_of_classes_alone_every_fifth_image_is_for_testing(tmp_path):
    import_dataset("folder", write_classes(tmp_path / "mine", cat=11, dog=5, emu=4), tmp_path)
    tested = ["cat/image_0004.jpg", "cat/image_0009.jpg", "dog/image_0004.jpg"]
    assert names(tmp_path, "folder", "test") == tested
    assert len(names(tmp_path, "folder", "train")) == 17


def test_one_image_a_class_is_a_set_without_a_part_to_test_on(samples, tmp_path):
    manifest = ensure(find_source("folder").at(samples / "imagenet_samples"), tmp_path, samples / "imagenet_samples")
    assert store.parts(manifest) == ["train"]
    assert len(manifest["info"]["classes"]) == 1000
    assert store.open_part(tmp_path, manifest["name"], "train")["labels"].tolist() == list(range(1000))


def test_every_folder_is_a_set_of_its_own_and_a_changed_one_another(tmp_path):
    ours, theirs = write_classes(tmp_path / "ours", cat=5), write_classes(tmp_path / "theirs", cat=5)
    source = find_source("folder")
    before = source.at(ours).name
    assert before.startswith("folder-")
    assert before == source.at(ours).name != source.at(theirs).name
    (ours / "cat" / "note.txt").touch()
    assert source.at(ours).name == before
    write_image(ours / "cat" / "image_0000.jpg", (12, 10))
    assert source.at(ours).name != before
    assert source.name == "folder"


DEFECTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda f: f.mkdir(), "holds no images; it must hold train/<class>"),
    "loose": (lambda f: write_image(f / "a.png"), "holds images, but no folder of a class"),
    "beside": (lambda f: [write_classes(f, cat=5), write_image(f / "a.png")], "holds a.png beside the folders"),
    "empty class": (lambda f: [write_classes(f, cat=5), (f / "dog").mkdir()], "mine/dog holds no image"),
    "no test": (lambda f: write_classes(f / "train", cat=1), "holds train but nothing to test on"),
    "no train": (
        lambda f: [write_classes(f / part, cat=1) for part in ("test", "val")],
        "holds test but nothing to train on; it needs a folder train$",
    ),
    "part beside classes": (
        lambda f: [write_classes(f, cat=5), write_classes(f / "test", cat=5)],
        "holds test but nothing to train on; .*; beside it is cat: if both are classes, give test another name",
    ),
    "class called train": (
        lambda f: write_classes(f, car=5, train=5),
        "holds train but nothing to test on; .*; beside it is car: if both are classes, give train another name",
    ),
    "unread images only": (
        lambda f: [write_classes(f, cat=5), (f / "dog").mkdir(), (f / "dog" / "a.heic").touch()],
        "mine/dog holds no image that can be read, but .heic .*; convert them, e.g. to PNG",
    ),
    "twice": (
        lambda f: [write_classes(f / part, cat=1) for part in ("train", "val", "valid")],
        "holds val and valid, two names of one part",
    ),
    "missing class": (
        lambda f: [write_classes(f / "train", cat=1, dog=1), write_classes(f / "test", cat=1)],
        "test lacks the class 'dog'",
    ),
    "damaged": (
        lambda f: [write_classes(f, cat=5), (f / "cat" / "image_0002.jpg").write_bytes(b"\xff\xd8\xff")],
        r"mine/cat/image_0002\.jpg is",
    ),
    "16 bits": (
        lambda f: [
            write_classes(f, cat=5),
            Image.fromarray(np.zeros((4, 4), np.uint16)).save(f / "cat" / "x.png"),
        ],
        r"mine/cat/x\.png has more than 8 bits",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_of_a_folder_is_said_in_one_sentence_and_nothing_stays(tmp_path, defect):
    write, message = DEFECTS[defect]
    write(tmp_path / "mine")
    check_refused("folder", tmp_path / "mine", tmp_path / "data", message)


def test_a_folder_must_be_given_and_be_one(tmp_path):
    with pytest.raises(UserError, match=r"needs dataset\.path"):
        find_source("folder").at(None)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        find_source("folder").at(tmp_path / "nowhere")


# --- a folder as people have it --------------------------------------------------------------------------------------


def remarks(root: Path, name: str = "folder") -> list[str]:
    return sentences(store.read_manifest(store.prepared_folder(root, name))["remarks"])


def classes(root: Path, name: str = "folder") -> list[str]:
    return store.read_manifest(store.prepared_folder(root, name))["info"]["classes"]


def served(root: Path, name: str = "folder") -> dict[str, list[str]]:
    """The images of all parts by their class."""
    found: dict[str, list[str]] = {label: [] for label in classes(root, name)}
    for part in store.parts(store.read_manifest(store.prepared_folder(root, name))):
        labels = store.open_part(root, name, part)["labels"].tolist()
        for path, label in zip(names(root, name, part), labels, strict=True):
            found[classes(root, name)[label]].append(path)
    return {label: sorted(paths) for label, paths in found.items()}


def test_links_are_followed_and_each_folder_is_visited_once_where_it_lies(tmp_path):
    folder = write_classes(tmp_path / "mine", cat=3, dog=2)
    write_image(folder / "dog" / "puppies" / "p.jpg")
    write_image(tmp_path / "elsewhere" / "more" / "m.jpg")
    for link, target in {
        "cat/self": ".",
        "cat/up": "..",
        "cat/all": "../..",
        "cat/others": "../dog",
        "cat/small": "../dog/puppies",
        "cat/more": "../../elsewhere",
        "dog/back": "../../elsewhere/more",
    }.items():
        (folder / link).symlink_to(target, target_is_directory=True)
    (tmp_path / "elsewhere" / "home").symlink_to(folder, target_is_directory=True)
    (folder / "mine").symlink_to(".", target_is_directory=True)
    (folder / "above").symlink_to("..", target_is_directory=True)
    import_dataset("folder", folder, tmp_path)
    assert served(tmp_path) == {
        "cat": ["cat/image_0000.jpg", "cat/image_0001.jpg", "cat/image_0002.jpg", "cat/more/more/m.jpg"],
        "dog": ["dog/image_0000.jpg", "dog/image_0001.jpg", "dog/puppies/p.jpg"],
    }
    (sentence,) = [one for one in remarks(tmp_path) if "links lead" in one]
    assert sentence.startswith("9 folders are left out where links lead to them again (")


def test_a_class_may_be_a_link_but_no_two_are_one_folder(tmp_path):
    write_classes(tmp_path / "all", cat=6, dog=6)
    (tmp_path / "mine").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "mine" / name).symlink_to(tmp_path / "all" / name)
    import_dataset("folder", tmp_path / "mine", tmp_path)
    assert {label: len(paths) for label, paths in served(tmp_path).items()} == {"cat": 6, "dog": 6}
    (tmp_path / "mine" / "kitten").symlink_to(tmp_path / "mine" / "cat")
    message = "mine/cat and .*mine/kitten are one folder; a class needs a folder of its own"
    check_refused("folder", tmp_path / "mine", tmp_path / "other", message)


@pytest.mark.parametrize(
    ("train", "test", "val"),
    [("training", "testing", "validate"), ("trn", "tst", "valid"), ("Train", "TEST", "validation")],
)
def test_parts_have_more_names(tmp_path, train, test, val):
    for part in (train, test, val):
        write_classes(tmp_path / "mine" / part, cat=1, dog=1)
    import_dataset("folder", tmp_path / "mine", tmp_path)
    manifest = store.read_manifest(store.prepared_folder(tmp_path, "folder"))
    assert store.counts(manifest) == {"train": 2, "val": 2, "test": 2}
    assert classes(tmp_path) == ["cat", "dog"]
    assert names(tmp_path, "folder", "test")[0].startswith(test)


def test_what_lies_beside_the_parts_is_counted(tmp_path):
    for part in ("train", "test", "dev"):
        write_classes(tmp_path / "mine" / part, cat=1)
    write_image(tmp_path / "mine" / "overview.png")
    (tmp_path / "mine" / "README").touch()
    import_dataset("folder", tmp_path / "mine", tmp_path)
    assert remarks(tmp_path) == ["2 images and folders are left out, as they lie beside the parts (dev, overview.png)"]


CLUTTER = ("@eaDir", "#recycle", "__MACOSX", ".AppleDouble", "lost+found", "$RECYCLE.BIN", "System Volume Information")


def test_what_systems_put_there_is_no_class_and_no_image(tmp_path):
    folder = write_classes(tmp_path / "mine", cat=5, dog=5)
    for place in (folder, folder / "cat", folder / "dog" / "small"):
        for name in CLUTTER:
            write_image(place / name / "SYNOPHOTO_THUMB_M.jpg")
        for name in ("Thumbs.db", "._image_0000.jpg", ".DS_Store", "desktop.ini"):
            (place / name).touch()
    import_dataset("folder", folder, tmp_path)
    assert {label: len(paths) for label, paths in served(tmp_path).items()} == {"cat": 5, "dog": 5}
    assert remarks(tmp_path) == [
        "33 hidden or system files and folders are left out (#recycle, $RECYCLE.BIN, .AppleDouble, .DS_Store, "
        "._image_0000.jpg, ...)"
    ]


def test_a_link_that_leads_nowhere_is_counted(tmp_path):
    folder = write_classes(tmp_path / "mine", cat=5)
    (folder / "cat" / "gone.jpg").symlink_to("nothing.jpg")
    (folder / "cat" / "round.jpg").symlink_to("round.jpg")
    (folder / "dog").symlink_to("nowhere")
    manifest = ensure(find_source("folder").at(folder), tmp_path, folder)
    assert store.counts(manifest) == {"train": 4, "test": 1}
    assert sentences(manifest["remarks"]) == ["3 links are left out, as they lead nowhere (dog, gone.jpg, round.jpg)"]


def test_more_kinds_of_images_are_read_and_others_named(tmp_path):
    folder = write_classes(tmp_path / "mine", cat=3)
    image = Image.new("RGB", (12, 9), (100, 50, 20))
    image.save(folder / "cat" / "a.jfif", "JPEG")
    image.save(folder / "cat" / "b.ppm")
    image.convert("L").save(folder / "cat" / "c.PGM")
    image.convert("1").save(folder / "cat" / "d.pbm", "PPM")
    for name in ("e.heic", "f.HEIC", "g.svg", "h.nef", "i.txt"):
        (folder / "cat" / name).touch()
    import_dataset("folder", folder, tmp_path)
    assert len(served(tmp_path)["cat"]) == 7
    assert remarks(tmp_path) == [
        "1 file that is not an image is left out (i.txt)",
        "4 images are left out, as images of their kinds are not read (.heic, .svg, .nef); convert them, e.g. to PNG",
    ]


def test_avif_is_read_where_pillow_can(tmp_path, monkeypatch):
    folder = write_classes(tmp_path / "mine", cat=5)
    (folder / "cat" / "a.avif").touch()
    monkeypatch.setattr("trust_exp.data.sources.folder.ENDINGS", (".jpg",))  # as of a Pillow that cannot
    monkeypatch.setattr("trust_exp.data.sources.folder.UNREAD", {".avif"})
    import_dataset("folder", folder, tmp_path / "without")
    (sentence,) = remarks(tmp_path / "without")
    assert sentence.startswith("1 image is left out, as images of its kind are not read (.avif); convert it")
    monkeypatch.undo()
    if not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    Image.new("RGB", (12, 9), (100, 50, 20)).save(folder / "cat" / "a.avif")
    import_dataset("folder", folder, tmp_path)
    assert "cat/a.avif" in served(tmp_path)["cat"]


def test_names_that_are_not_utf8_are_served_and_can_be_written(tmp_path):
    folder = write_classes(tmp_path / "mine", dog=5)
    odd = os.fsencode(folder) + b"/caf\xe9"
    os.mkdir(odd)
    for number in range(5):
        shutil.copy(folder / "dog" / "image_0000.jpg", os.fsdecode(odd + b"/%d\xff.jpg" % number))
    import_dataset("folder", folder, tmp_path)
    assert classes(tmp_path) == ["caf\\xe9", "dog"]
    index = store.open_part(tmp_path, "folder", "test")
    assert index["paths"].tolist() == [b"caf\xe9/4\xff.jpg", b"dog/image_0004.jpg"]
    assert (folder / os.fsdecode(index["paths"][0])).is_file()


def test_a_name_in_both_forms_of_unicode_is_one_class(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write_classes(tmp_path / "mine" / "train", **{decomposed: 2})
    write_classes(tmp_path / "mine" / "test", **{composed: 1})
    import_dataset("folder", tmp_path / "mine", tmp_path)
    assert classes(tmp_path) == [composed]
    assert len(names(tmp_path, "folder", "train")) == 2


def test_a_class_without_an_image_to_test_on_is_named(tmp_path):
    import_dataset("folder", write_classes(tmp_path / "mine", cat=5, dog=4, emu=1), tmp_path)
    assert remarks(tmp_path) == ["2 classes have no image to test on (dog, emu)"]


def test_too_few_images_to_split_are_said_when_they_are_asked_for(tmp_path):
    folder = write_classes(tmp_path / "mine", cat=4, dog=4)
    data = StreamDataModule("folder", root=tmp_path / "data", path=str(folder), workers=0)
    assert data.size("train") == 8
    with pytest.raises(UserError, match="mine has no image to test on: it would be every fifth of a class") as refused:
        data.size("test")
    assert "no class has 5 images" in str(refused.value)
    on_train = StreamDataModule("folder", root=tmp_path / "data", path=str(folder), workers=0, test=["train"])
    assert on_train.size("test") == 8


# --- EXIF ------------------------------------------------------------------------------------------------------------

CORNERS = np.full((32, 64, 3), 40, np.uint8)  # a picture whose quarters differ, and are whole blocks of a JPEG
CORNERS[:16, :32], CORNERS[:16, 32:], CORNERS[16:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)


STORED = {  # by EXIF's orientation: how a camera stores it that was held so
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.transpose(1, 0, 2),
    6: np.rot90(CORNERS),
    7: CORNERS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(CORNERS, -1),
}
FINE = {".png": {}, ".tiff": {}, ".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}


def write_turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif, **FINE[path.suffix])


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tiff"])
def test_photographs_stand_upright(tmp_path, ending):
    folder = tmp_path / "mine"
    for label in ("cat", "dog"):
        for orientation in range(1, 9):
            write_turned(folder / "train" / label / f"{orientation}.{ending}", orientation)
            write_turned(folder / "test" / label / f"{orientation}.{ending}", orientation)
    data = StreamDataModule("folder", root=tmp_path / "data", path=str(folder), workers=0, image_size=[32, 64])
    data.prepare_data()
    manifest = data.prepared.manifest
    for part in ("train", "test"):
        assert store.open_part(tmp_path / "data", manifest["name"], part)["sizes"].tolist() == [[32, 64]] * 16
        shown = (data.samples(part, torch.arange(16)).image * 255).round().numpy().transpose(0, 2, 3, 1)
        assert np.abs(shown - CORNERS).max() <= 3  # by JPEG
    turned = 0 if ending == "tiff" else 14 * 2  # PIL turns those of TIFF itself
    assert manifest["converted"].get("images that EXIF turns", 0) == turned


def test_photographs_without_exif_have_the_index_that_they_had(tmp_path):
    import_dataset("folder", write_classes(tmp_path / "mine", cat=5), tmp_path)
    assert sorted(store.open_part(tmp_path, "folder", "train")) == ["labels", "paths", "sizes"]


def test_damaged_exif_says_nothing(tmp_path, recwarn):
    folder = write_classes(tmp_path / "mine", cat=5)
    Image.fromarray(CORNERS).save(folder / "cat" / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\0")
    Image.fromarray(CORNERS).save(folder / "cat" / "b.jpg", exif=b"Exif\0\0no")
    import_dataset("folder", folder, tmp_path)
    assert names(tmp_path, "folder", "train")[:2] == ["cat/a.jpg", "cat/b.jpg"]
    assert not recwarn.list


def test_birds_stay_as_their_boxes_were_drawn(tmp_path):
    folder = write_cub(tmp_path / "CUB_200_2011")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 9)).save(folder / "images" / "001.Black_footed_Albatross" / "a.jpg", exif=exif)
    ensure(find_source("cub200"), tmp_path)
    test = store.open_part(tmp_path, "cub200", "test")
    assert (test["sizes"].tolist(), test["boxes"].tolist()) == ([[9, 12]], [[2, 3, 7, 7]])
    assert "orientation" not in test


@pytest.mark.parametrize("name", ["caltech101", "flowers102", "imagenet"])
def test_published_photographs_stand_upright_too(tmp_path, name):
    write = {
        "caltech101": lambda f: write_classes(f / "101_ObjectCategories", ant=5, bass=5),
        "flowers102": write_flowers,
        "imagenet": lambda f: write_imagenet(f, flat=False),
    }[name]
    write(tmp_path / "files")
    first = min((tmp_path / "files").rglob("*.jpg"), default=None) or min((tmp_path / "files").rglob("*.JPEG"))
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (12, 9)).save(first, "JPEG", exif=exif)
    import_dataset(name, tmp_path / "files", tmp_path)
    manifest = store.read_manifest(store.prepared_folder(tmp_path, name))
    indexes = [store.open_part(tmp_path, name, part) for part in store.parts(manifest)]
    turned = [index["sizes"][index["orientation"] > 1].tolist() for index in indexes]
    assert sorted(turned) == [*[[]] * (len(turned) - 1), [[12, 9]]]


# --- Caltech -------------------------------------------------------------------------------------------------------


def test_a_split_copy_of_caltech101_keeps_its_split(samples, tmp_path):
    import_dataset("caltech101", samples / "caltech101", tmp_path)
    manifest = store.read_manifest(store.prepared_folder(tmp_path, "caltech101"))
    train, test = (store.open_part(tmp_path, "caltech101", part) for part in ("train", "test"))
    assert np.bincount(train["labels"]).tolist() == [8] * 101
    assert np.bincount(test["labels"]).tolist() == [3] * 101
    assert {"Faces", "Faces_easy"} < set(manifest["info"]["classes"])
    assert manifest["source"]["verified"] is False
    assert (train["sizes"].min(1) == 112).all()


@pytest.mark.parametrize("layout", ["101_ObjectCategories", "caltech-101/101_ObjectCategories", "archive"])
def test_caltech101_is_found_where_it_lies_and_has_no_background(tmp_path, layout):
    inside = "caltech-101/101_ObjectCategories" if layout == "archive" else layout
    folder = tmp_path / "caltech101"
    write_classes(folder / inside, BACKGROUND_Google=3, ant=6, bass=5)
    if layout == "archive":
        archive = folder / "caltech-101" / "101_ObjectCategories.tar.gz"
        subprocess.run(["tar", "-czf", archive, "-C", archive.parent, "101_ObjectCategories"], check=True)
        shutil.rmtree(folder / inside)
    ensure(find_source("caltech101"), tmp_path)
    assert store.read_manifest(store.prepared_folder(tmp_path, "caltech101"))["info"]["classes"] == ["ant", "bass"]
    test = names(tmp_path, "caltech101", "test")
    assert [Path(path).name for path in test] == ["image_0000.jpg", "image_0005.jpg", "image_0004.jpg"]
    assert all((folder / path).is_file() for path in test)
    assert len(names(tmp_path, "caltech101", "train")) == 8


def test_caltech256_has_clutter_and_as_many_test_images_as_others_have(tmp_path):
    write_classes(tmp_path / "256_ObjectCategories", **{"001.ak47": 3, "257.clutter": 3})
    import_dataset("caltech256", tmp_path / "256_ObjectCategories", tmp_path)
    manifest = store.read_manifest(store.prepared_folder(tmp_path, "caltech256"))
    assert manifest["info"]["classes"] == ["001.ak47", "257.clutter"]
    parts = split({str(label): [f"{label}"] * 119 for label in range(257)} | {"last": ["x"] * 24})
    counts = {part: sum(map(len, files.values())) for part, files in parts.items()}
    assert counts == {"train": 24_485, "test": 6122} == dict(find_source("caltech256").images)


def test_a_folder_without_caltech_is_refused(tmp_path):
    check_refused("caltech256", write_classes(tmp_path / "x", cat=5), tmp_path / "data", "lacks the folder 256_Object")


# --- ImageNet ------------------------------------------------------------------------------------------------------

WNIDS = ("n01440764", "n01443537", "n02007558")


def write_imagenet(folder: Path, *, flat: bool) -> Path:
    """Two training images of each class, and three images of val: of the last, the first and the second class."""
    write_classes(folder / "train", **dict.fromkeys(WNIDS, 2))
    for number, label in enumerate((2, 0, 1), 1):
        place = folder / "val" if flat else folder / "val" / WNIDS[label]
        write_image(place / f"ILSVRC2012_val_{number:08d}.JPEG")
    return folder


def write_devkit(folder: Path) -> None:
    """Numbers of classes in the opposite order of the wnids; a fourth synset has children, and so is no class."""
    folder.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", float), ("WNID", object), ("num_children", float)]
    rows = [(number, wnid, 0) for number, wnid in enumerate(reversed(WNIDS), 1)]
    savemat(folder / "meta.mat", {"synsets": np.array([*rows, (4, "n00001740", 3)], kind)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n3\n2\n")


def write_solution(folder: Path) -> None:
    rows = [f"ILSVRC2012_val_{number:08d},{WNIDS[label]} 1 2 3 4 " for number, label in enumerate((2, 0, 1), 1)]
    (folder / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]))


@pytest.mark.parametrize("layout", ["folders", "devkit", "kaggle"])
def test_imagenet_gets_the_same_labels_from_every_layout(tmp_path, layout):
    folder = tmp_path / "imagenet"
    write_imagenet(folder / "ILSVRC/Data/CLS-LOC" if layout == "kaggle" else folder, flat=layout != "folders")
    if layout == "devkit":
        write_devkit(folder / "ILSVRC2012_devkit_t12" / "data")
    elif layout == "kaggle":
        write_solution(folder)
    ensure(find_source("imagenet"), tmp_path)
    val = store.open_part(tmp_path, "imagenet", "val")
    labels = dict(
        zip((path[-9:-5] for path in names(tmp_path, "imagenet", "val")), val["labels"].tolist(), strict=True)
    )
    assert labels == {"0001": 2, "0002": 0, "0003": 1}
    assert store.open_part(tmp_path, "imagenet", "train")["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    assert store.read_manifest(store.prepared_folder(tmp_path, "imagenet"))["info"]["classes"] == list(WNIDS)


def test_defects_of_imagenet_are_said(tmp_path):
    folder, root = tmp_path / "imagenet", tmp_path / "data"
    (folder / "train").mkdir(parents=True)
    check_refused("imagenet", folder, root, "lacks the folders train and val")
    write_imagenet(folder, flat=True)
    check_refused("imagenet", folder, root, "not their labels: it lacks LOC_val_solution.csv")
    write_devkit(folder / "devkit")
    truth = folder / "devkit" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n9\n2\n")
    check_refused("imagenet", folder, root, r"ground_truth\.txt, line 2: '9' is not the number of a class")
    truth.write_text("1\n3\n")
    check_refused("imagenet", folder, root, r"ground_truth\.txt has no label for .*val_00000003\.JPEG")
    truth.write_text("1\n3\n3\n")
    check_refused("imagenet", folder, root, "val lacks the class 'n01443537'")
    (folder / "devkit" / "meta.mat").write_bytes(b"nothing")
    check_refused("imagenet", folder, root, r"meta\.mat is not the devkit's list of classes")
    (folder / "devkit" / "meta.mat").unlink()
    check_refused("imagenet", folder, root, r"lacks meta\.mat")


def test_imagenet200_has_the_classes_of_the_thesis(shared_data):
    chosen = yaml.safe_load((CONF / "dataset" / "imagenet200.yaml").read_text())["classes"]
    known = np.load(shared_data / "imagenet_samples" / "imagenet_1per_class_144.npz")
    called = dict(zip(known["wnids"].tolist(), known["names"].tolist(), strict=True))
    assert len(set(chosen)) == 200
    assert chosen == sorted(chosen)
    listed = {called[wnid].lower().replace("_", " ") for wnid in chosen}  # Losch 2024, Fig. A.2
    assert {"goldfinch", "jack-o'-lantern", "school bus", "lorikeet", "manhole cover", "rapeseed", "flamingo"} < listed
    assert {"spatula", "syringe", "drumstick", "hand blower", "lighter", "yellow lady's slipper", "monarch"} < listed


# --- Flowers -------------------------------------------------------------------------------------------------------


def write_flowers(folder: Path, *, labels: tuple[int, ...] = (1, 1, 102, 5), test: tuple[int, ...] = (3, 1)) -> Path:
    for number in range(1, 5):
        write_image(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    savemat(folder / "setid.mat", {"trnid": np.array([[4]]), "valid": np.array([[2]]), "tstid": np.array([test])})
    return folder


def test_the_label_of_a_flower_stands_at_its_own_number(tmp_path):
    write_flowers(tmp_path / "flowers-102")
    manifest = ensure(find_source("flowers102"), tmp_path)
    labels = {part: store.open_part(tmp_path, "flowers102", part)["labels"].tolist() for part in store.parts(manifest)}
    assert labels == {"train": [4], "val": [0], "test": [101, 0]}
    assert names(tmp_path, "flowers102", "test") == ["jpg/image_00003.jpg", "jpg/image_00001.jpg"]
    assert len(manifest["info"]["classes"]) == 102


def test_defects_of_flowers_are_said(tmp_path):
    folder, root = tmp_path / "flowers", tmp_path / "data"
    write_flowers(folder, labels=(1, 1, 103, 5))
    check_refused("flowers102", folder, root, r"imagelabels\.mat: labels must be whole numbers from 1 to 102")
    write_flowers(folder, test=(3, 5))
    check_refused("flowers102", folder, root, r"setid\.mat: tstid must be whole numbers from 1 to 4")
    write_flowers(folder, test=(3, 4))
    check_refused("flowers102", folder, root, r"setid\.mat names 1 images more than once")
    write_flowers(folder)
    (folder / "jpg" / "image_00003.jpg").unlink()
    check_refused("flowers102", folder, root, r"image_00003\.jpg cannot be read")
    (folder / "setid.mat").write_bytes(b"MATLAB")
    check_refused("flowers102", folder, root, r"setid\.mat cannot be read")
    (folder / "setid.mat").unlink()
    check_refused("flowers102", folder, root, r"lacks setid\.mat")
    (folder / "imagelabels.mat").unlink()
    check_refused("flowers102", folder, root, r"lacks imagelabels\.mat and setid\.mat")


# --- Birds ---------------------------------------------------------------------------------------------------------


def write_cub(folder: Path, **tables: str) -> Path:
    content = {
        "images": "1 001.Black_footed_Albatross/a.jpg\n2 001.Black_footed_Albatross/b.jpg\n3 002.Auklet/c.jpg\n",
        "classes": "1 001.Black_footed_Albatross\n2 002.Auklet\n",
        "image_class_labels": "1 1\n2 1\n3 2\n",
        "train_test_split": "1 0\n2 1\n3 1\n",
        "bounding_boxes": "1 2.0 3.0 5.0 4.0\n2 0.0 0.0 12.0 9.0\n3 6.0 5.0 7.0 4.0\n",
    }
    for name, text in (content | tables).items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(text)
    for line in content["images"].splitlines():
        write_image(folder / "images" / line.split()[1])
    return folder


def test_birds_have_their_boxes_cut_to_the_image(tmp_path):
    write_cub(tmp_path / "CUB_200_2011")
    manifest = ensure(find_source("cub200"), tmp_path)
    assert manifest["info"]["classes"] == ["Black_footed_Albatross", "Auklet"]
    train, test = (store.open_part(tmp_path, "cub200", part) for part in ("train", "test"))
    assert train["labels"].tolist() == [0, 1]
    assert train["boxes"].tolist() == [[0, 0, 12, 9], [6, 5, 12, 9]]
    assert test["boxes"].tolist() == [[2, 3, 7, 7]]
    assert names(tmp_path, "cub200", "test") == ["images/001.Black_footed_Albatross/a.jpg"]


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("image_class_labels", "1 1\n2 1\n3 3\n", "image_class_labels.txt: image 3 has 3; expected: 1 to 2"),
        ("train_test_split", "1 0\n2 1\n", "train_test_split.txt and .*images.txt do not match: .* image 3"),
        (
            "bounding_boxes",
            "1 2 3 4\n2 0 0 1 1\n3 0 0 1 1",
            "bounding_boxes.txt: image 1 has '2 3 4'; expected: 4",
        ),
        ("bounding_boxes", "1 20 3 4 4\n2 0 0 1 1\n3 0 0 1 1", "a.jpg the box .*, which has no pixel in it"),
        ("images", "1 a.jpg\n1 b.jpg", "images.txt: the line '1 b.jpg' repeats a number"),
        ("classes", "1\n", "classes.txt: the line '1' has nothing but a number"),
        ("classes", "", "classes.txt is empty"),
    ],
)
def test_defects_of_birds_are_said(tmp_path, table, text, message):
    check_refused("cub200", write_cub(tmp_path / "cub", **{table: text}), tmp_path / "data", message)


def test_birds_without_a_table_or_images_are_refused(tmp_path):
    folder = write_cub(tmp_path / "cub")
    (folder / "classes.txt").unlink()
    check_refused("cub200", folder, tmp_path / "data", re.escape("cub lacks classes.txt"))
    shutil.rmtree(write_cub(folder) / "images")
    check_refused("cub200", folder, tmp_path / "data", "cub lacks the folder images")
