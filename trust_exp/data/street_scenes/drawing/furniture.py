"""Objects along a street: plants, fences and walls, poles, lamps, lights, signs."""

import math
from collections.abc import Callable

import numpy as np

from trust_exp.data.street_scenes.drawing.canvas import BACKDROP, Brush, Canvas, Point, disc, limb, rect
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.textures import Finish, finish, rgb

# --------------------------------------------------------------------------------------------------------------- plants


def blob(dice: Dice, f: float, h: float, r: float, tall: float = 1.0, ragged: float = 0.16) -> list[Point]:
    """A round shape with a ragged outline."""
    n = 26
    points = []
    for i, shift in enumerate(dice.array(n).tolist()):
        angle, reach = 2 * math.pi * i / n, r * (1 + ragged * (2 * shift - 1))
        points.append((f + reach * math.cos(angle), h + tall * reach * math.sin(angle), 0.0))
    return points


def tree(brush: Brush, dice: Dice, height: float) -> None:
    """A broad, a slim or a pointed tree; some are bare. The brush is a card."""
    kind = dice.weigh({"broad": 5, "slim": 1.5, "pointed": 1.5, "bare": 0.8})
    wood, green = finish(dice, "bark"), finish(dice, "leaves")
    thick = 0.05 * height * dice.uniform(0.7, 1.2)
    fork = height * (dice.uniform(0.25, 0.4) if kind != "pointed" else 0.12)
    lean = dice.uniform(-0.04, 0.04) * height
    brush.paint(limb((0, 0), (lean, fork * 1.25), thick, 0.7 * thick), wood, bulge=0.35, level=1)
    if kind == "bare":
        _branches(brush, dice, (lean, fork * 1.2), math.pi / 2, height * 0.3, thick * 0.6, wood, depth=3)
    elif kind == "pointed":
        for i in range(5):
            base, wide = height * (0.1 + 0.17 * i), height * 0.2 * (1 - 0.17 * i)
            tier = [
                (-wide, base, 0.0),
                (-wide * 0.4, base - 0.02 * height, 0.0),
                (wide * 0.5, base - 0.03 * height, 0.0),
            ]
            brush.paint(
                [*tier, (wide, base, 0.0), (lean, base + 0.32 * height, 0.0)],
                green.toned(0.85 + 0.06 * i),
                bulge=0.3,
                level=1,
            )
    else:
        for limb_end in (-0.12, 0.14):
            brush.paint(
                limb((lean, fork), (lean + limb_end * height, fork * 1.7), thick * 0.6, thick * 0.3), wood, level=1
            )
        _crown(brush, dice, green, height, fork, lean, slim=kind == "slim")


def _crown(brush: Brush, dice: Dice, green: Finish, height: float, fork: float, lean: float, slim: bool) -> None:
    middle, half = (height + fork) / 2, (height - fork) / 2
    wide = half * (dice.uniform(0.35, 0.5) if slim else dice.uniform(0.85, 1.2))
    for i in range(dice.whole(4, 7)):
        angle, off = dice.uniform(0, 2 * math.pi), 0.45 * math.sqrt(dice.random()) if i else 0.0
        size = half * (0.78 if not i else dice.uniform(0.4, 0.6))
        r = size * (wide / half)
        place = lean + off * wide * math.cos(angle), middle + 0.1 * half + off * half * math.sin(angle)
        brush.paint(blob(dice, *place, r, size / r), green.toned(dice.uniform(0.85, 1.12)), bulge=0.35, level=1)


def _branches(
    brush: Brush,
    dice: Dice,
    at: tuple[float, float],
    angle: float,
    length: float,
    thick: float,
    wood: Finish,
    depth: int,
) -> None:
    for turn in (-0.5, 0.1, 0.55):
        way = angle + turn + dice.uniform(-0.2, 0.2)
        tip = at[0] + length * math.cos(way), at[1] + length * math.sin(way)
        brush.paint(limb(at, tip, thick, thick * 0.5), wood, level=1)
        if depth > 1:
            _branches(brush, dice, tip, way, length * 0.66, thick * 0.55, wood, depth - 1)


def bush(brush: Brush, dice: Dice, size: float) -> None:
    """A round shrub."""
    green = finish(dice, "leaves")
    for f in (0.0, -0.5 * size, 0.45 * size):
        brush.paint(
            blob(dice, f, 0.45 * size, 0.55 * size, 0.85), green.toned(dice.uniform(0.9, 1.1)), bulge=0.35, level=1
        )


def backdrop(canvas: Canvas, dice: Dice, name: str, finish_name: str, height: tuple[float, float]) -> None:
    """Hills, woods or a skyline at the end of sight, all around."""
    distance = dice.uniform(130, 260)
    look, panes = finish(dice, finish_name)._replace(scale=dice.uniform(3, 6)), finish(dice, "glass", scale=6)
    for degrees in range(-80, 81, 8):
        angle = math.radians(degrees) + canvas.camera.yaw
        brush = canvas.card(
            name, canvas.camera.x + distance * math.sin(angle), distance * math.cos(angle), layer=BACKDROP
        )  # fmt: skip
        wide, tall = distance * 0.085, dice.between(height)
        if finish_name == "concrete":
            wide *= dice.uniform(0.4, 1.0)
            brush.paint(rect(-wide, wide, -2, tall), look.toned(dice.uniform(0.8, 1.2)), level=1)
            bands = [rect(-0.85 * wide, 0.85 * wide, h, h + 2) for h in range(4, int(tall) - 3, 5)]
            brush.paint(np.array(bands).reshape(-1, 4, 3), panes, "window", level=1)
        else:
            top = [(f * wide / 4, tall * (0.8 + 0.25 * dice.random()), 0.0) for f in range(-4, 5)]
            brush.paint([(-wide, -2, 0), *top, (wide, -2, 0)], look.toned(dice.uniform(0.93, 1.07)), level=1)


# ------------------------------------------------------------------------------------------- borders, in lengths of 3 m


Panel = Callable[[Brush, float], None]


def hedge(dice: Dice) -> Panel:
    """Clipped green."""
    green, tall, deep = finish(dice, "leaves"), dice.uniform(0.7, 1.9), 0.5
    rough = [0.08 * (2 * shift - 1) for shift in dice.array(8).tolist()]

    def paint(brush: Brush, length: float) -> None:
        a = length / 2
        for w in (-deep, deep) if brush.eye[2] > 0 else (deep, -deep):
            top = [(a - 2 * a * i / 7, tall * (1 + rough[i]), w) for i in range(8)]
            brush.paint([(-a, 0, w), (a, 0, w), *top], green.toned(0.95 if w < 0 else 1.0), level=0.4)
        _ends(brush, a, tall, deep, green)

    return paint


def _ends(brush: Brush, a: float, tall: float, deep: float, look: Finish) -> None:
    if abs(brush.eye[0]) > a:
        end = math.copysign(a, brush.eye[0])
        brush.paint([(end, 0, -deep), (end, 0, deep), (end, tall, deep), (end, tall, -deep)], look)


def masonry(dice: Dice) -> Panel:
    """A wall with a coping."""
    look = finish(
        dice, dice.weigh({"brick": 4, "ashlar": 3, "cobbles": 1, "concrete": 2, "plaster": 1.5, "tiles": 0.7})
    )
    top = finish(dice, dice.pick(("ashlar", "concrete", "tiles", "brick")))
    tall, deep = dice.uniform(0.6, 2.4), 0.15

    def paint(brush: Brush, length: float) -> None:
        a, w = length / 2, math.copysign(deep, brush.eye[2])
        _ends(brush, a, tall, deep, look)
        brush.paint(rect(-a, a, 0, tall, w), look)
        brush.paint(rect(-a, a, tall, tall + 0.14, w * 1.3), top)
        if brush.eye[1] > tall + 0.14:
            brush.paint(
                [(-a, tall + 0.14, -0.2), (a, tall + 0.14, -0.2), (a, tall + 0.14, 0.2), (-a, tall + 0.14, 0.2)], top
            )

    return paint


def fence(dice: Dice) -> Panel:
    """Pickets, boards, rails of a paddock, or bars of metal: one sees through most."""
    style = dice.weigh({"pickets": 2, "boards": 2, "rails": 1.5, "bars": 2.5, "sheet": 0.8, "screen": 0.7})
    names = {"bars": "metal", "sheet": "sheet", "screen": "plastic"}
    look = finish(dice, names.get(style, "planks"))
    if style == "pickets" and dice.chance(0.25):
        look = finish(dice, "plastic", rgb("e8e6e0"))
    tall = dice.uniform(0.9, 1.3) if style in ("pickets", "rails") else dice.uniform(1.1, 2.2)
    pitch, bar = {"pickets": (0.3, 0.17), "bars": (0.25, 0.07), "rails": (1.5, 0.14)}.get(style, (3.0, 0.14))

    def paint(brush: Brush, length: float) -> None:
        a = length / 2
        if style in ("boards", "sheet", "screen"):
            brush.paint(rect(-a, a, 0.05, tall), look)
        else:
            count = round(length / pitch)
            posts = [-a + pitch * (i + 0.5) for i in range(count)]
            brush.paint([rect(f - bar / 2, f + bar / 2, 0, tall) for f in posts], look)
        heights = (0.35, 0.65, 0.95) if style == "rails" else (0.25, 0.85)
        brush.paint([rect(-a, a, h * tall - 0.05, h * tall + 0.05) for h in heights], look.toned(0.9))
        brush.paint(rect(-a - 0.06, -a + 0.06, 0, tall + 0.06), look.toned(0.85))

    return paint


# ---------------------------------------------------------------------------------------------------------------- poles


_POSTS = ("8f9496", "6a6e70", "3f4a44", "2a2c2e", "a8a49a", "7a4a38")


def _post(brush: Brush, dice: Dice, tall: float, radius: float) -> Finish:
    material = dice.weigh({"metal": 5, "planks": 1.5, "concrete": 1})
    painted = material == "metal" and dice.chance(0.8)
    look = finish(dice, material, rgb(dice.pick(_POSTS)) if painted else None, scale=0.5)
    brush.of("pole").paint(limb((0, 0), (0, tall), 2.4 * radius, 1.8 * radius), look, bulge=0.35, level=1)
    return look


def pole(brush: Brush, dice: Dice) -> None:
    """A post for wires or flags."""
    tall = dice.uniform(5, 9)
    look = _post(brush, dice, tall, 0.12)
    if dice.chance(0.6):
        brush.paint(limb((-0.9, tall - 0.5), (0.9, tall - 0.5), 0.16, 0.16), look, level=1)


def lamp(brush: Brush, dice: Dice, dusk: bool) -> None:
    """A street lamp: one that hangs from an arm, or a lantern."""
    glowing = 0.95 if dusk else 0.0
    bulb = finish(dice, "glass" if dice.chance(0.6) else "plastic", rgb("f5e3b5" if dusk else "c9ccc8"), scale=0.4)
    shade = bulb._replace(glow=glowing)
    if dice.chance(0.6):
        tall, reach = dice.uniform(5, 7.5), dice.sign() * dice.uniform(1.0, 1.8)
        look = _post(brush, dice, tall, 0.09)
        brush.paint(limb((0, tall - 0.05), (reach, tall + 0.25), 0.16, 0.12), look, "arm", level=1)
        cover = [
            (reach * 0.9, tall + 0.36, 0),
            (reach * 1.4, tall + 0.4, 0),
            (reach * 1.4, tall + 0.22, 0),
            (reach * 0.9, tall + 0.16, 0),
        ]
        brush.paint(cover, look if not dusk else shade, "shade", level=1)
        brush.paint(
            [cover[2], cover[3], (reach * 0.95, tall + 0.04, 0), (reach * 1.35, tall + 0.08, 0)],
            shade,
            "shade",
            level=1,
        )
    else:
        tall = dice.uniform(3, 4.2)
        look = _post(brush, dice, tall, 0.08)
        brush.paint(
            [(-0.15, tall, 0), (0.15, tall, 0), (0.28, tall + 0.55, 0), (-0.28, tall + 0.55, 0)],
            shade,
            "shade",
            level=1,
        )
        brush.paint([(-0.34, tall + 0.55, 0), (0.34, tall + 0.55, 0), (0, tall + 0.8, 0)], look, "shade", level=1)


_LIGHTS = (rgb("d02a20"), rgb("e0a020"), rgb("25a05a"))


def traffic_light(brush: Brush, dice: Dice) -> None:
    """Three lenses in a box, one of them lit."""
    tall, on = dice.uniform(2.2, 4.5), dice.pick((0, 0, 1, 2, 2))
    _post(brush, dice, tall, 0.09)
    box = finish(
        dice, dice.pick(("plastic", "metal")), rgb(dice.pick(("202223", "2f3a35", "c9a52f", "55585a"))), scale=0.5
    )
    for f in ((0.0,), (0.0, dice.sign() * 1.6))[dice.chance(0.3)]:
        if f:
            brush.of("pole").paint(limb((0, tall + 0.8), (f, tall + 0.8), 0.1, 0.1), box, level=1)
        brush.paint(rect(f - 0.24, f + 0.24, tall - 0.1, tall + 1.1), box, level=1)
        for i, colour in enumerate(_LIGHTS):
            lens = finish(dice, "glass", colour, scale=0.3)
            lens = lens._replace(glow=0.95) if i == on else lens.toned(0.35)
            brush.paint(disc(f, tall + 0.9 - 0.4 * i, 0.15), lens, level=1)


_SIGNS = ("c4262a", "1f4f9a", "e6e4de", "e0b52a", "2f7a4a", "d8742a")


def traffic_sign(brush: Brush, dice: Dice) -> None:
    """A round, three-cornered, square or eight-cornered plate of metal or plastic, with something on it."""
    tall, r = dice.uniform(1.9, 2.8), dice.uniform(0.34, 0.52)
    post = tall + r
    _post(brush, dice, post, 0.05)
    outer, inner = dice.pick(_SIGNS), dice.pick(_SIGNS)
    material = "plastic" if dice.chance(0.25) else "metal"
    plate, field = (finish(dice, material, rgb(code), scale=0.8) for code in (outer, inner))
    corners, turn = dice.pick(
        ((14, 0.0), (3, math.pi / 2), (4, math.pi / 4), (4, 0.0), (8, math.pi / 8), (3, -math.pi / 2))
    )
    for size, look in ((r, plate), (0.72 * r, field)):
        angles = [2 * math.pi * i / corners + turn for i in range(corners)]
        brush.paint([(size * math.cos(a), tall + size * math.sin(a), 0.0) for a in angles], look, level=1)
    mark = plate.toned(0.5)
    if dice.chance(0.5):
        brush.paint(rect(-0.35 * r, 0.35 * r, tall - 0.12 * r, tall + 0.1 * r), mark, level=1)
    else:
        brush.paint(limb((-0.1 * r, tall - 0.4 * r), (0.08 * r, tall + 0.4 * r), 0.2 * r, 0.2 * r), mark, level=1)
