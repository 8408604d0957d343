"""Cars, trucks and buses: an outline seen from the side, drawn out to a width, with what is on its faces."""

import math
from typing import NamedTuple

from trust_exp.data.street_scenes.drawing.canvas import DETAIL, Brush, Point, disc, rect
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.textures import KINDS, TEXTURES, Finish, finish, rgb

DARK, WHITE = rgb("202224"), rgb("dcdedd")
LAMP, TAIL = rgb("e8ecec"), rgb("b0201c")


class Shape(NamedTuple):
    """Corners (f, h, half width) from the front's foot over the roof to the rear's; the role of each edge between.

    ``cabin`` names the first and the last corner of what stands above the belt.
    """

    outline: tuple[Point, ...]
    roles: tuple[str, ...]
    cabin: tuple[int, int]
    doors: tuple[tuple[float, float], ...]
    wheels: tuple[float, float]
    radius: float


_CAR = ("bumper", "nose", "lid", "windshield", "roof", "windshield", "tail", "bumper")
_SEDAN = ("bumper", "nose", "lid", "windshield", "roof", "windshield", "lid", "tail", "bumper")
CARS = {
    "hatchback": Shape(
        ((2.0, 0.22, 0.86), (2.05, 0.5, 0.87), (1.95, 0.76, 0.87), (1.05, 0.95, 0.87), (0.3, 1.46, 0.66),
         (-1.4, 1.48, 0.66), (-1.9, 1.0, 0.87), (-1.98, 0.55, 0.87), (-1.93, 0.22, 0.86)),
        _CAR, (3, 6), ((0.95, -0.1), (-0.14, -1.05)), (1.25, -1.28), 0.33,
    ),
    "sedan": Shape(
        ((2.25, 0.22, 0.87), (2.32, 0.5, 0.88), (2.22, 0.74, 0.88), (1.15, 0.92, 0.88), (0.45, 1.41, 0.66),
         (-0.85, 1.43, 0.66), (-1.55, 0.98, 0.88), (-2.2, 0.94, 0.88), (-2.3, 0.52, 0.88), (-2.25, 0.22, 0.87)),
        _SEDAN, (3, 6), ((1.0, 0.02), (-0.02, -0.95)), (1.4, -1.4), 0.34,
    ),
    "suv": Shape(
        ((2.2, 0.3, 0.92), (2.27, 0.62, 0.93), (2.17, 0.98, 0.93), (1.15, 1.12, 0.93), (0.6, 1.7, 0.74),
         (-1.85, 1.76, 0.74), (-2.15, 1.15, 0.93), (-2.24, 0.66, 0.93), (-2.18, 0.3, 0.92)),
        _CAR, (3, 6), ((1.0, 0.0), (-0.04, -1.05)), (1.38, -1.35), 0.39,
    ),
    "van": Shape(
        ((2.4, 0.28, 0.95), (2.46, 0.62, 0.96), (2.36, 1.0, 0.96), (1.75, 1.15, 0.96), (1.05, 1.98, 0.84),
         (-2.3, 2.04, 0.84), (-2.42, 1.15, 0.96), (-2.45, 0.62, 0.96), (-2.4, 0.28, 0.95)),
        _CAR, (3, 6), ((1.5, 0.45), (0.4, -0.85)), (1.55, -1.5), 0.36,
    ),
}  # fmt: skip


class Trim(NamedTuple):
    """The finishes of one vehicle."""

    body: Finish
    glass: Finish
    bumper: Finish
    dark: Finish
    rubber: Finish
    rim: Finish
    headlight: Finish
    taillight: Finish


def draw_trim(dice: Dice, dusk: bool, body: Finish | None = None) -> Trim:
    """Finishes as a buyer and a few years choose them."""
    body = body or finish(dice, "metal", scale=dice.uniform(0.8, 1.3))
    bumper = finish(dice, "plastic", body.colour if dice.chance(0.6) else DARK)
    lamp = finish(dice, "glass", LAMP, scale=0.4)
    tail = finish(dice, "plastic", dice.pick((TAIL, TAIL, rgb("d05a4a"), rgb("6a1a1c"))), scale=0.4)
    return Trim(
        body,
        finish(dice, "glass"),
        bumper,
        finish(dice, "plastic", DARK),
        finish(dice, "rubber"),
        finish(dice, "metal", dice.pick(TEXTURES[KINDS["metal"]].colours[:4]), scale=0.3),
        lamp._replace(glow=0.9) if dusk else lamp,
        tail._replace(glow=0.7) if dusk or dice.chance(0.25) else tail,
    )


def lerp(a: Point, b: Point, t: float) -> Point:
    """The point at share t of the way from a to b."""
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t


def patch(low: Point, high: Point, s0: float, s1: float, t0: float, t1: float) -> list[Point]:
    """Part of a strip between two corners of an outline: s in [-1, 1] across the vehicle, t in [0, 1] along."""
    a, b = lerp(low, high, t0), lerp(low, high, t1)
    return [(a[0], a[1], s0 * a[2]), (a[0], a[1], s1 * a[2]), (b[0], b[1], s1 * b[2]), (b[0], b[1], s0 * b[2])]


def sees_edge(brush: Brush, a: Point, b: Point) -> bool:
    """Whether the strip from corner a to corner b of an outline faces the camera."""
    return brush.sees(a, (b[1] - a[1], a[0] - b[0], 0.0))


def footprint(length: float, width: float) -> list[tuple[float, float]]:
    """Corners on the ground."""
    a, b = length / 2, width / 2
    return [(a, b), (a, -b), (-a, -b), (-a, b)]


def car(brush: Brush, dice: Dice, dusk: bool, kind: str) -> None:
    """A car: one of CARS."""
    shape, trim = CARS[kind], draw_trim(dice, dusk)
    outline = shape.outline
    styled = dice.chance(0.5)
    near = 1 if brush.eye[2] > 0 else -1
    _mirror(brush, outline[shape.cabin[0]], trim, -near)
    for low, high, role in zip(outline, outline[1:], shape.roles, strict=False):
        if sees_edge(brush, low, high):
            _STRIPS[role](brush, low, high, trim)
    if brush.eye[2] * near > outline[0][2]:
        _car_side(brush, shape, trim, near, closed=kind == "van" and styled)
    _mirror(brush, outline[shape.cabin[0]], trim, near)


def _bumper(brush: Brush, low: Point, high: Point, trim: Trim) -> None:
    brush.paint(patch(low, high, -1, 1, 0, 1), trim.bumper, "bumper" if brush.name == "car" else "", 0.15)


def _lid(brush: Brush, low: Point, high: Point, trim: Trim) -> None:
    brush.paint(patch(low, high, -1, 1, 0, 1), trim.body)


def _roof(brush: Brush, low: Point, high: Point, trim: Trim) -> None:
    brush.paint(patch(low, high, -1, 1, 0, 1), trim.body, "roof" if brush.name == "car" else "")


def _windshield(brush: Brush, low: Point, high: Point, trim: Trim) -> None:
    brush.paint(patch(low, high, -1, 1, 0, 1), trim.body)
    brush.paint(patch(low, high, -0.9, 0.9, 0.06, 0.92), trim.glass, "window" if brush.name == "bus" else "windshield")


def _nose(brush: Brush, low: Point, high: Point, trim: Trim) -> None:
    brush.paint(patch(low, high, -1, 1, 0, 1), trim.body)
    brush.paint(patch(low, high, -0.48, 0.48, 0.1, 0.7), trim.dark)
    for side in (-1, 1):
        lamp = patch(low, high, 0.52 * side, 0.96 * side, 0.2, 0.9)
        brush.paint(lamp, trim.headlight, "" if brush.name == "truck" else "headlight")


def _tail(brush: Brush, low: Point, high: Point, trim: Trim) -> None:
    brush.paint(patch(low, high, -1, 1, 0, 1), trim.body)
    brush.paint(patch(low, high, -0.3, 0.3, 0.6, 0.9), trim.bumper.tinted(WHITE))
    for side in (-1, 1):
        lamp = patch(low, high, 0.6 * side, 0.98 * side, 0.05, 0.75)
        brush.paint(lamp, trim.taillight, "taillight" if brush.name == "car" else "")


_STRIPS = {
    "bumper": _bumper, "nose": _nose, "lid": _lid, "windshield": _windshield, "roof": _roof, "tail": _tail,
}  # fmt: skip


def _car_side(brush: Brush, shape: Shape, trim: Trim, side: int, closed: bool) -> None:
    outline, (first, last) = shape.outline, shape.cabin
    wide = side * outline[first][2]
    belt = outline[first][1]
    lower = [(f, h, wide) for f, h, _ in (*outline[: first + 1], *outline[last:])]
    brush.paint(lower, trim.body, bulge=0.15)
    cabin = [(f, h, side * w) for f, h, w in outline[first : last + 1]]
    brush.paint(cabin, trim.body)
    for i, (front, rear) in enumerate(shape.doors[:1] if closed else shape.doors):
        brush.paint(rect(rear, front, 0.3, belt - 0.02, wide), trim.body.toned(0.94 + 0.06 * i), "door", 0.15)
        seam = [rect(rear - 0.02, rear + 0.02, 0.3, belt, wide), rect(front - 0.02, front + 0.02, 0.3, belt, wide)]
        brush.paint(seam, trim.dark, "door")
        brush.paint(rect(rear + 0.06, rear + 0.26, belt - 0.2, belt - 0.14, wide), trim.dark, "door")
    _side_windows(brush, cabin, trim, side, closed)
    front, rear = outline[2][0], outline[-2][0]
    brush.paint(
        rect(front - 0.3, front + 0.03, outline[1][1] + 0.06, outline[2][1] - 0.03, wide), trim.headlight, "headlight"
    )
    brush.paint(rect(rear, rear + 0.2, outline[-2][1] + 0.12, outline[-2][1] + 0.38, wide), trim.taillight, "taillight")
    wheels(brush, shape.wheels, shape.radius, wide, trim)


def _side_windows(brush: Brush, cabin: list[Point], trim: Trim, side: int, closed: bool) -> None:
    """Panes between the belt line and the roof, with pillars between them; a frame above them is the roof's."""
    base = cabin[0], cabin[-1]
    top = cabin[1], cabin[-2]
    brush.paint([lerp(base[0], top[0], 0.9), lerp(base[1], top[1], 0.9), top[1], top[0]], trim.body, "roof")
    for a, b in ((0.1, 0.44), (0.48, 0.9))[: 1 if closed else 2]:
        corners = [(lerp(*base, s), lerp(*top, s)) for s in (a, b)]
        quad = [lerp(*corners[0], 0.1), lerp(*corners[1], 0.1), lerp(*corners[1], 0.87), lerp(*corners[0], 0.87)]
        brush.paint(quad, trim.glass, "window")


_SPOKES = [0.3 + 2 * math.pi * i / 5 for i in range(5)]


def wheels(brush: Brush, places: tuple[float, ...], radius: float, wide: float, trim: Trim) -> None:
    """Tyres with rims, in dark arches."""
    for f in places:
        brush.paint(disc(f, radius + 0.03, radius * 1.16, wide), trim.dark)
        brush.paint(disc(f, radius, radius, wide), trim.rubber, "wheel")
        brush.paint(disc(f, radius, radius * 0.6, wide), trim.rim, "wheel", 0.25)
        if brush.distance < DETAIL:
            turns = [(f + 0.36 * radius * math.cos(a), radius * (1 + 0.36 * math.sin(a))) for a in _SPOKES]
            brush.paint([disc(*at, 0.11 * radius, wide) for at in turns], trim.dark, "wheel")


def _mirror(brush: Brush, corner: Point, trim: Trim, side: int) -> None:
    f, h, w = corner[0] - 0.25, corner[1], corner[2]
    inner, outer = side * w, side * (w + 0.24)
    brush.paint(_upright(f, h, h + 0.19, inner, outer), trim.bumper, "mirror")
    if brush.eye[0] < f:
        brush.paint(_upright(f, h + 0.03, h + 0.16, inner + 0.04 * side, outer - 0.03 * side), trim.glass, "mirror")
    if brush.eye[2] * side > w:
        brush.paint(rect(f - 0.14, f + 0.12, h + 0.01, h + 0.19, inner), trim.bumper, "mirror")


def _upright(f: float, h0: float, h1: float, w0: float, w1: float) -> list[Point]:
    """A rectangle across the vehicle."""
    return [(f, h0, w0), (f, h0, w1), (f, h1, w1), (f, h1, w0)]


# ------------------------------------------------------------------------------------------------------- trucks, buses


_CAB = ((1.1, 0.5, 1.15), (1.15, 0.95, 1.17), (1.1, 1.5, 1.17), (0.85, 2.55, 1.1), (-0.95, 2.6, 1.1), (-1.0, 0.5, 1.15))
_CAB_ROLES = ("bumper", "nose", "windshield", "roof", "lid")


def truck(brush: Brush, dice: Dice, dusk: bool) -> None:
    """A cab and what it carries: a box, a load under a tarpaulin."""
    trim = draw_trim(dice, dusk, finish(dice, "plastic") if dice.chance(0.25) else None)
    length = dice.uniform(3.6, 6.5)
    parts = [lambda: _cab(brush, trim, length / 2), lambda: _cargo(brush, dice, trim, length)]
    for paint in parts if brush.eye[0] < length / 2 else parts[::-1]:
        paint()


def _cab(brush: Brush, trim: Trim, at: float) -> None:
    outline = tuple((f + at + 1.05, h, w) for f, h, w in _CAB)
    for low, high, role in zip(outline, outline[1:], _CAB_ROLES, strict=False):
        if sees_edge(brush, low, high):
            _STRIPS[role](brush, low, high, trim)
    side = 1 if brush.eye[2] > 0 else -1
    if brush.eye[2] * side > 1.17:
        w, f = side * 1.17, outline[3][0]
        brush.paint([(x, h, w) for x, h, _ in outline], trim.body)
        brush.paint([(f - 0.9, 1.55, w), (f + 0.1, 1.55, w), (f - 0.12, 2.35, w), (f - 0.9, 2.35, w)], trim.glass)
        brush.paint(rect(f - 0.97, f - 0.92, 0.7, 2.4, w), trim.dark)
        wheels(brush, (at + 1.2,), 0.48, w, trim)


def _cargo(brush: Brush, dice: Dice, trim: Trim, length: float) -> None:
    load = finish(dice, dice.weigh({"sheet": 3, "stripes": 1, "cloth": 2, "plastic": 2, "planks": 1.5, "metal": 1}))
    top = dice.uniform(2.5, 3.5) if dice.chance(0.8) else dice.uniform(1.5, 1.9)
    a, base = length / 2, 0.95
    if abs(brush.eye[0]) > a:
        brush.paint(_upright(math.copysign(a, brush.eye[0]), base, top, -1.2, 1.2), load)
        if brush.eye[0] < 0:
            _cargo_rear(brush, trim, -a, base, top)
    side = 1 if brush.eye[2] > 0 else -1
    if brush.eye[2] * side > 1.2:
        brush.paint(rect(-a, a + 0.2, 0.6, base, side * 1.15), trim.dark)
        brush.paint(rect(-a, a, base, top, side * 1.2), load)
        wheels(brush, (-a + 0.8, -a + 1.8) if length > 5 else (-a + 1.0,), 0.48, side * 1.18, trim)


def _cargo_rear(brush: Brush, trim: Trim, f: float, base: float, top: float) -> None:
    brush.paint(_upright(f, 0.5, base, -1.15, 1.15), trim.dark)
    brush.paint([_upright(f, 0.6, 0.85, side * 0.8, side * 1.1) for side in (-1, 1)], trim.taillight)
    brush.paint(_upright(f, base, top, -0.02, 0.02), trim.dark)
    brush.paint([_upright(f, 0, 0.6, side * 0.6, side * 1.12) for side in (-1, 1)], trim.rubber, "wheel")


def bus(brush: Brush, dice: Dice, dusk: bool) -> None:
    """A city bus: a row of windows, doors on its right."""
    trim = draw_trim(dice, dusk, finish(dice, "metal", scale=dice.uniform(2.2, 3.5)))
    a, w, top = dice.uniform(4.4, 6.0), 1.27, dice.uniform(2.9, 3.2)
    front = ((a, 0.3, w), (a + 0.06, 0.62, w), (a + 0.06, 1.2, w), (a - 0.08, 2.6, w), (a - 0.1, top, w))
    outline = (*front, (-a, top, w), (-a, 1.7, w), (-a, 0.9, w), (-a, 0.3, w))
    roles = ("bumper", "nose", "windshield", "lid", "roof", "windshield", "tail", "bumper")
    for low, high, role in zip(outline, outline[1:], roles, strict=False):
        if sees_edge(brush, low, high):
            _STRIPS[role](brush, low, high, trim)
    if brush.eye[0] > a:  # where it goes
        brush.paint(patch(outline[3], outline[4], -0.6, 0.6, 0.2, 0.8), trim.dark)
    band = finish(dice, "plastic") if dice.chance(0.5) else trim.body
    near = 1 if brush.eye[2] > 0 else -1
    if brush.eye[2] * near > w:
        brush.paint(rect(-a, a, 0.3, top, near * w), trim.body)
        brush.paint(rect(-a, a, 0.3, 0.8, near * w), band)
        _bus_side(brush, trim, near * w, a, doors=near > 0)
        brush.paint(rect(a, a + 0.3, 1.9, 2.45, near * (w + 0.1)), trim.dark, "mirror")
    for side in (-1, 1):
        if brush.eye[0] > a or side == near:  # the bus hides the other
            brush.paint(_upright(a + 0.1, 1.9, 2.45, side * w, side * (w + 0.32)), trim.dark, "mirror")


def _bus_side(brush: Brush, trim: Trim, w: float, a: float, doors: bool) -> None:
    entries = (a - 1.0, -0.3) if doors else ()
    count = int((2 * a - 0.6) / 1.35)
    panes = [(-a + 0.3 + 1.35 * i, -a + 1.55 + 1.35 * i) for i in range(count)]
    clear = [rect(l0, l1, 1.25, 2.45, w) for l0, l1 in panes if all(not l0 - 0.7 < e < l1 + 0.7 for e in entries)]
    brush.paint(clear, trim.glass, "window")
    for entry in entries:
        brush.paint(rect(entry - 0.62, entry + 0.62, 0.38, 2.5, w), trim.dark, "door")
        leaves = [rect(entry - 0.56, entry - 0.05, 0.5, 2.4, w), rect(entry + 0.05, entry + 0.56, 0.5, 2.4, w)]
        brush.paint(leaves, trim.glass.toned(0.85), "door")
    wheels(brush, (a - 2.3, -a + 2.2), 0.48, w, trim)
