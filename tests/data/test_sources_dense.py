import base64
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.io import savemat

from tests.data.clutter import cluttered
from trust_exp.data import sources, store
from trust_exp.data.config import NOTHING, UNKNOWN
from trust_exp.data.sources.broden_plus import STREET, STREET_MATERIALS, STREET_PARTS, _plain
from trust_exp.data.sources.camvid import UNLABELLED
from trust_exp.data.sources.cityscapes import CLASSES
from trust_exp.data.sources.label_maps import put_labels
from trust_exp.errors import UserError

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="session")
def samples(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    tool = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run(
        [sys.executable, tool, "--to", folder, "camvid", "cityscapes_sample"], check=True, capture_output=True
    )
    return folder


def prepared(name, folder, root):
    manifest = store.read_manifest(sources.import_dataset(name, folder, root))
    parts = {part: store.open_part(root, name, part) for part in store.parts(manifest)}
    return manifest, parts


def refused(name, folder, root, *words):
    with pytest.raises(UserError) as error:
        sources.import_dataset(name, folder, root)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)
    assert not store.is_prepared(root, name)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)


def photo(height, width):
    return RANDOM.integers(0, 256, (height, width, 3), np.uint8)


# --- labels that overlap -------------------------------------------------------------------------------------------


def test_layers_hold_every_label_of_a_pixel_once():
    layers = [np.full((5, 6), NOTHING, np.int16)]
    given = RANDOM.integers(-2, 3, (7, 5, 6)).astype(np.int16)
    for labels in given:
        put_labels(layers, labels)
    for y, x in np.ndindex(5, 6):
        held = [layer[y, x] for layer in layers if layer[y, x] >= 0]
        assert sorted(held) == sorted(set(given[:, y, x].tolist()) - {-1, -2})
    assert len(layers) == max(len(set(given[:, y, x].tolist()) - {-1, -2}) for y, x in np.ndindex(5, 6))


# --- CamVid --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "counts"), [("camvid", (367, 101, 233)), ("camvid_480x360", (40, 10, 20))])
def test_camvid_is_read_as_it_is(samples, tmp_path, folder, counts):
    manifest, parts = prepared("camvid", samples / folder, tmp_path)
    assert [len(parts[part]["images"]) for part in ("train", "val", "test")] == list(counts)
    assert len(manifest["info"]["classes"]) == UNLABELLED
    for part in parts:
        images, maps = (sorted((samples / folder / name).iterdir()) for name in (part, f"{part}annot"))
        for row in range(0, len(images), 37):
            numbers = np.array(Image.open(maps[row]))
            expected = np.array([*range(11), UNKNOWN])[numbers]
            assert np.array_equal(parts[part]["labels"][row], expected)
            assert np.array_equal(parts[part]["images"][row], np.array(Image.open(images[row])).transpose(2, 0, 1))


@pytest.fixture
def camvid(tmp_path):
    folder = tmp_path / "CamVid"
    for part, name in (("train", "a"), ("train", "b"), ("test", "c")):
        save(folder / part / f"{name}.png", photo(6, 8))
        save(folder / f"{part}annot" / f"{name}.png", RANDOM.integers(0, 12, (6, 8), np.uint8))
    return folder


def test_camvid_is_found_below_the_folder_that_is_given(camvid, tmp_path):
    _, parts = prepared("camvid", camvid.parent, tmp_path / "data")
    assert {part: len(arrays["labels"]) for part, arrays in parts.items()} == {"train": 2, "test": 1}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "trainannot/b.png").unlink(), ["train/b.png", "no label map"]),
        (lambda f: (f / "train/b.png").unlink(), ["trainannot/b.png", "no image"]),
        (lambda f: save(f / "trainannot/b.png", np.full((6, 8), 12, np.uint8)), ["b.png has the label 12", "0 to 11"]),
        (lambda f: save(f / "trainannot/b.png", np.zeros((6, 9), np.uint8)), ["trainannot/b.png", "9x6", "8x6"]),
        (lambda f: save(f / "trainannot/b.png", photo(6, 8)), ["trainannot/b.png", "one number a pixel"]),
        (lambda f: save(f / "test/c.png", photo(6, 9)), ["test/c.png", "9 by 6"]),
        (lambda f: (f / "test/c.png").write_bytes(b"no image"), ["test/c.png"]),
        (lambda f: [(f / "test/c.png").unlink(), (f / "test").rmdir()], ["lacks the folder test"]),
    ],
)
def test_a_damaged_camvid_is_refused(camvid, tmp_path, damage, words):
    damage(camvid)
    refused("camvid", camvid, tmp_path / "data", *words)


# --- Cityscapes ----------------------------------------------------------------------------------------------------


def test_the_sample_of_cityscapes_has_the_classes_of_the_benchmark(samples, tmp_path):
    folder = samples / "cityscapes"
    manifest, parts = prepared("cityscapes", folder, tmp_path)
    assert list(parts) == ["train"]
    arrays = parts["train"]
    assert arrays["sizes"].tolist() == [[512, 1024]] * 8
    assert len(manifest["info"]["classes"]) == 19
    expected = {number: place for place, number in enumerate(CLASSES)}
    for row in range(0, 8, 3):
        assert (folder / arrays["paths"][row].decode()).is_file()
        (served,) = sources.find_source("cityscapes").maps(folder, arrays["maps"][row])
        name = arrays["maps"][row, 0].decode()
        assert name.split("/")[-1].split("_gtFine")[0] in arrays["paths"][row].decode()
        numbers = np.array(Image.open(folder / name))
        for number in np.unique(numbers):
            assert (served[numbers == number] == expected.get(int(number), UNKNOWN)).all()


@pytest.fixture
def cityscapes(tmp_path):
    folder = tmp_path / "cityscapes"
    for place, split, kind in (
        ("leftImg8bit_trainvaltest", "train", "gtFine"),
        ("leftImg8bit_trainvaltest", "val", "gtFine"),
        ("leftImg8bit_trainextra", "train_extra", "gtCoarse"),
    ):
        for stem in ("ulm_000001_000019", "ulm_000002_000019"):
            save(folder / place / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png", photo(4, 8))
            labels = np.resize(np.array([*range(34), 255], np.uint8), (4, 8))
            save(folder / kind / kind / split / "ulm" / f"{stem}_{kind}_labelIds.png", labels)
    return folder


def test_cityscapes_may_lie_in_the_folders_of_its_archives(cityscapes, tmp_path):
    _, parts = prepared("cityscapes", cityscapes, tmp_path / "data")
    assert {part: len(arrays["paths"]) for part, arrays in parts.items()} == {"train": 2, "val": 2, "train_extra": 2}
    assert b"gtCoarse" in parts["train_extra"]["maps"][0, 0]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda image, _: image.unlink(), ["labelIds.png has no image ulm_000001_000019_leftImg8bit.png"]),
        (lambda _, labels: labels.unlink(), ["leftImg8bit.png has no label map ulm_000001_000019_gtFine_labelIds.png"]),
        (lambda _, labels: save(labels, np.full((4, 8), 40, np.uint8)), ["labelIds.png has the label 40", "0 to 33"]),
        (lambda _, labels: save(labels, np.zeros((4, 4), np.uint8)), ["4x4", "8x4"]),
        (lambda image, _: image.write_bytes(image.read_bytes()[:60]), ["000001_000019_leftImg8bit.png"]),
        (lambda image, _: save(image.with_suffix(".jpg"), photo(4, 8)), ["is there twice"]),
    ],
)
def test_a_damaged_cityscapes_is_refused(cityscapes, tmp_path, damage, words):
    (image,) = cityscapes.glob("*/leftImg8bit/train/ulm/ulm_000001*")
    (labels,) = cityscapes.glob("*/gtFine/train/ulm/ulm_000001*")
    damage(image, labels)
    refused("cityscapes", cityscapes, tmp_path / "data", *words)


@pytest.mark.parametrize("missing", ["leftImg8bit", "gtFine"])
def test_cityscapes_needs_images_and_labels(tmp_path, missing):
    (tmp_path / {"leftImg8bit": "gtFine", "gtFine": "leftImg8bit"}[missing]).mkdir()
    refused("cityscapes", tmp_path, tmp_path / "data", missing)


# --- Broden --------------------------------------------------------------------------------------------------------

LABELS = {1: "red-c", 2: "car", 3: "wheel", 4: "fabric", 5: "dotted", 6: "street-s", 300: "door", 301: "striped"}
# Of each category: number and coverage. Fabric is a material mainly, and door a part; both are objects too.
CATEGORIES = {
    "color": {1: 9.0},
    "object": {2: 5.0, 4: 0.5, 300: 1.0},
    "part": {3: 2.0, 300: 4.0},
    "material": {4: 3.5},
    "scene": {6: 1.0},
    "texture": {5: 1.0, 301: 2.0},
}
KINDS = ("color", "object", "part", "material", "texture")


def write_table(path, columns, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([columns, *(",".join(map(str, row)) for row in rows)]) + "\n")


def encoded(numbers):
    return np.stack([numbers % 256, numbers // 256, np.zeros_like(numbers)], axis=2).astype(np.uint8)


@pytest.fixture
def broden(tmp_path):
    """Three images of 8x8 with maps of 4x4, in the layout of broden1_224, and the numbers in each cell."""
    root = tmp_path / "broden" / "broden1_224"
    cells = [
        {"color": [[0, 1]], "object": [[0, 2, 4, 300]], "part": [[0, 3, 300], [0, 3, 300]]},
        {"color": [[0, 1]], "texture": [5, 301]},
        {"color": [[1]], "material": [[0, 4]], "object": [[2, 4]]},
    ]
    rows, numbers = [], []
    for at, cell in enumerate(cells):
        save(root / "images" / "ade20k" / f"{at}.jpg", photo(8, 8))
        row, own = [f"ade20k/{at}.jpg", ("train", "train", "val")[at], 8, 8, 4, 4], {}
        for kind in ("color", "object", "part", "material", "scene", "texture"):
            texts, own[kind] = [], []
            for channel, choice in enumerate(cell.get(kind, [])):
                if isinstance(choice, int):
                    own[kind].append(np.full((4, 4), choice))
                    texts.append(str(choice))
                else:
                    own[kind].append(RANDOM.choice(choice, (4, 4)))
                    texts.append(f"ade20k/{at}_{kind}_{channel + 1}.png")
                    save(root / "images" / texts[-1], encoded(own[kind][-1]))
            row.append(";".join(texts) if kind != "scene" else 6)
        rows.append(row)
        numbers.append(own)
    write_table(root / "index.csv", "image,split,ih,iw,sh,sw,color,object,part,material,scene,texture", rows)
    write_table(root / "category.csv", "name,first,last,count,frequency", [(kind, 1, 9, 1, 1) for kind in CATEGORIES])
    write_table(
        root / "label.csv",
        "number,name,category,frequency,coverage,syns",
        [(number, name, "object(1)", 1, 1.0, "") for number, name in LABELS.items()],
    )
    for kind, own in CATEGORIES.items():
        listed = [(code, number, LABELS[number], 1, cover) for code, (number, cover) in enumerate(own.items(), 1)]
        write_table(root / f"c_{kind}.csv", "code,number,name,frequency,coverage", listed)
    return tmp_path / "broden", numbers


def kind_of(number):
    return max((own[number], kind) for kind, own in CATEGORIES.items() if number in own)[1]


def test_broden_keeps_every_label_of_a_pixel_under_its_main_category(broden, tmp_path):
    folder, numbers = broden
    manifest, parts = prepared("broden", folder, tmp_path / "data")
    layers = manifest["info"]["layers"]
    assert {(layer["kind"], name) for layer in layers for name in layer["concepts"]} == {
        (kind_of(number), name) for number, name in LABELS.items() if number != 6
    }
    rows = [(parts["train"], 0, 0), (parts["train"], 1, 1), (parts["val"], 0, 2)]
    needed = dict.fromkeys(KINDS, 1)
    for arrays, row, at in rows:
        maps = sources.find_source("broden").maps(folder, arrays["maps"][row])
        assert maps.shape == (len(layers), 4, 4)
        assert maps.dtype == np.int16
        for y, x in np.ndindex(4, 4):
            expected = {int(n[y, x]) for channels in numbers[at].values() for n in channels} - {0, 6}
            for kind in KINDS:
                own = [(layer, maps[i, y, x]) for i, layer in enumerate(layers) if layer["kind"] == kind]
                held = sorted(layer["concepts"][value] for layer, value in own if value >= 0)
                wanted = sorted(LABELS[number] for number in expected if kind_of(number) == kind)
                assert held == wanted
                needed[kind] = max(needed[kind], len(wanted))
                free = {value for _, value in own if value < 0}
                assert free <= {NOTHING if numbers[at][kind] else UNKNOWN}
    assert [layer["kind"] for layer in layers] == [kind for kind in KINDS for _ in range(needed[kind])]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: (r / "label.csv").unlink(), ["lacks label.csv"]),
        (lambda r: (r / "c_part.csv").unlink(), ["c_part.csv", "cannot be read"]),
        (lambda r: (r / "images/ade20k/0_part_2.png").unlink(), ["0_part_2.png", "cannot be read"]),
        (lambda r: (r / "images/ade20k/1.jpg").unlink(), ["1.jpg", "cannot be read"]),
        (lambda r: save(r / "images/ade20k/1.jpg", photo(8, 9)), ["1.jpg", "9x8", "8x8"]),
        (
            lambda r: save(r / "images/ade20k/0_object_1.png", encoded(np.full((4, 4), 7))),
            ["0_object_1.png", "label 7"],
        ),
        (lambda r: save(r / "images/ade20k/0_object_1.png", encoded(np.full((4, 4), 999))), ["label 999"]),
        (lambda r: save(r / "images/ade20k/0_object_1.png", encoded(np.zeros((2, 4), int))), ["differ in size"]),
        (lambda r: save(r / "images/ade20k/0_object_1.png", np.zeros((4, 4), np.uint8)), ["red + 256 green"]),
        (lambda r: write_table(r / "index.csv", "image,split", []), ["index.csv lacks the column"]),
        (lambda r: (r / "label.csv").write_text("number,name\nx,car\n"), ["label.csv", "'x' as number"]),
        (lambda r: (r / "label.csv").write_text("number,name\n1,red-c\n"), ["which label.csv lacks"]),
    ],
)
def test_a_damaged_broden_is_refused(broden, tmp_path, damage, words):
    damage(broden[0] / "broden1_224")
    refused("broden", broden[0], tmp_path / "data", *words)


# --- Broden+ -------------------------------------------------------------------------------------------------------

PARTS = ["-", "leg", "head", "window", "wheel", "shade", "top"]
OBJECTS = {0: "-", 1: "wall", 6: "person", 13: "car", 21: "lamp", 8: "table"}
HIERARCHY = {6: [1, 2], 13: [3, 4], 21: [5], 8: [6, 1]}
ADE_OBJECTS = {0: 0, 12: 1, 300: 6, 401: 13, 500: 21, 501: 8}
ADE_PARTS = {0: 0, 54: 1, 206: 2, 3056: 3, 3035: 4, 700: 5, 701: 6, 702: 0}


def ade_encoded(numbers):
    return np.stack([numbers // 256 * 10, numbers % 256, np.full_like(numbers, 7)], axis=2).astype(np.uint8)


@pytest.fixture
def broden_plus(tmp_path):
    """Two images of ADE20K, the second without parts, one of Pascal, one of OpenSurfaces, in Broden+'s layout."""
    folder = tmp_path / "unifiedparsing"
    meta, base = folder / "meta_file", folder / "broden_dataset"
    write_table(meta / "material.csv", "label,name", [(0, "-"), (1, "brick"), (2, "carpet"), (3, "wood")])
    write_table(
        meta / "object_part_hierarchy.csv",
        "object_label,object_name,part_labels,part_names",
        [
            (number, OBJECTS[number], ";".join(map(str, [0, *own])), ";".join(PARTS[part] for part in [0, *own]))
            for number, own in HIERARCHY.items()
        ],
    )
    rows = [("ade20k", "object", raw, "x", to, OBJECTS[to]) for raw, to in ADE_OBJECTS.items() if raw]
    rows += [("ade20k", "part", raw, "x", to, PARTS[to]) for raw, to in ADE_PARTS.items() if raw]
    rows += [("pascal", "object", 59, "car", 13, "car"), ("pascal", "object", 284, "person", 6, "person")]
    rows += [("pascal", "object", 431, "-", 0, "-"), ("pascal", "part", 6, "wheel", 4, "wheel")]
    rows += [("pascal", "part", 12, "head", 2, "head"), ("pascal", "part", 15, "leg", 1, "leg")]
    rows += [("pascal", "part", 25, "window", 3, "window"), ("pascal", "part", 20, "", 0, "-")]
    rows += [("os", "material", 0, "", 0, "-"), ("os", "material", 1, "brick", 1, "brick")]
    rows += [("os", "material", 3, "carpet;rug", 2, "carpet"), ("os", "material", 7, "cork", 0, "-")]
    rows += [("os", "material", 43, "wood", 3, "wood"), ("ade20k", "scene", 0, "", -1, "zen_garden")]
    columns = "dataset,category,raw_label,raw_name,broden_label,broden_name"
    write_table(meta / "joint_dataset" / "label_assignment.csv", columns, rows)

    place = "ADE20K_2016_07_26/images/training/a"
    index = {"filename": np.array(["one.jpg", "two.jpg"], object), "folder": np.array([place, place], object)}
    (base / "ade20k").mkdir(parents=True)
    savemat(base / "ade20k" / "index_ade20k.mat", {"index": index})
    truth = {}
    for name in ("one", "two"):
        save(base / "ade20k" / place / f"{name}.jpg", photo(16, 12))
        truth[name] = RANDOM.choice(list(ADE_OBJECTS), (16, 12)), RANDOM.choice(list(ADE_PARTS), (16, 12))
        save(base / "ade20k" / place / f"{name}_seg.png", ade_encoded(truth[name][0]))
    truth["one"][1][truth["one"][0] == 500] = 0  # nobody marked the parts of the lamp
    save(base / "ade20k" / place / "one_parts_1.png", ade_encoded(truth["one"][1]))

    save(base / "pascal" / "VOC2010" / "JPEGImages" / "2008_1.jpg", photo(8, 12))
    (base / "pascal" / "part" / "Annotations_Part").mkdir(parents=True)
    (base / "pascal" / "context" / "trainval").mkdir(parents=True)
    (base / "pascal" / "part" / "part2ind.m").write_text(
        "function pimap = part2ind()\n% [car]\npimap{6}('leftside') = 2;\n"
        "for ii = 1:10\n    pimap{6}(sprintf('wheel_%d',ii)) = 20 + ii;\nend\n"
        "% [person]\npimap{15}('head') = 1;   \npimap{15}('llleg')      = 19;  \t% left lower leg\n"
    )
    objects = np.array([[431] * 4 + [59] * 4 + [284] * 4] * 8)
    savemat(base / "pascal" / "context" / "trainval" / "2008_1.mat", {"LabelMap": objects.astype(np.uint16)})
    masks = {name: np.zeros((8, 12), np.uint8) for name in ("wheel_2", "leftside", "llleg")}
    masks["wheel_2"][6:, 4:6], masks["leftside"][4:, 6:8], masks["llleg"][5:, 9:] = 1, 1, 1
    savemat(base / "pascal" / "part" / "Annotations_Part" / "2008_1.mat", {"anno": annotation(masks)})
    truth["pascal"] = objects, masks

    write_table(base / "opensurfaces" / "photos.csv", "photo_id,scene_category_name", [(9, "kitchen"), (77, "")])
    save(base / "opensurfaces" / "photos" / "77.jpg", photo(8, 10))
    truth["os"] = RANDOM.choice([0, 1, 3, 7, 43], (16, 20)).astype(np.uint8)
    save(base / "opensurfaces" / "photos-labels" / "77.png", np.stack([truth["os"]] * 3, axis=2))

    records = [("ade20k", 0, 16, 12), ("ade20k", 1, 16, 12), ("pascal", 0, 8, 12)]
    write_records(meta / "broden_ade20k_pascal_train.json", records)
    write_records(meta / "joint_dataset" / "broden_os_train.json", [("os", 1, 512, 640)])
    write_records(meta / "broden_ade20k_pascal_val.json", records[:1])
    return folder, truth


def annotation(masks):
    parts = np.array([[tuple(item) for item in masks.items()]], [("part_name", object), ("mask", object)])
    bare = np.zeros((0, 0))
    dtype = [("class", object), ("class_ind", object), ("mask", object), ("parts", object)]
    return {"objects": np.array([[("car", 7, bare, parts), ("boat", 4, bare, bare)]], dtype)}


def write_records(path, records):
    keys = ("dataset", "file_index", "height", "width")
    path.write_text("".join(json.dumps(dict(zip(keys, record, strict=True))) + "\n" for record in records))


def expected_parts(objects, parts, concepts):
    """The slow way: pixel by pixel, in the numbers of Broden+."""
    marked = {
        number: len({int(p) for o, p in zip(objects.flat, parts.flat, strict=True) if o == number} & {0, *own}) >= 2
        for number, own in HIERARCHY.items()
    }
    result = np.empty(objects.shape, int)
    for at in np.ndindex(objects.shape):
        number, part = int(objects[at]), int(parts[at])
        served = any(f"{OBJECTS[number]}/{PARTS[own]}" in concepts for own in HIERARCHY.get(number, []))
        name = f"{OBJECTS[number]}/{PARTS[part]}" if part in HIERARCHY.get(number, []) else None
        if number == 0 or (served and not marked[number]):
            result[at] = UNKNOWN
        else:
            result[at] = concepts.index(name) if name in concepts else NOTHING
    return result


@pytest.mark.parametrize("chosen", [None, ["car/wheel", "wood", "person/head", "person/leg", "brick"]])
def test_broden_plus_has_the_parts_of_objects_and_the_materials_of_surfaces(broden_plus, tmp_path, chosen):
    folder, truth = broden_plus
    name = "broden_plus" if chosen is None else "broden_plus_street"
    if chosen:
        (folder / "concepts.txt").write_text("\n".join(chosen))
    manifest, parts = prepared(name, folder, tmp_path / "data")
    of_parts, of_materials = (layer["concepts"] for layer in manifest["info"]["layers"])
    if chosen is None:
        assert of_parts == [f"{OBJECTS[number]}/{PARTS[part]}" for number, own in HIERARCHY.items() for part in own]
        assert of_materials == ["brick", "carpet", "wood"]
    else:
        assert (of_parts, of_materials) == (["person/leg", "person/head", "car/wheel"], ["brick", "wood"])
    maps = [sources.find_source(name).maps(folder, row) for row in parts["train"]["maps"]]
    assert len(parts["val"]["paths"]) == 1

    for image, known in ((0, True), (1, False)):
        objects, marks = (
            np.vectorize(table.get)(raw)
            for table, raw in zip((ADE_OBJECTS, ADE_PARTS), truth["one" if known else "two"], strict=True)
        )
        expected = expected_parts(objects, marks if known else np.zeros_like(marks), of_parts)
        assert np.array_equal(maps[image][0], expected)
        assert (maps[image][1] == UNKNOWN).all()
    objects, masks = truth["pascal"]
    marks = np.where(masks["wheel_2"], 4, np.where(masks["llleg"], 1, 0))
    expected = expected_parts(np.vectorize({431: 0, 59: 13, 284: 6}.get)(objects), marks, of_parts)
    assert np.array_equal(maps[2][0], expected)
    assert (expected >= 0).sum() == 4 + 9
    names = {0: UNKNOWN, 1: of_materials.index("brick"), 7: NOTHING, 43: of_materials.index("wood")}
    names[3] = of_materials.index("carpet") if chosen is None else NOTHING
    assert np.array_equal(maps[3][1], np.vectorize(names.get)(truth["os"]))
    assert (maps[3][0] == UNKNOWN).all()


def test_the_concepts_of_streets_are_those_printed():
    assert (sum(map(len, STREET_PARTS.values())), len(STREET_MATERIALS), len(set(STREET))) == (56, 11, 67)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("lfho", "hoof"),
        ("fwheel", "wheel"),
        ("front wheel", "wheel"),
        ("leftmirror", "mirror"),
        ("roofside", "roof"),
        ("frontside", ""),
        ("head roof side", "head roof"),
        ("head left side", "head"),
        ("coach back side", "coach"),
        ("left front upper leg", "leg"),
        ("back license plate", "license plate"),
        ("right eyebrow", "eyebrow"),
        ("handlebar", "handlebar"),
    ],
)
def test_parts_of_pascal_lose_their_side(given, part):
    assert _plain(given) == part


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "meta_file/material.csv").unlink(), ["lacks material.csv"]),
        (lambda f: (f / "meta_file/broden_ade20k_pascal_val.json").write_text("{}\n"), ["val.json line 1"]),
        (
            lambda f: write_records(f / "meta_file/broden_ade20k_pascal_val.json", [("dtd", 0, 1, 1)]),
            ["'dtd'", "ade20k"],
        ),
        (lambda f: write_records(f / "meta_file/broden_ade20k_pascal_val.json", [("pascal", 1, 1, 1)]), ["image 1"]),
        (
            lambda f: write_records(f / "meta_file/broden_ade20k_pascal_val.json", [("pascal", 0, 12, 8)]),
            ["counts other"],
        ),
        (lambda f: next(f.glob("**/one_seg.png")).unlink(), ["one_seg.png", "cannot be read"]),
        (lambda f: save(next(f.glob("**/one_seg.png")), ade_encoded(np.full((16, 12), 4000))), ["one_seg.png", "4000"]),
        (lambda f: save(next(f.glob("**/one_parts_1.png")), ade_encoded(np.zeros((8, 8), int))), ["differs in size"]),
        (lambda f: next(f.glob("**/trainval/2008_1.mat")).write_bytes(b"no"), ["2008_1.mat", "MATLAB"]),
        (lambda f: savemat(next(f.glob("**/Annotations_Part/2008_1.mat")), {"x": 1}), ["2008_1.mat", "anno"]),
        (lambda f: next(f.glob("**/part2ind.m")).write_text(""), ["2008_1.mat", "wheel_2", "part2ind.m"]),
        (lambda f: next(f.glob("**/photos.csv")).write_text("id\n1\n"), ["photos.csv lacks the column photo_id"]),
    ],
)
def test_a_damaged_broden_plus_is_refused(broden_plus, tmp_path, damage, words):
    damage(broden_plus[0])
    refused("broden_plus", broden_plus[0], tmp_path / "data", *words)


def test_a_concept_that_broden_plus_lacks_is_named(broden_plus, tmp_path):
    (broden_plus[0] / "concepts.txt").write_text("car/wheels\n")
    refused("broden_plus_street", broden_plus[0], tmp_path / "data", "'car/wheels'", "did you mean car/wheel?")


def test_other_concepts_than_those_prepared_are_noticed(broden_plus, tmp_path):
    folder = broden_plus[0]
    (folder / "concepts.txt").write_text("car/wheel\n")
    _, parts = prepared("broden_plus", folder, tmp_path / "data")
    with pytest.raises(
        UserError, match="have changed since it was prepared; prepare it again with: trust-exp data import"
    ):
        sources.find_source("broden_plus_street").maps(folder, parts["train"]["maps"][0])


# --- Cityscapes-Parts ----------------------------------------------------------------------------------------------

SHAPES = [
    ("body", "polygon", [[2, 2], [20, 2], [20, 12], [2, 12]]),
    ("wheel", "circle", [[8, 12], [8, 9]]),
    ("window", "rectangle", [[16, 8], [12, 4]]),
    ("body", None, [[10, 10], [30, 10], [30, 14.5]]),
]


def labelme(path, name, shapes=SHAPES, size=(16, 32), **more):
    entries = [
        {"label": label, "points": points} | ({"shape_type": kind} if kind else {}) for label, kind, points in shapes
    ]
    content = {"version": "4.0.0", "imagePath": name, "imageHeight": size[0], "imageWidth": size[1], "shapes": entries}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "imageData": None, **more}))


@pytest.fixture
def drawings(tmp_path):
    """Three images: beside its drawing, below leftImg8bit, and inside the drawing."""
    folder, pixels = tmp_path / "parts", [photo(16, 32) for _ in range(3)]
    save(folder / "json" / "img" / "a.png", pixels[0])
    labelme(folder / "json" / "a.json", "img\\a.png")
    save(folder / "leftImg8bit" / "train" / "ulm" / "b_leftImg8bit.png", pixels[1])
    labelme(
        folder / "json" / "b.json", "../somewhere/b_leftImg8bit.png", [("road", "polygon", [[0, 0], [9, 0], [0, 9]])]
    )
    stream = io.BytesIO()
    Image.fromarray(pixels[2]).save(stream, "PNG")
    labelme(folder / "json" / "c.json", "c.png", [], imageData=base64.b64encode(stream.getvalue()).decode())
    return folder, pixels


def test_drawn_shapes_give_a_pixel_all_their_labels(drawings, tmp_path):
    folder, pixels = drawings
    manifest, parts = prepared("cityscapes_parts", folder, tmp_path / "data")
    arrays = parts["all"]
    concepts = manifest["info"]["layers"][0]["concepts"]
    assert concepts == ["body", "road", "wheel", "window"]
    assert np.array_equal(arrays["images"], np.stack(pixels).transpose(0, 3, 1, 2))
    assert (arrays["labels"] == UNKNOWN).all()
    assert (arrays["concepts"][2] == NOTHING).all()
    covered = {name: np.zeros((16, 32), bool) for name in concepts}
    for label, kind, points in SHAPES:
        image = Image.new("L", (32, 16))
        draw = ImageDraw.Draw(image)
        if kind == "circle":
            draw.ellipse((5, 9, 11, 15), fill=1)
        elif kind == "rectangle":
            draw.rectangle((12, 4, 16, 8), fill=1)
        else:
            draw.polygon([tuple(point) for point in points], fill=1, outline=1)
        covered[label] |= np.array(image) > 0
    for number, name in enumerate(concepts):
        assert np.array_equal((arrays["concepts"][0] == number).any(0), covered[name])
    assert (arrays["concepts"][0] == NOTHING).any()
    assert len(arrays["concepts"][0]) == max(sum(covered.values()).flat) == 2


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "json/img/a.png").unlink(), ["a.json", "neither beside it nor below leftImg8bit nor inside"]),
        (lambda f: (f / "json/a.json").write_text("{"), ["a.json cannot be read as JSON"]),
        (lambda f: (f / "json/a.json").write_text("[]"), ["a.json is not a file of labelme"]),
        (lambda f: (f / "json/a.json").write_text('{"shapes": [{}]}'), ["a.json is not a file of labelme"]),
        (lambda f: labelme(f / "json/a.json", "img/a.png", size=(8, 32)), ["32x16", "32x8"]),
        (lambda f: labelme(f / "json/a.json", "img/a.png", [("x", "line", [[0, 0], [1, 1]])]), ["a line for 'x'"]),
        (lambda f: labelme(f / "json/a.json", "img/a.png", [("x", "polygon", [[0, 0], [1, 1]])]), ["without 3 points"]),
        (lambda f: labelme(f / "json/c.json", "c.png", [], imageData="?"), ["c.json", "imageData"]),
    ],
)
def test_a_damaged_drawing_is_refused(drawings, tmp_path, damage, words):
    damage(drawings[0])
    refused("cityscapes_parts", drawings[0], tmp_path / "data", *words)


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fixture"),
    [
        ("camvid", "camvid"),
        ("cityscapes", "cityscapes"),
        ("broden", "broden"),
        ("broden_plus", "broden_plus"),
        ("cityscapes_parts", "drawings"),
    ],
)
def test_what_systems_and_links_add_to_a_folder_changes_nothing(request, tmp_path, name, fixture):
    given = request.getfixturevalue(fixture)
    folder = given[0] if isinstance(given, tuple) else given
    _, expected = prepared(name, folder, tmp_path / "data")
    _, found = prepared(name, cluttered(folder, tmp_path / "copy" / folder.name), tmp_path / "other")
    assert found.keys() == expected.keys()
    for part, arrays in expected.items():
        for kind, array in arrays.items():
            np.testing.assert_array_equal(found[part][kind], array)


def test_two_images_of_one_name_are_refused(camvid, tmp_path):
    image = next(camvid.rglob("train/*.png"))
    Image.open(image).convert("RGB").save(image.with_suffix(".jpg"))
    refused("camvid", camvid, tmp_path / "data", str(image), "have one name; remove one of them")
