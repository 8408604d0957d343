"""Generated street scenes with exact labels of every pixel: class, part, material; and the kind of place."""

from typing import NamedTuple

import numpy as np

from trust_exp.data.street_scenes.drawing.canvas import Canvas
from trust_exp.data.street_scenes.drawing.concepts import CLASSES, MATERIALS, PARTS, SCENES
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.light import draw_light
from trust_exp.data.street_scenes.drawing.places import PLACES, draw_camera, draw_street
from trust_exp.data.street_scenes.drawing.rendering import render
from trust_exp.data.street_scenes.drawing.scenery import Scenery
from trust_exp.errors import check_range

__all__ = ["CLASSES", "DRAWING", "MATERIALS", "PARTS", "SCENES", "Scene", "street_scene"]

# The version of the pictures, part of the name of their folder: change it when any picture changes. Tests pin both.
DRAWING = "0460684ce3"


class Scene(NamedTuple):
    """An image and what is in it, of height H and width W."""

    image: np.ndarray  # uint8 [3, H, W]
    label: np.ndarray  # int8 [H, W]: index into CLASSES
    part: np.ndarray  # int8 [H, W]: index into PARTS, or NOTHING
    material: np.ndarray  # int8 [H, W]: index into MATERIALS, or NOTHING
    scene: int  # index into SCENES


def street_scene(seed: int, split: str, index: int, size: tuple[int, int] = (128, 256)) -> Scene:
    """One generated street; equal arguments give equal scenes, in every process and in any order.

    Of ``len(SCENES)`` scenes in a row, counted from a multiple of it, each is another kind of place. Another size gives
    the same street, drawn with more or fewer pixels.

    Args:
        seed: of the whole data set.
        split: any name; splits have no scene in common.
        index: position in the split, at least 0.
        size: height and width, at least 16 each.

    Raises:
        UserError: if index or size are out of range.
    """
    check_range("index", index, least=0)
    check_range("height", size[0], least=16)
    check_range("width", size[1], least=16)
    block, position = divmod(index, len(SCENES))
    kind = Dice("street_scenes", seed, split, "kind", block).shuffled(len(SCENES))[position]
    dice = Dice("street_scenes", seed, split, index)
    light = draw_light(dice)
    place = PLACES[SCENES[kind]]
    street = draw_street(dice, place)
    canvas = Canvas(draw_camera(dice, street))
    Scenery(dice, place, street, canvas, light).lay_out()
    maps = render(canvas, light, size, Dice("street_scenes", seed, split, index, "noise"))
    return Scene(*maps, kind)
