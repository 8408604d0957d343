"""Sources: whole folders of foreign files, of which one is changed."""

import base64
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.harness import Files, Reader
from tests.fuzz.of_formats import BATCH, python2
from tests.fuzz.valid import idx, image, lines, mat, npz, photo, tar, zipped
from trust_exp.data import sources
from trust_exp.data.sources.imagenet32 import read_batch
from trust_exp.data.sources.voc import read_list, read_objects
from trust_exp.data.store import Writer

PHOTO = image(photo())  # 6 by 4 pixels
JPEG = image(photo(), "JPEG")
TINY_JPEG = image(photo(64, 64), "JPEG", quality=30)
IMAGES = (PHOTO, JPEG, TINY_JPEG)  # which are changed as files of their own


class InMemory(Writer):
    """A set that is prepared in memory; what is unpacked on the way goes to a folder."""

    def array(self, part: str, kind: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return self._arrays.setdefault(f"{part}_{kind}", np.zeros(shape, dtype))

    def arrays(self) -> Mapping[str, np.ndarray]:
        return self._arrays


def source(name: str) -> Callable[[Path], None]:
    """Reads a folder as an import would, and checks what it gives."""

    def read(folder: Path) -> None:
        found = sources.find_source(name)
        for value in vars(sys.modules[type(found).__module__]).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()
        into = InMemory(folder.parent / "scratch")
        found.check(folder)
        found.read(folder, into)
        assert into.info is not None
        json.dumps([asdict(into.info), into.source, into.converted], allow_nan=False)
        for key, array in into.arrays().items():
            assert array.dtype.kind in "biufS", key
            if key.endswith("_labels") and found.task == "classification":
                assert array.size
                assert array.min() >= 0
                assert array.max() < len(into.info.classes)
            if key.endswith("_boxes"):
                assert np.isfinite(array).all()

    return read


def of(name: str, *variants: Files, quick: int = 30) -> Reader:
    """A source, of whose files all but the images are changed."""
    fixed = tuple(path for variant in variants for path in variant if variant[path] in IMAGES)
    return Reader(name, source(name), variants, quick, fixed)


def packed(name: str, *variants: Files) -> Reader:
    """A source in an archive, which is unpacked beside what is prepared, or beside itself."""
    return Reader(f"{name} archive", source(name), variants, quick=30, writes=True)


def cifar(coarse: bool) -> Files:
    names = ("train", "test") if coarse else (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    labels = {"fine_labels": [49, 49], "coarse_labels": [10, 10]} if coarse else {"labels": [3, 9]}
    return {name: python2({"data": BATCH["data"], **labels}) for name in names}


def binary(coarse: bool) -> Files:
    label = bytes((10, 49)) if coarse else bytes([3])
    return {f"{name}.bin": label + BATCH["data"][0].tobytes() for name in cifar(coarse)}


MNIST = {
    "train-images-idx3-ubyte": idx(np.zeros((2, 28, 28), np.uint8), 8),
    "train-labels-idx1-ubyte": idx(np.array([0, 9], np.uint8), 8),
    "t10k-images-idx3-ubyte.gz": idx(np.zeros((1, 28, 28), np.uint8), 8, packed=True),
    "t10k-labels-idx1-ubyte.gz": idx(np.array([5], np.uint8), 8, packed=True),
}
SVHN = {
    f"{part}_32x32.mat": mat(packed, X=np.zeros((32, 32, 3, 2), np.uint8), y=np.array([[1], [10]], np.uint8))
    for part, packed in (("train", False), ("test", True))
}
CUB = {
    "images.txt": lines("1 001.Gull/a.jpg", "2 001.Gull/b.jpg", "3 002.Auklet/c.jpg"),
    "classes.txt": lines("1 001.Gull", "2 002.Auklet"),
    "image_class_labels.txt": lines("1 1", "2 1", "3 2"),
    "train_test_split.txt": lines("1 0", "2 1", "3 1"),
    "bounding_boxes.txt": lines("1 2.0 3.0 5.0 4.0", "2 0.0 0.0 12.0 9.0", "3 1.0 1.0 3.0 2.0"),
    **{f"images/{name}.jpg": JPEG for name in ("001.Gull/a", "001.Gull/b", "002.Auklet/c")},
}
FLOWERS = {
    "imagelabels.mat": mat(labels=np.array([[1, 1, 102, 5]], np.uint8)),
    "setid.mat": mat(True, trnid=np.array([[4]]), valid=np.array([[2]]), tstid=np.array([[3, 1]])),
    **{f"jpg/image_{number:05d}.jpg": JPEG for number in range(1, 5)},
}
WNIDS = ("n01440764", "n01443537")
SYNSETS = np.array(
    [(1, WNIDS[1], 0), (2, WNIDS[0], 0), (3, "n00001740", 2)],
    [("ILSVRC2012_ID", float), ("WNID", object), ("num_children", float)],
)
IMAGENET = {f"train/{wnid}/{wnid}_1.JPEG": JPEG for wnid in WNIDS} | {
    f"val/ILSVRC2012_val_{number:08d}.JPEG": JPEG for number in (1, 2)
}
DEVKIT = {
    "devkit/meta.mat": mat(synsets=SYNSETS),
    "devkit/ILSVRC2012_validation_ground_truth.txt": lines("1", "2"),
}
SOLUTION = {
    "LOC_val_solution.csv": lines(
        "ImageId,PredictionString",
        *(f"ILSVRC2012_val_{number:08d},{wnid} 1 2 3 4 " for number, wnid in enumerate(WNIDS, 1)),
    )
}
TINY = {
    "wnids.txt": lines(*WNIDS),
    "words.txt": lines(f"{WNIDS[0]}\ttench, Tinca tinca", f"{WNIDS[1]}\tgoldfish"),
    "val/val_annotations.txt": lines(f"val_0.JPEG\t{WNIDS[1]}\t0\t0\t9\t9", f"val_1.JPEG\t{WNIDS[0]}\t0\t0\t9\t9"),
    **{f"train/{wnid}/images/{wnid}_0.JPEG": TINY_JPEG for wnid in WNIDS},
    **{f"val/images/val_{number}.JPEG": TINY_JPEG for number in (0, 1)},
}
ANNOTATION = lines(
    "<annotation><folder>VOC2007</folder><filename>a.jpg</filename>",
    "<size><width>6</width><height>4</height><depth>3</depth></size>",
    "<object><name>dog</name><difficult>0</difficult>",
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>4</ymax></bndbox></object>",
    "<object><name>cat</name><difficult>1</difficult>",
    "<bndbox><xmin>2.5</xmin><ymin>1</ymin><xmax>6</xmax><ymax>3</ymax></bndbox></object></annotation>",
)
VOC = {
    "VOC2007/ImageSets/Main/trainval.txt": lines("a", "b"),
    "VOC2007/ImageSets/Main/test.txt": lines("c"),
    **{f"VOC2007/Annotations/{name}.xml": ANNOTATION for name in "abc"},
    **{f"VOC2007/JPEGImages/{name}.jpg": JPEG for name in "abc"},
}


def label_map(*numbers: int) -> bytes:
    return image(np.resize(np.array(numbers, np.uint8), (4, 6)))


CAMVID = {
    "train/a.png": PHOTO,
    "trainannot/a.png": label_map(0, 10, 11),
    "test/b.png": PHOTO,
    "testannot/b.png": label_map(3),
}
CITYSCAPES = {
    "leftImg8bit/train/ulm/ulm_0_leftImg8bit.png": PHOTO,
    "gtFine/train/ulm/ulm_0_gtFine_labelIds.png": label_map(0, 7, 26, 255),
    "leftImg8bit/val/bonn/bonn_0_leftImg8bit.jpg": JPEG,
    "gtFine/val/bonn/bonn_0_gtFine_labelIds.png": label_map(33),
}
SHAPES = [
    {"label": "body", "shape_type": "polygon", "points": [[0, 0], [4, 0.5], [4, 3]]},
    {"label": "wheel", "shape_type": "circle", "points": [[2, 2], [2, 3]]},
    {"label": "window", "shape_type": "rectangle", "points": [[1, 1], [3, 2]]},
]
LABELME = {"version": "4.0.0", "imagePath": "a.png", "imageHeight": 4, "imageWidth": 6, "shapes": SHAPES}
EMBEDDED = {**LABELME, "imagePath": "gone.png", "imageData": base64.b64encode(PHOTO).decode()}
PARTS = {"a.json": json.dumps(LABELME).encode(), "b.json": json.dumps(EMBEDDED).encode(), "a.png": PHOTO}


def colours(*numbers: int) -> bytes:
    """A map of Broden: red + 256 green."""
    labels = np.resize(np.array(numbers), (2, 3))
    return image(np.stack([labels % 256, labels // 256, 0 * labels], 2).astype(np.uint8))


BRODEN = {
    "index.csv": lines(
        "image,split,ih,iw,sh,sw,color,object,part,scene",
        "a.jpg,train,4,6,2,3,a_color.png,a_object.png,a_part1.png;a_part2.png,5",
        "b.jpg,val,4,6,2,3,1,,,5",
    ),
    "category.csv": lines(
        "name,first,last,count,frequency", *(f"{kind},1,9,1,1" for kind in ("color", "object", "part", "scene"))
    ),
    "label.csv": lines("number,name,category", "1,red-c,c", "2,car,o", "3,wheel,p", "300,door,p", "5,street,s"),
    "c_color.csv": lines("code,number,name,frequency,coverage", "1,1,red-c,1,0.5"),
    "c_object.csv": lines("code,number,name,frequency,coverage", "1,2,car,1,0.5", "2,3,wheel,1,0.1"),
    "c_part.csv": lines("code,number,name,frequency,coverage", "1,3,wheel,1,0.25", "2,300,door,1,0.5"),
    "c_scene.csv": lines("code,number,name,frequency,coverage", "1,5,street,1,0.5"),
    "images/a.jpg": JPEG,
    "images/b.jpg": JPEG,
    "images/a_color.png": colours(0, 1),
    "images/a_object.png": colours(2, 2, 0),
    "images/a_part1.png": colours(0, 3, 300),
    "images/a_part2.png": colours(0, 0, 3),
}


def structures(**fields: Any) -> np.ndarray:
    return np.array([[tuple(fields.values())]], [(name, object) for name in fields])


MASK = np.resize(np.array([0, 1], np.uint8), (4, 6))
ANNO = structures(objects=structures(**{"class": "car", "parts": structures(part_name="wheel_1", mask=MASK)}))
ADE = {"filename": np.array(["one.jpg"], object), "folder": np.array(["train"], object)}
BASE = "broden_dataset"
BRODEN_PLUS = {
    "meta_file/material.csv": lines("label,name", "0,-", "1,brick"),
    "meta_file/object_part_hierarchy.csv": lines(
        "object_label,object_name,part_labels,part_names", "13,car,0;4,-;wheel", "6,person,0;2,-;head"
    ),
    "meta_file/label_assignment.csv": lines(
        "dataset,category,raw_label,raw_name,broden_label,broden_name",
        *("ade20k,object,401,x,13,car", "ade20k,part,148,x,4,wheel", "pascal,object,59,car,13,car"),
        *("pascal,part,6,wheel,4,wheel", "os,material,3,brick,1,brick"),
    ),
    f"{BASE}/ade20k/index_ade20k.mat": mat(index=ADE),
    f"{BASE}/ade20k/train/one.jpg": JPEG,
    f"{BASE}/ade20k/train/one_seg.png": image(np.full((4, 6, 3), (10, 145, 0), np.uint8)),
    f"{BASE}/ade20k/train/one_parts_1.png": image(np.full((4, 6, 3), (0, 148, 0), np.uint8)),
    f"{BASE}/pascal/part/part2ind.m": lines(
        "function pimap = part2ind()", "pimap{6}(sprintf('wheel_%d',ii)) = 20 + ii;"
    ),
    f"{BASE}/pascal/JPEGImages/p.jpg": JPEG,
    f"{BASE}/pascal/context/trainval/p.mat": mat(LabelMap=np.full((4, 6), 59, np.uint16)),
    f"{BASE}/pascal/part/Annotations_Part/p.mat": mat(anno=ANNO),
    f"{BASE}/opensurfaces/photos.csv": lines("photo_id,name", "77,x"),
    f"{BASE}/opensurfaces/photos/77.jpg": JPEG,
    f"{BASE}/opensurfaces/photos-labels/77.png": image(np.full((4, 6, 3), (3, 0, 0), np.uint8)),
    "meta_file/broden_ade20k_pascal_train.json": lines(
        *(json.dumps({"dataset": kind, "file_index": 0, "height": 4, "width": 6}) for kind in ("ade20k", "pascal"))
    ),
    "meta_file/broden_os_train.json": lines(json.dumps({"dataset": "os", "file_index": 0, "height": 4, "width": 6})),
}
CALTECH = {f"101_ObjectCategories/{name}/image_{number}.jpg": JPEG for name in ("ant", "bass") for number in (1, 2, 3)}
DEFECTS = {
    **{f"train/good/{number}.png": PHOTO for number in range(3)},
    "test/good/0.png": PHOTO,
    "test/crack/0.png": PHOTO,
    "test/crack/1.png": PHOTO,
    "ground_truth/crack/0_mask.png": image(np.resize(np.array([0, 255], np.uint8), (4, 6))),
}
FOLDER = {f"{part}/{name}/1.png": image(photo()) for part in ("train", "test") for name in ("a", "b")}
OWN = {
    "x_train": np.zeros((3, 5, 5), np.uint8),
    "y_train": np.array([0, 1, 1]),
    "x_test": np.zeros((1, 5, 5), np.uint8),
    "y_test": np.array([[1]]),
}
SPLIT = {
    "images": np.zeros((6, 3, 4, 4), np.uint8),
    "labels": np.array([0, 1, 2, 0, 1, 2]),
    "classes": np.array(["a", "b", "c"]),
    "split": np.array(["train", "test", "val"] * 2),
}
NAMES = {"map_clsloc.txt": lines(*(f"n{number:08d} {number} name_{number % 900}" for number in range(1, 1001)))}


def names32(folder: Path) -> None:
    from trust_exp.data.sources.imagenet32 import class_names

    assert len(set(class_names([folder / "val_data"]))) == 1000


def objects(folder: Path) -> None:
    found = read_objects(folder / "a.xml", 4, 6)
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 2:] <= (6, 4)).all()


READERS = (
    of("mnist", MNIST, quick=1000),
    of("cifar10", cifar(False), binary(False), quick=1000),
    of("cifar100", cifar(True), binary(True), quick=1000),
    packed(
        "cifar10",
        {"cifar-10-python.tar.gz": tar({f"b/{name}": inside for name, inside in cifar(False).items()}, packed=True)},
        {"cifar-10-binary.tar.gz": tar(binary(False), packed=True)},
    ),
    of("svhn", SVHN),
    Reader("npz file", source("npz"), [{"a.npz": npz(**OWN)}, {"a.npz": npz(True, **SPLIT)}]),
    Reader(
        "imagenet32 batch",
        lambda folder: [read_batch(path) for path in folder.iterdir()],
        [{"b": python2(BATCH)}, {"b.npz": npz(**BATCH)}, {"b.npz": npz(True, **BATCH)}],
    ),
    Reader("imagenet32 names", names32, [NAMES], quick=50),
    Reader("voc annotation", objects, [{"a.xml": ANNOTATION}]),
    Reader("voc list", lambda folder: read_list(folder / "list.txt"), [{"list.txt": lines("000001", "000002")}]),
    of("voc", VOC),
    of("cub200", CUB, quick=1000),
    of("flowers102", FLOWERS, quick=1000),
    Reader("caltech101", source("caltech101"), [CALTECH], quick=30),
    packed("caltech101", {"101_ObjectCategories.tar.gz": tar(CALTECH, packed=True)}),
    of("imagenet", IMAGENET | DEVKIT, IMAGENET | SOLUTION),
    of("tiny_imagenet", TINY),
    packed(
        "tiny_imagenet",
        {"tiny-imagenet-200.zip": zipped({f"tiny-imagenet-200/{name}": inside for name, inside in TINY.items()})},
    ),
    of("camvid", CAMVID),
    of("cityscapes", CITYSCAPES),
    of("cityscapes_parts", PARTS),
    of("broden", BRODEN),
    of("broden_plus", BRODEN_PLUS),
    Reader("folder", source("folder"), [FOLDER], quick=30),
    Reader("anomaly_folder", source("anomaly_folder"), [DEFECTS], quick=30),
)
