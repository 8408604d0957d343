"""Pascal VOC: the real sample where it lies beside the checkout, and devkits that are not as they should be."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trust_exp.data import store
from trust_exp.data.provenance import split_facts
from trust_exp.data.sources import import_dataset
from trust_exp.data.sources.voc import CLASSES, Voc, find_lists, read_objects
from trust_exp.data.stream import StreamDataModule
from trust_exp.data.subset import write_index
from trust_exp.errors import UserError

OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>
<xmax>{2}</xmax><ymax>{3}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"""
SIZE = "<size><width>{0}</width><height>{1}</height><depth>3</depth></size>"


def annotation(*objects: str, size: str = SIZE.format(40, 30)) -> str:
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def an_object(*corners: float, name: str = "dog", difficult: int = 0) -> str:
    return OBJECT.format(*corners, name=name, difficult=difficult)


DOG = an_object(1, 1, 40, 30)


def write_devkit(folder: Path, lists: dict[str, str], annotations: dict[str, str]) -> Path:
    """A devkit of black images of 40x30 pixels."""
    for name in ("ImageSets/Main", "JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    for name, text in lists.items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    for name, text in annotations.items():
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    return folder


@pytest.fixture
def devkit(tmp_path):
    lists = {"train": "a\n", "val": "b\n", "trainval": "a\nb\n"}
    annotations = {"a": annotation(DOG, an_object(3, 4, 5, 6, name="cat", difficult=1)), "b": annotation()}
    return write_devkit(tmp_path / "VOCdevkit" / "VOC2007", lists, annotations)


@pytest.fixture(scope="module")
def sample(shared_data, tmp_path_factory):
    """The folder of the real sample: 300 images of the test of 2007."""
    folder = tmp_path_factory.mktemp("voc")
    unpack = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, unpack, "--to", folder, "voc2007"], check=True, capture_output=True)
    return folder


def test_the_real_sample_has_the_boxes_of_its_files(sample, tmp_path):
    import_dataset("voc", sample, tmp_path)
    index = store.open_part(tmp_path, "voc", "2007_test")
    assert (len(index["paths"]), len(index["boxes"]), int(index["difficult"].sum())) == (300, 947, 182)
    assert np.unique(index["boxlabels"]).tolist() == list(range(20))
    ends = index["boxcount"].cumsum()
    for row in range(300):
        path = sample / index["paths"][row].decode()
        text = (path.parents[1] / "Annotations" / f"{path.stem}.xml").read_text()
        with Image.open(path) as image:
            assert index["sizes"][row].tolist() == [image.height, image.width]
        own = slice(ends[row] - index["boxcount"][row], ends[row])
        expected = [objects_of(text, word) for word in ("name", "difficult", "xmin", "ymin", "xmax", "ymax")]
        assert [CLASSES[label] for label in index["boxlabels"][own]] == expected[0]
        assert index["difficult"][own].tolist() == [word == "1" for word in expected[1]]
        left, top, right, bottom = index["boxes"][own].T
        for found, words, shift in zip((left, top, right, bottom), expected[2:], (1, 1, 0, 0), strict=True):
            assert (found + shift).tolist() == [float(word) for word in words]


def objects_of(text: str, tag: str) -> list[str]:
    return re.findall(f"<{tag}>(.*?)</{tag}>", "".join(re.findall("<object>.*?</object>", text, re.S)))


def test_each_list_is_a_part_with_its_own_boxes(devkit, tmp_path):
    import_dataset("voc", tmp_path / "VOCdevkit", tmp_path / "root")
    assert store.parts(store.read_manifest(tmp_path / "root" / "prepared" / "voc")) == [
        "2007_train",
        "2007_trainval",
        "2007_val",
    ]
    index = store.open_part(tmp_path / "root", "voc", "2007_trainval")
    assert index["paths"].tolist() == [b"VOC2007/JPEGImages/a.jpg", b"VOC2007/JPEGImages/b.jpg"]
    assert index["boxcount"].tolist() == [2, 0]
    assert index["boxes"].tolist() == [[0, 0, 40, 30], [2, 3, 5, 6]]
    assert index["boxlabels"].tolist() == [CLASSES.index("dog"), CLASSES.index("cat")]
    assert index["difficult"].tolist() == [False, True]
    empty = store.open_part(tmp_path / "root", "voc", "2007_val")
    assert {kind: array.shape for kind, array in empty.items() if "box" in kind} == {
        "boxes": (0, 4),
        "boxlabels": (0,),
        "boxcount": (1,),
    }


@pytest.fixture
def boxes(devkit, tmp_path):
    parts = {"train": ["2007_train"], "val": ["2007_val"], "test": ["2007_trainval"]}
    root = tmp_path / "root"
    import_dataset("voc", devkit, root)
    return StreamDataModule("voc", task="detection", root=root, image_size=[30, 40], workers=0, **parts)


def test_boxes_are_no_class_for_each_image(boxes):
    for method in (boxes.labels, boxes.whole_labels, boxes.served_labels):
        with pytest.raises(UserError, match=r"^dataset=voc has boxes, not a class for each image$"):
            method("train")


def test_the_facts_of_boxes_change_with_a_box(boxes):
    facts = boxes.sample_facts()
    assert (facts["name"], facts["samples"], facts["source"]) == ("voc", 1, boxes.origin())
    moved = [array.copy() for array in boxes.label_arrays("train")]
    assert split_facts("voc", *moved)["labels"] == facts["labels"]
    for array in moved:
        before, array[-1] = array[-1].copy(), 0
        assert (split_facts("voc", *moved)["labels"] != facts["labels"]) == bool((before != 0).any())
        array[-1] = before


def test_images_with_boxes_have_a_validation_part_or_hold_some_out(boxes, devkit, tmp_path):
    assert [boxes.size(split) for split in boxes.splits] == [1, 1, 2]
    assert next(iter(boxes.eval_loader("val"))).label.tolist() == [[]]  # b.jpg has no box
    options = {"task": "detection", "root": tmp_path / "root", "image_size": [30, 40], "workers": 0}
    held = StreamDataModule("voc", train=["2007_trainval"], test=["2007_val"], hold_out=0.5, **options)
    assert (held.size("train"), held.size("val")) == (1, 1)
    assert sorted([*held.served("train").tolist(), *held.served("val").tolist()]) == [0, 1]
    batch = next(iter(held.eval_loader("val")))
    assert torch.equal(batch.index, held.served("val"))
    assert batch.boxes.shape == (1, 2, 4)


def test_an_index_file_chooses_among_images_with_boxes(boxes, devkit, tmp_path):
    options = {"task": "detection", "root": tmp_path / "root", "image_size": [30, 40], "workers": 0}
    parts = {"train": ["2007_trainval"], "test": ["2007_val"]}
    facts = StreamDataModule("voc", **parts, **options).sample_facts()
    write_index(tmp_path / "chosen.txt", torch.tensor([1]), facts)
    chosen = StreamDataModule("voc", index_file=str(tmp_path / "chosen.txt"), **parts, **options)
    assert chosen.served("train").tolist() == [1]


@pytest.mark.parametrize(
    ("given", "inside"), [("VOC2007", "."), ("any", "VOC2007"), ("any", "kit/VOC2007"), ("any", "archive/kit/VOC2007")]
)
def test_a_devkit_is_found_where_people_have_it(devkit, tmp_path, given, inside):
    to = tmp_path / given / inside
    to.parent.mkdir(parents=True, exist_ok=True)
    devkit.rename(to)
    assert set(find_lists(tmp_path / given)) == {"2007_train", "2007_val", "2007_trainval"}


def test_archives_unpacked_apart_are_one_set(tmp_path):
    for part, name in (("train", "a"), ("test", "b")):
        write_devkit(tmp_path / part / "VOCdevkit" / "VOC2007", {part: name}, {name: annotation(DOG)})
    assert set(find_lists(tmp_path)) == {"2007_train", "2007_test"}


def test_a_list_that_is_there_twice_is_refused(tmp_path):
    for folder in ("one", "two"):
        write_devkit(tmp_path / folder / "VOC2007", {"test": "a"}, {"a": annotation(DOG)})
    with pytest.raises(UserError, match=r"holds 2007_test twice \(.*one/.*, .*two/.*\); give a folder that holds one$"):
        find_lists(tmp_path)


def test_the_lists_of_2012_without_boxes_are_left_out(tmp_path):
    write_devkit(tmp_path / "VOC2012", {"val": "a", "test": "b"}, {"a": annotation(DOG)})
    assert set(find_lists(tmp_path)) == {"2012_val"}


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda kit: (kit / "ImageSets").rename(kit / "Sets"), "lacks a list of images such as"),
        (lambda kit: (kit / "Annotations").rename(kit / "XML"), "VOC2007 lacks the folder Annotations"),
        (lambda kit: (kit / "Annotations" / "b.xml").unlink(), "b.xml cannot be read (No such file or directory)"),
        (lambda kit: (kit / "JPEGImages" / "b.jpg").unlink(), "b.jpg cannot be read: No such file or directory"),
        (lambda kit: (kit / "JPEGImages" / "b.jpg").write_bytes(b"\xff\xd8\xff" + bytes(90)), "b.jpg is"),
        (lambda kit: (kit / "ImageSets" / "Main" / "val.txt").write_text(""), "val.txt names no image at all"),
        (lambda kit: (kit / "ImageSets" / "Main" / "val.txt").write_text("b\nb"), "val.txt names 1 images twice"),
        (
            lambda kit: Image.new("RGB", (30, 40)).save(kit / "JPEGImages" / "b.jpg"),
            "an image of 40x30; the image has 30x40",
        ),
    ],
    ids=["no list", "no folder", "no annotation", "no image", "damaged image", "empty list", "twice", "other size"],
)
def test_a_broken_devkit_is_one_sentence_and_leaves_nothing(devkit, tmp_path, break_it, sentence):
    break_it(devkit)
    with pytest.raises(UserError, match=re.escape(sentence)) as refused:
        import_dataset("voc", tmp_path / "VOCdevkit", tmp_path / "root")
    assert "\n" not in str(refused.value)
    assert not store.is_prepared(tmp_path / "root", "voc")


BOMB = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>' + annotation(DOG).replace("dog", "&c;")
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///anywhere">]>' + annotation(DOG).replace("dog", "&b;")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            annotation(an_object(1, 1, 43, 30)),
            "a.xml has a box outside its image of 40x30: xmin 1, ymin 1, xmax 43, ymax 30",
        ),
        (annotation(an_object(-1, 1, 40, 30)), "a.xml has a box outside its image"),
        (annotation(an_object(9, 1, 8, 30)), "a.xml has an empty box: xmin 9, ymin 1, xmax 8, ymax 30"),
        (annotation(an_object("nan", 1, 8, 30)), "a.xml needs a number as xmin of its bndbox; got 'nan'"),
        (annotation(DOG.replace("xmax", "xmux")), "a.xml needs a number as xmax of its bndbox; got None"),
        (annotation("<object><name>dog</name></object>"), "a.xml has an object without bndbox"),
        (annotation(an_object(1, 1, 2, 2, name="dig")), "a.xml: the class 'dig' does not exist; did you mean dog?"),
        (annotation(DOG, size=SIZE.format(41, 30)), "a.xml is of an image of 41x30; the image has 40x30"),
        (annotation(DOG)[:50], "a.xml is not well-formed XML"),
        (annotation(DOG) + " " * 2**20, "a.xml is longer than 1048576 bytes"),
        (BOMB, "a.xml has a document type"),
        (OUTSIDE, "a.xml has a document type"),
    ],
    ids=["right", "left", "empty", "nan", "corner", "box", "class", "size", "cut", "long", "bomb", "entity"],
)
def test_an_annotation_that_cannot_be_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=re.escape(sentence)) as refused:
        read_objects(tmp_path / "a.xml", 30, 40)
    assert "\n" not in str(refused.value)


def test_a_document_type_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="UTF-16"?>{BOMB}'.encode("utf-16"))
    with pytest.raises(UserError, match="has a document type"):
        read_objects(tmp_path / "a.xml", 30, 40)


def test_a_box_that_rounding_moved_out_is_cut(tmp_path):
    (tmp_path / "a.xml").write_text(annotation(an_object(0, 1.5, 40, 31), DOG))
    objects = read_objects(tmp_path / "a.xml", 30, 40)
    assert objects.boxes.tolist() == [[0, 0.5, 40, 30], [0, 0, 40, 30]]
    assert objects.clipped == 1


def test_the_archives_are_those_of_the_thesis():
    assert sum(Voc.images[part] for part in ("2007_trainval", "2012_trainval")) == 16551
    assert Voc.megabytes == round(sum(remote.bytes for remote in Voc.remotes) / 1e6)
