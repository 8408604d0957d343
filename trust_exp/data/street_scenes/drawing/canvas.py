"""Painting: polygons in space become a picture and its label maps.

Nothing is drawn while objects are painted: a stroke only remembers its polygons and what they are. ``render`` then
projects all points at once, fills the polygons from far to near with the *number* of their stroke, and looks up what
every pixel's stroke says: class, part and material for the label maps; colour, place on the surface, light and haze for
the image. So label maps and image cannot disagree, and each pixel's texture is computed once.

The world: metres, x to the right of the street, y up, z along the street; the camera is at z = 0. An object paints in
its own coordinates (f, h, w): f along its heading, h up, w to the right of its heading.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trust_exp.data.config import NOTHING
from trust_exp.data.street_scenes.drawing.concepts import CLASSES, PARTS
from trust_exp.data.street_scenes.drawing.textures import Finish

Point = tuple[float, float, float]
Points = Sequence[Point] | Sequence[Sequence[Point]] | np.ndarray

SKY, GROUND, BACKDROP, BUILDINGS, OBJECTS = range(5)  # what is painted before what; within one, far before near
_FAR = 1e5  # more than any distance
DETAIL = 40.0  # metres: farther away no one sees the frame of a window or the spokes of a wheel

CLASS_INDEX = {name: index for index, name in enumerate(CLASSES)}
PART_INDEX = {name: index for index, name in enumerate(PARTS)}


class Camera(NamedTuple):
    """A camera without tilt; a lens shifted up or down moves the horizon, so that what is upright stays so."""

    x: float
    height: float
    yaw: float  # radians, to the right
    focal: float  # in image heights, or in half its widths where it is more than twice as wide
    horizon: float  # from the top, in image heights

    def rotated(self, x: float, z: float) -> tuple[float, float]:
        """A direction on the ground, right and forward as seen by the camera."""
        cos, sin = math.cos(self.yaw), math.sin(self.yaw)
        return cos * x - sin * z, sin * x + cos * z


class Stroke(NamedTuple):
    """Polygons in one plane with one finish: ``points`` is [polygons, corners, 3] in the frame's coordinates."""

    order: float
    frame: np.ndarray  # [4, 3]: f, h, w and the origin, as seen by the camera
    points: np.ndarray
    finish: Finish
    label: int
    part: int
    bulge: float
    level: float
    ground: bool


class Canvas:
    """Collects strokes and shadows."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.strokes: list[Stroke] = []
        self.shadows: list[np.ndarray] = []  # [polygons, corners, 2] on the ground: right and ahead of the camera

    def brush(
        self, name: str, x: float = 0, z: float = 0, heading: float = 0, *, y: float = 0, layer: int = OBJECTS
    ) -> "Brush":
        """A brush for an object of class ``name`` that stands at (x, y, z) and looks along ``heading``."""
        return Brush(self, name, x, y, z, heading, layer)

    def card(self, name: str, x: float, z: float, *, y: float = 0, layer: int = OBJECTS) -> "Brush":
        """A brush whose f and h span a plane that faces the camera, f to the right."""
        heading = math.atan2(x - self.camera.x, z) + math.pi / 2
        return Brush(self, name, x, y, z, heading, layer)


class Brush:
    """Paints in the coordinates of one object, with its class."""

    def __init__(self, canvas: Canvas, name: str, x: float, y: float, z: float, heading: float, layer: int) -> None:
        self.canvas, self.name = canvas, name
        self.x, self.z = x, z
        camera = canvas.camera
        self.sin, self.cos = math.sin(heading), math.cos(heading)
        lx, lz = camera.rotated(self.sin, self.cos)
        wx, wz = camera.rotated(self.cos, -self.sin)
        right, forward = camera.rotated(x - camera.x, z)
        self.frame = np.array([(lx, 0, lz), (0, 1, 0), (wx, 0, wz), (right, y - camera.height, forward)])
        self.distance = math.hypot(right, forward)
        self.order = layer * _FAR - (self.distance if layer > GROUND else 0)
        self.ground = layer == GROUND
        away = camera.x - x, -z
        self.eye = (
            away[0] * self.sin + away[1] * self.cos,
            camera.height - y,
            away[0] * self.cos - away[1] * self.sin,
        )

    def of(self, name: str) -> "Brush":
        """The same place and order, for a part of another class: a rider's bicycle."""
        other = object.__new__(Brush)
        other.__dict__.update(self.__dict__, name=name)
        return other

    def sees(self, point: Point, normal: Point) -> bool:
        """Whether the camera is on the side of the plane through ``point`` to which ``normal`` points."""
        return sum((eye - at) * n for eye, at, n in zip(self.eye, point, normal, strict=True)) > 0

    def paint(self, points: Points, finish: Finish, part: str = "", bulge: float = 0.0, level: float = 0.0) -> None:
        """Fill polygons with a finish.

        Args:
            points: (f, h, w) of the corners of one polygon, or [polygons, corners, 3] of several in one plane.
            part: name of the part without that of its object; "" is none.
            bulge: how much lighter the side to the sun is, and darker the other: 0 for what is flat.
            level: between 0 (the plane's own direction decides on its light) and 1 (lit as if it had none).
        """
        polygons = np.asarray(points, dtype=np.float64)
        if polygons.ndim == 2:
            polygons = polygons[None]
        if not len(polygons):
            return
        index = PART_INDEX[f"{self.name}/{part}"] if part else NOTHING
        label = CLASS_INDEX[self.name]
        self.canvas.strokes.append(
            Stroke(self.order, self.frame, polygons, finish, label, index, bulge, level, self.ground)
        )

    def shadow(self, footprint: Sequence[tuple[float, float]], height: float, sweep: tuple[float, float]) -> None:
        """Cast the shadow of a prism over ``footprint`` (f, w of its corners): ``sweep`` (x, z) a metre of height."""
        frame = self.frame
        base = np.array([f * frame[0, ::2] + w * frame[2, ::2] + frame[3, ::2] for f, w in footprint])
        top = base + height * np.array(self.canvas.camera.rotated(*sweep))
        before = np.arange(len(base)) - 1
        self.canvas.shadows += [top[None], np.stack([base[before], base, top, top[before]], 1)]


# --------------------------------------------------------------------------------------------------------------- shapes


def rect(l0: float, l1: float, h0: float, h1: float, w: float = 0.0) -> list[Point]:
    """A rectangle in a plane of constant w."""
    return [(l0, h0, w), (l1, h0, w), (l1, h1, w), (l0, h1, w)]


def _circle(n: int) -> list[tuple[float, float]]:
    return [(math.cos(2 * math.pi * i / n), math.sin(2 * math.pi * i / n)) for i in range(n)]


_CIRCLE = _circle(14)


def disc(f: float, h: float, r: float, w: float = 0.0, tall: float = 1.0) -> list[Point]:
    """A circle in a plane of constant w, or an ellipse ``tall`` times as high as it is wide."""
    return [(f + r * x, h + tall * r * y, w) for x, y in _CIRCLE]


def ring(f: float, h: float, r: float, inner: float, w: float = 0.0) -> list[Point]:
    """A circle with a hole of radius ``inner``: out along the rim, back along the hole."""
    rim, hole = disc(f, h, r, w), disc(f, h, inner, w)
    return [*rim, rim[0], hole[0], *hole[::-1]]


def limb(a: tuple[float, float], b: tuple[float, float], wide: float, narrow: float, w: float = 0.0) -> list[Point]:
    """A bar from a to b in a plane of constant w, ``wide`` at a and ``narrow`` at b."""
    along, up = b[0] - a[0], b[1] - a[1]
    length = math.hypot(along, up) or 1.0
    x, y = -up / length / 2, along / length / 2
    return [
        (a[0] + x * wide, a[1] + y * wide, w),
        (b[0] + x * narrow, b[1] + y * narrow, w),
        (b[0] - x * narrow, b[1] - y * narrow, w),
        (a[0] - x * wide, a[1] - y * wide, w),
    ]


def flat(*corners: tuple[float, float]) -> list[Point]:
    """A polygon in the plane w = 0."""
    return [(f, h, 0.0) for f, h in corners]
