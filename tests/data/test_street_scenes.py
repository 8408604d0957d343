"""The generated street scenes: exact, the same everywhere, and a fair test of concepts."""

import hashlib
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from trust_exp.data.config import NOTHING
from trust_exp.data.street_scenes.drawing import CLASSES, DRAWING, MATERIALS, PARTS, SCENES, Scene, street_scene
from trust_exp.data.street_scenes.drawing.canvas import SKY, Camera, Canvas, rect
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.light import Light
from trust_exp.data.street_scenes.drawing.rendering import render
from trust_exp.data.street_scenes.drawing.textures import KINDS, Finish
from trust_exp.data.street_scenes.module import StreetScenes
from trust_exp.errors import UserError

COUNT = 240


@cache
def scenes():
    """The first scenes of a split, stacked: image, label, part, material, scene."""
    return Scene(*map(np.stack, zip(*(street_scene(0, "train", index) for index in range(COUNT)), strict=True)))


def digest(scene):
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in scene[:4])).hexdigest()


# ------------------------------------------------------------------------------------------------------ what comes out


@pytest.mark.parametrize("size", [(128, 256), (64, 128), (48, 48), (33, 150), (96, 64)])
def test_types_shapes_and_ranges(size):
    for index in range(len(SCENES)):
        scene = street_scene(0, "train", index, size)
        assert scene.image.shape == (3, *size)
        assert scene.image.dtype == np.uint8
        for values, names, nothing in (
            (scene.label, CLASSES, 0),
            (scene.part, PARTS, NOTHING),
            (scene.material, MATERIALS, NOTHING),
        ):
            assert values.shape == size
            assert values.dtype == np.int8
            assert nothing <= values.min()
            assert values.max() < len(names)
            assert not (values == -1).any()  # nothing is left unlabelled
        assert type(scene.scene) is int


def test_a_scene_depends_on_its_key_alone():
    first = digest(street_scene(3, "train", 5))
    np.random.seed(1)  # noqa: NPY002  # the global generator must not matter
    others = [digest(street_scene(3, "train", index)) for index in (9, 5, 0)]
    assert others[1] == first
    assert len({first, *others}) == 3


def test_the_drawing_keeps_its_name_as_long_as_its_pictures_stay():
    """If this fails, pictures have changed: give DRAWING another value and pin what comes out now."""
    scenes = [street_scene(0, split, index, (32, 64)) for split in ("train", "test") for index in range(12)]
    maps = b"".join(np.stack([one.label, one.part, one.material]).tobytes() + bytes([one.scene]) for one in scenes)
    images = np.stack([one.image for one in scenes]).astype(float)
    assert DRAWING == "0460684ce3"
    assert hashlib.sha256(maps).hexdigest()[:16] == "47a7561bb4ec7e6b"
    # not to the last bit, as sines differ between processors
    assert images.mean((0, 2, 3)) == pytest.approx([103.611, 101.145, 96.178], abs=0.003)
    assert images.std((0, 2, 3)) == pytest.approx([46.194, 48.335, 55.103], abs=0.003)
    assert np.abs(np.diff(images)).mean() == pytest.approx(11.9947, abs=0.003)


def test_scenes_that_were_drawn_before_are_found(tmp_path):
    data = StreetScenes(root=tmp_path)
    assert [data._key(split) for split in data.splits] == ["street_scenes-204e2320ae", "street_scenes-d1c69ebaf7"]


def test_no_street_comes_twice():
    """Neither at another index nor in another split or of another seed, where places of the same kind meet."""
    labels = {
        street_scene(seed, split, index, (32, 64)).label.tobytes()
        for seed, split in ((0, "train"), (1, "train"), (0, "test"))
        for index in range(24)
    }
    assert len(labels) == 3 * 24


def test_a_scene_is_the_same_in_a_fresh_process_that_loads_neither_torch_nor_pil_before_it_draws():
    code = """
import sys, hashlib, numpy as np
from trust_exp.data.street_scenes.drawing import street_scene
print(int("torch" in sys.modules or "PIL" in sys.modules))
scene = street_scene(3, "train", 5)
print(int("torch" in sys.modules))
print(hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in scene[:4])).hexdigest())
"""
    lines = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout.split()
    assert lines == ["0", "0", digest(street_scene(3, "train", 5))]


def test_another_size_shows_the_same_street():
    for index in range(6):
        large, small = street_scene(0, "train", index), street_scene(0, "train", index, (64, 128))
        assert large.scene == small.scene
        for name in ("label", "part", "material"):
            agreement = np.mean(getattr(large, name)[1::2, 1::2] == getattr(small, name))
            assert agreement > 0.9, f"{name} of scene {index}: {agreement}"


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match="index must be at least 0; got -1"):
        street_scene(0, "train", -1)
    with pytest.raises(UserError, match="height must be at least 16; got 8"):
        street_scene(0, "train", 0, (8, 256))


def test_dice_follow_their_weights_and_bounds():
    dice = Dice("test")
    rolled = [dice.weigh({"a": 1.0, "b": 3.0, "never": 0.0}) for _ in range(4000)]
    assert 0.22 < rolled.count("a") / 4000 < 0.28
    assert "never" not in rolled
    assert {dice.whole(2, 4) for _ in range(100)} == {2, 3, 4}
    assert sorted(dice.shuffled(50)) == list(range(50))
    values = dice.array(20_000)
    assert values.min() >= 0
    assert values.max() < 1
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(2000, rel=0.1)


# ---------------------------------------------------------------------------------------------------------- exactness

BLUE, NONE, ALL = (0.2, 0.4, 0.8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
NEUTRAL = Light(
    sun=(0.0, 1.0, 0.0), direct=NONE, ambient=ALL, zenith=BLUE, horizon=BLUE, cloud=ALL, clear=2.0, visibility=1e9,
    grain=0.0, blur=0.0, dusk=False,
)  # fmt: skip


def plain(colour):
    """A surface without texture that shines by itself."""
    return Finish(KINDS["sky"], colour, colour, 1.0, (0.0, 0.0), glow=1.0)


def test_a_door_is_labelled_and_coloured_where_perspective_puts_it():
    """A door 2 m wide and 3 m high, 10 m ahead of a camera with a focal length of 1.2 image heights, partly hidden."""
    canvas = Canvas(Camera(x=0.0, height=1.5, yaw=0.0, focal=1.2, horizon=0.5))
    for name in ("", "cloud"):
        brush = canvas.brush("sky", z=1e3, heading=np.pi / 2, layer=SKY)
        brush.paint(rect(-9e3, 9e3, -9e3, 9e3), plain(BLUE), name)
    canvas.brush("car", z=5, heading=np.pi / 2).paint(rect(0.0, 9, -9, 1.5), plain((0.0, 1.0, 0.0)), "door")
    # Painted last and yet hidden by the car, which is nearer.
    canvas.brush("building", z=10, heading=np.pi / 2).paint(rect(-1, 1, 0, 3), plain((1.0, 0.0, 0.0)), "door")
    canvas.brush("building").shadow([(50, 0), (60, 0), (60, 9)], 0.0, (0.0, 0.0))
    maps = render(canvas, NEUTRAL, (200, 400), Dice("test"))

    y, x = np.mgrid[:200, :400] + 0.5
    right, up = (x - 200) / 240, (100 - y) / 240
    car = (right > 0) & (up < 0)
    door = ~car & (np.abs(right) < 0.1) & (np.abs(up) < 0.15)
    inside = np.where(car, CLASSES.index("car"), np.where(door, CLASSES.index("building"), CLASSES.index("sky")))
    edge = np.zeros(car.shape, bool)
    for mask in (car, door):
        for axis in (0, 1):
            for shift in (-1, 1):
                edge |= mask != np.roll(mask, shift, axis)
    edge[0] = edge[-1] = edge[:, 0] = edge[:, -1] = False
    assert (maps.label == inside)[~edge].all()
    assert (maps.part[car & ~edge] == PARTS.index("car/door")).all()
    assert (maps.part[door & ~edge] == PARTS.index("building/door")).all()
    assert (maps.part[maps.label == CLASSES.index("sky")] == NOTHING).all()
    for mask, colour in ((car, (0, 255, 0)), (door, (255, 0, 0)), (~car & ~door, (51, 102, 204))):
        assert np.abs(maps.image[:, mask & ~edge].astype(int) - np.array(colour)[:, None]).max() <= 1


@pytest.mark.slow
def test_a_part_lies_on_its_object():
    _, label, part, _, _ = scenes()
    owner = np.array([CLASSES.index(name.split("/")[0]) for name in PARTS])
    known = part >= 0
    assert (owner[part[known]] == label[known]).all()


PART_MATERIALS = {
    "sky/cloud": "",
    "building/window": "glass wood plastic metal",
    "building/door": "wood metal plastic glass stone",
    "building/roof": "tile metal stone wood",
    "building/wall": "brick stone tile wood metal",
    "person/leg": "fabric skin",
    "person/head": "skin",
    "person/torso": "fabric",
    "person/arm": "fabric skin",
    "person/hand": "skin",
    "person/hair": "",
    "person/foot": "rubber fabric plastic",
    "road/crosswalk": "stone brick",
    "car/window": "glass",
    "car/wheel": "rubber metal plastic",
    "car/headlight": "glass",
    "car/roof": "metal",
    "car/taillight": "plastic",
    "car/windshield": "glass",
    "car/bumper": "plastic",
    "truck/wheel": "rubber metal plastic",
    "truck/windshield": "glass",
    "bus/window": "glass",
    "bus/wheel": "rubber metal plastic",
    "bicycle/wheel": "rubber metal",
    "bicycle/chain": "metal",
    "motorcycle/wheel": "rubber metal plastic",
    "motorcycle/headlight": "glass",
}


def test_parts_are_of_materials_that_they_are_made_of():
    *_, part, material, _ = scenes()
    for name, allowed in PART_MATERIALS.items():
        found = {int(m) for m in np.unique(material[part == PARTS.index(name)])} - {NOTHING}
        assert found == {MATERIALS.index(m) for m in allowed.split()}, name


def test_materials_lie_on_classes_that_have_them():
    _, label, _, material, _ = scenes()
    found = {m: {CLASSES[c] for c in np.unique(label[material == i])} for i, m in enumerate(MATERIALS)}
    assert found["foliage"] == {"vegetation"}
    assert found["skin"] == {"person", "rider"}
    assert found["rubber"] <= {"person", "rider", "car", "truck", "bus", "motorcycle", "bicycle"}
    assert found["brick"] <= {"building", "wall", "sidewalk", "road"}
    assert (material[label == CLASSES.index("sky")] == NOTHING).all()
    for name in ("brick", "glass", "metal", "plastic", "wood", "stone", "fabric"):
        assert len(found[name]) >= 3, f"{name} would name a class: {found[name]}"


def test_a_wheel_seen_from_near_has_rubber_around_metal():
    *_, part, material, _ = scenes()
    wheel = part == PARTS.index("car/wheel")
    near = wheel.sum((1, 2)) > 100
    assert near.sum() > 10
    for name in ("rubber", "metal"):
        share = (wheel & (material == MATERIALS.index(name)))[near].sum((1, 2)) / wheel[near].sum((1, 2))
        assert share.min() > 0.1


# --------------------------------------------------------------------------------------------------------- frequencies


def test_every_kind_of_place_comes_once_in_six():
    for seed, split in ((0, "train"), (1, "test")):
        kinds = [street_scene(seed, split, index, (16, 32)).scene for index in range(24)]
        blocks = [kinds[i : i + 6] for i in range(0, 24, 6)]
        assert all(sorted(block) == list(range(len(SCENES))) for block in blocks)
        assert len(set(map(tuple, blocks))) > 1, "their order can be guessed"


def test_every_concept_is_seen_often_enough():
    """At least 2 % of the images show at least 20 pixels of it: 10 images in 500."""
    _, label, part, material, _ = scenes()
    for values, names in ((label, CLASSES), (part, PARTS), (material, MATERIALS)):
        pixels = np.stack([(values == index).sum((1, 2)) for index in range(len(names))])
        images = (pixels >= 20).sum(1)
        rare = {name: int(n) for name, n in zip(names, images, strict=True) if n < 0.02 * COUNT}
        assert not rare
        assert pixels.sum(1).max() < 0.3 * values.size, "one concept fills the images"


def test_cars_face_both_ways():
    _, _, part, _, _ = scenes()
    column = np.arange(part.shape[2])
    sides = []
    for image in part:
        lamp, tail = (image == PARTS.index(f"car/{name}") for name in ("headlight", "taillight"))
        if min(lamp.sum(), tail.sum()) >= 10:
            sides.append((lamp * column).sum() / lamp.sum() < (tail * column).sum() / tail.sum())
    assert len(sides) > 10
    assert 0.2 < np.mean(sides) < 0.8


# ---------------------------------------------------------------------------------------------------- a fair test

HALF = COUNT // 2


def sample(values, each=150):
    """Equally many pixels of each concept from the first half of the scenes and from the second."""
    generator = np.random.default_rng(0)
    pixels = [[], []]
    for index in np.unique(values[values >= 0]):
        at = np.argwhere(values == index)
        halves = at[at[:, 0] < HALF], at[at[:, 0] >= HALF]
        if min(map(len, halves)) >= 50:
            for rows, half in zip(pixels, halves, strict=True):
                rows.append(half[generator.choice(len(half), min(each, len(half)), replace=False)])
    return [np.concatenate(rows) for rows in pixels]


def features(at, *kinds):
    """Of pixels at (scene, row, column): colour, position, or statistics of the patch around them."""
    image = scenes().image.transpose(0, 2, 3, 1).astype(np.float32)
    found = {"colour": image[tuple(at.T)], "position": at[:, 1:]}
    if "texture" in kinds:
        padded = np.pad(image.mean(-1), ((0, 0), (4, 4), (4, 4)), mode="reflect")
        offsets = np.arange(9)
        patch = padded[at[:, 0, None, None], at[:, 1, None, None] + offsets[:, None], at[:, 2, None, None] + offsets]
        inner = patch[:, 2:7, 2:7]
        found["texture"] = np.stack(
            [f(p) for p in (patch, inner) for f in (_mean, _deviation, _change_across, _change_down)], 1
        )
    return np.concatenate([found[kind] for kind in kinds], 1)


def _mean(patch):
    return patch.mean((1, 2))


def _deviation(patch):
    return patch.std((1, 2))


def _change_across(patch):
    return np.abs(np.diff(patch, axis=2)).mean((1, 2))


def _change_down(patch):
    return np.abs(np.diff(patch, axis=1)).mean((1, 2))


@cache
def accuracy(layer, *kinds):
    """Balanced accuracy of a random forest that tells concepts of unseen scenes from these features."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score

    values = getattr(scenes(), layer)
    train, test = sample(values)
    forest = RandomForestClassifier(60, min_samples_leaf=3, random_state=0)
    forest.fit(features(train, *kinds), values[tuple(train.T)])
    return balanced_accuracy_score(values[tuple(test.T)], forest.predict(features(test, *kinds)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "by_colour", "by_position"), [("material", 0.34, 0.18), ("part", 0.16, 0.1), ("label", 0.24, 0.18)]
)
def test_concepts_are_not_told_by_colour_or_position_alone(layer, by_colour, by_position):
    assert accuracy(layer, "colour") < by_colour
    assert accuracy(layer, "position") < by_position


@pytest.mark.slow
def test_texture_tells_what_colour_does_not():
    assert accuracy("material", "colour", "texture") > accuracy("material", "colour") + 0.03
    assert accuracy("part", "colour", "texture") > accuracy("part", "colour") + 0.03


def test_colours_of_confusable_materials_overlap():
    """Median colours of pairs that a person tells by texture and place are less than a standard deviation apart."""
    image, _, _, material, _ = scenes()
    pixels = image.transpose(0, 2, 3, 1)
    for one, other in (
        ("skin", "plastic"),
        ("fabric", "foliage"),
        ("brick", "stone"),
        ("wood", "metal"),
        ("tile", "stone"),
    ):
        a, b = (pixels[material == MATERIALS.index(name)].astype(float) for name in (one, other))
        gap = np.abs(np.median(a, 0) - np.median(b, 0)).max()
        assert gap < min(a.std(0).max(), b.std(0).max()), (one, other)


def test_a_place_is_told_by_several_concepts_and_by_none_alone():
    from sklearn.ensemble import RandomForestClassifier

    _, label, part, material, kind = scenes()
    areas = np.concatenate(
        [
            np.stack([(values == index).mean((1, 2)) for index in range(len(names))], 1)
            for values, names in ((label, CLASSES), (part, PARTS), (material, MATERIALS))
        ],
        1,
    )
    present = areas > 0
    for column in present.T:
        best = sum(np.bincount(kind[column == here]).max() for here in np.unique(column)) / COUNT
        assert best < 0.45
    forest = RandomForestClassifier(200, random_state=0).fit(areas[:HALF], kind[:HALF])
    assert (forest.predict(areas[HALF:]) == kind[HALF:]).mean() > 0.6
