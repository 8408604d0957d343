"""Buildings: a box with storeys of windows, doors or shops in its ground floor, and a roof."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trust_exp.data.street_scenes.drawing.canvas import DETAIL, Brush
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.textures import Finish, finish, rgb


class Plan(NamedTuple):
    """Measures of one building, metres. Its front is the plane w = 0, from -half to half along f."""

    half: float
    depth: float
    storeys: int
    storey: float
    ground: str  # what its ground floor is: house, shop, hall
    roof: str  # flat, eaves (the ridge is along the street), gable (its end is to the street)

    @property
    def top(self) -> float:
        """Height of the walls."""
        return self.storeys * self.storey


class Windows(NamedTuple):
    """The windows of one building."""

    width: float
    height: float
    pitch: float
    glass: Finish
    lit: Finish
    frame: Finish
    shutter: Finish | None
    lit_share: float


def draw_windows(dice: Dice, dusk: bool, storey: float, tall: bool) -> Windows:
    """Small ones with shutters, or bands of glass."""
    width = dice.uniform(0.9, 1.5) if not tall else dice.uniform(1.2, 2.6)
    glass = finish(dice, "glass")
    return Windows(
        width=width,
        height=storey * (dice.uniform(0.42, 0.6) if not tall else dice.uniform(0.55, 0.8)),
        pitch=width + dice.uniform(0.5, 1.8) * (0.5 if tall else 1),
        glass=glass,
        lit=glass.tinted(rgb("f0c878"), rgb("c9924a"))._replace(glow=0.85) if dusk else finish(dice, "glass"),
        frame=finish(dice, dice.pick(("planks", "plastic", "metal")), rgb("e2e0da") if dice.chance(0.6) else None),
        shutter=finish(dice, "planks") if not tall and dice.chance(0.25) else None,
        lit_share=dice.uniform(0.2, 0.6) if dusk else dice.uniform(0, 0.4),
    )


Place = Callable[[np.ndarray], np.ndarray]  # (s, h) on a wall, [..., 2], to (f, h, w), [..., 3]


def building(brush: Brush, dice: Dice, plan: Plan, wall: str, dusk: bool) -> None:
    """Paint what of it faces the camera: ends, front, roof."""
    look, base = finish(dice, wall), finish(dice, dice.pick(("ashlar", "plaster", "brick", "tiles")))
    tall = plan.storeys > 4 and dice.chance(0.6)
    windows = draw_windows(dice, dusk, plan.storey, tall)
    two_tone = plan.storeys > 1 and dice.chance(0.3)
    if abs(brush.eye[0]) > plan.half:
        _end(brush, dice, plan, look, windows, math.copysign(plan.half, brush.eye[0]))
    if brush.eye[2] > 0:
        brush.paint(_wall(0, plan.top, plan, _front), look, "wall")
        if two_tone or plan.ground == "shop":
            brush.paint(_wall(0, plan.storey, plan, _front), base, "wall")
        _rows(brush, dice, windows, plan, _front, (-plan.half, plan.half), first=1)
        _GROUND[plan.ground](brush, dice, plan, windows, dusk)
    _roof(brush, dice, plan, look)


def _front(at: np.ndarray) -> np.ndarray:
    return np.concatenate([at, np.zeros((*at.shape[:-1], 1))], -1)


def _wall(low: float, high: float, plan: Plan, place: Place) -> np.ndarray:
    return place(_boxes(np.zeros(1), np.full(1, low), plan.half, high - low))[0]


def _boxes(middle: np.ndarray, low: np.ndarray, half: float, tall: float) -> np.ndarray:
    """Rectangles on a wall around ``middle`` from ``low`` up, [n, 4, 2]."""
    boxes = np.empty((len(middle), 4, 2))
    boxes[:, (0, 3), 0], boxes[:, (1, 2), 0] = middle[:, None] - half, middle[:, None] + half
    boxes[:, :2, 1], boxes[:, 2:, 1] = low[:, None], low[:, None] + tall
    return boxes


def _rows(
    brush: Brush, dice: Dice, windows: Windows, plan: Plan, place: Place, span: tuple[float, float], first: int
) -> None:
    """Windows in all storeys from ``first`` on."""
    columns = int((span[1] - span[0] - 0.5) / windows.pitch)
    rows = range(first, plan.storeys)
    if columns < 1 or not rows:
        return
    middle = (span[0] + span[1]) / 2 + windows.pitch * (np.arange(columns) - (columns - 1) / 2)
    sill = plan.storey * np.array(rows) + 0.28 * (plan.storey - windows.height) + 0.3
    s, h = (grid.ravel() for grid in np.meshgrid(middle, sill))
    paint_windows(brush, dice, windows, place, s, h)


def paint_windows(brush: Brush, dice: Dice, windows: Windows, place: Place, s: np.ndarray, h: np.ndarray) -> None:
    """Frames, panes, bars and shutters of windows with their middles at s and their sills at h."""
    half, tall = windows.width / 2, windows.height
    near = brush.distance < DETAIL
    if near and windows.shutter:
        sides = np.concatenate([s - 1.5 * half - 0.05, s + 1.5 * half + 0.05])
        brush.paint(place(_boxes(sides, np.tile(h, 2), half / 2, tall)), windows.shutter, "window")
    if near:
        brush.paint(place(_boxes(s, h - 0.08, half + 0.08, tall + 0.16)), windows.frame, "window")
    lit = dice.array(len(s)) < windows.lit_share
    for chosen, pane in ((~lit, windows.glass), (lit, windows.lit)):
        brush.paint(place(_boxes(s[chosen], h[chosen], half, tall)), pane, "window")
    if near:
        bars = _boxes(s, h, 0.04, tall) if windows.width < 1.6 else _boxes(s, h + 0.6 * tall, half, 0.07)
        brush.paint(place(bars), windows.frame, "window")


def _end(brush: Brush, dice: Dice, plan: Plan, look: Finish, windows: Windows, f: float) -> None:
    """The wall at the side, with its gable and perhaps windows; s runs back from the front."""

    def place(at: np.ndarray) -> np.ndarray:
        return np.stack([np.full(at.shape[:-1], f), at[..., 1], -at[..., 0]], -1)

    look = look._replace(phase=(look.phase[0] + 3, look.phase[1]))
    brush.paint(place(np.array([(0, 0), (plan.depth, 0), (plan.depth, plan.top), (0, plan.top)], float)), look, "wall")
    if plan.roof == "eaves":
        gable = np.array([(0, plan.top), (plan.depth, plan.top), (plan.depth / 2, plan.top + _rise(plan))], float)
        brush.paint(place(gable), look, "wall")
    if dice.chance(0.5):
        _rows(brush, dice, windows, plan, place, (0.5, plan.depth - 0.5), first=dice.whole(0, 1))


# --------------------------------------------------------------------------------------------------------- ground floor


def _house(brush: Brush, dice: Dice, plan: Plan, windows: Windows, dusk: bool) -> None:
    at = dice.uniform(-0.7, 0.7) * (plan.half - 1)
    middles = np.arange(-plan.half + 1.2, plan.half - 1, max(windows.pitch, windows.width + 0.4))
    s = middles[np.abs(middles - at) > windows.width / 2 + 1.1]
    if len(s):
        paint_windows(brush, dice, windows, _front, s, np.full(len(s), 0.28 * (plan.storey - windows.height) + 0.4))
    door(brush, dice, at, dice.uniform(0.95, 1.3), 2.25)
    if dice.chance(0.25):
        door(brush, dice, -at if abs(at) > 2 else at + 2.5 * dice.sign(), 2.4, 2.2, garage=True)


def door(brush: Brush, dice: Dice, at: float, wide: float, tall: float, garage: bool = False) -> None:
    """A door of wood, metal, plastic or glass in its frame."""
    names = {
        "planks": 3.0,
        "metal": 1.5,
        "sheet": 3.0 if garage else 0,
        "plastic": 1.0,
        "glass": 0.0 if garage else 1.5,
    }
    look, frame = finish(dice, dice.weigh(names)), finish(dice, dice.pick(("ashlar", "planks", "plastic")))
    if brush.distance < DETAIL:
        around = _boxes(np.array([at]), np.zeros(1), wide / 2 + 0.12, tall + 0.14)
        brush.paint(_front(around), frame, "door")
    brush.paint(_front(_boxes(np.array([at]), np.zeros(1), wide / 2, tall)), look, "door")
    if not garage and brush.distance < DETAIL:
        pane = _boxes(np.array([at]), np.array([0.6 * tall]), wide * 0.3, 0.3 * tall)
        brush.paint(_front(pane), finish(dice, "glass"), "door")


def _shop(brush: Brush, dice: Dice, plan: Plan, windows: Windows, dusk: bool) -> None:
    """Shop fronts side by side: display windows, a sign above, perhaps an awning; the door is the building's."""
    count = max(1, round(2 * plan.half / dice.uniform(5, 9)))
    each = 2 * plan.half / count
    for i in range(count):
        _shop_front(brush, dice, -plan.half + each * (i + 0.5), each / 2 - 0.25, plan.storey, dusk)


def _shop_front(brush: Brush, dice: Dice, middle: float, half: float, storey: float, dusk: bool) -> None:
    at = np.array([middle])
    zero = np.zeros(1)
    surround = finish(dice, dice.weigh({"planks": 2, "metal": 1, "plastic": 1.5, "tiles": 1.5, "ashlar": 1}))
    brush.paint(_front(_boxes(at, zero, half, storey * 0.98)), surround, "shop")
    glass = finish(dice, "glass")
    glass = glass.tinted(rgb("f2d9a0"), rgb("d0a868"))._replace(glow=0.8) if dusk and dice.chance(0.8) else glass
    brush.paint(_front(_boxes(at, zero + 0.45, half - 0.25, storey * 0.72 - 0.45)), glass, "shop")
    if brush.distance < DETAIL:
        posts = np.arange(middle - half + 1.6, middle + half - 0.8, 1.6)
        brush.paint(_front(_boxes(posts, np.full(len(posts), 0.45), 0.05, storey * 0.72 - 0.45)), surround, "shop")
    door(brush, dice, middle + dice.uniform(-0.6, 0.6) * half, 1.15, storey * 0.68)
    sign = finish(dice, dice.weigh({"plastic": 4, "planks": 1.5, "metal": 1.5}), scale=0.9)
    sign = sign._replace(glow=0.6 if dusk else 0.0)
    brush.paint(_front(_boxes(at, zero + storey * 0.76, half, storey * 0.2)), sign, "shop")
    if brush.distance < DETAIL:
        letters, low = middle + np.linspace(-0.5, 0.5, 7) * half, np.full(7, storey * 0.81)
        brush.paint(_front(_boxes(letters, low, 0.05 * half, storey * 0.1)), sign.tinted(sign.accent), "shop")
    # An awning over the camera would have to hide what lies beyond it, but buildings are painted first.
    if dice.chance(0.55) and brush.eye[2] > 3.5:
        _awning(brush, dice, middle, half, storey * 0.78)


def _awning(brush: Brush, dice: Dice, middle: float, half: float, top: float) -> None:
    cloth = finish(dice, "stripes" if dice.chance(0.6) else "cloth", scale=dice.uniform(0.4, 0.9))
    out, low = dice.uniform(0.9, 1.6), top - dice.uniform(0.4, 0.8)
    a, b = middle - half, middle + half
    brush.paint([(a, top, 0), (b, top, 0), (b, low, out), (a, low, out)], cloth, "shop", level=0.5)
    brush.paint([(a, low, out), (b, low, out), (b, low - 0.25, out), (a, low - 0.25, out)], cloth.toned(0.9), "shop")


def _hall(brush: Brush, dice: Dice, plan: Plan, windows: Windows, dusk: bool) -> None:
    """Gates and a small door; a band of windows under the roof where there is one storey."""
    gates = dice.whole(1, max(1, int(plan.half / 3.5)))
    for i in range(gates):
        at = -plan.half + 2 * plan.half * (i + 0.5) / gates
        door(brush, dice, at, min(4.0, plan.half), min(3.8, plan.storey * 0.75), garage=True)
    door(brush, dice, plan.half - 0.9, 1.0, 2.1)
    if plan.storeys == 1 and dice.chance(0.6):
        s = np.arange(-plan.half + 1.5, plan.half - 1, 2.6)
        paint_windows(
            brush,
            dice,
            windows._replace(width=1.9, height=0.8, shutter=None),
            _front,
            s,
            np.full(len(s), plan.storey * 0.8),
        )


_GROUND = {"house": _house, "shop": _shop, "hall": _hall}


# ---------------------------------------------------------------------------------------------------------------- roofs


def _rise(plan: Plan) -> float:
    return 0.32 * min(plan.depth, 12.0) if plan.roof == "eaves" else 0.8 * min(plan.half, 6.0)


def _roof(brush: Brush, dice: Dice, plan: Plan, wall: Finish) -> None:
    a, top, back = plan.half, plan.top, -plan.depth
    if plan.roof == "flat":
        edge = finish(dice, dice.pick(("metal", "ashlar", "concrete", "tiles")))
        if brush.eye[2] > 0.2:
            brush.paint(
                [(-a, top - 0.1, 0.2), (a, top - 0.1, 0.2), (a, top + 0.45, 0.2), (-a, top + 0.45, 0.2)], edge, "roof"
            )
        if abs(brush.eye[0]) > a:
            f = math.copysign(a, brush.eye[0])
            brush.paint(
                [(f, top - 0.1, 0.2), (f, top - 0.1, back), (f, top + 0.45, back), (f, top + 0.45, 0.2)], edge, "roof"
            )
        return
    look = finish(dice, dice.weigh({"roof_tiles": 5, "sheet": 1.2, "ashlar": 0.6, "planks": 0.5}))
    ridge = top + _rise(plan)
    if plan.roof == "eaves":
        if brush.sees((0, top, 0), (0, plan.depth / 2, ridge - top)):
            slope = [
                (-a - 0.3, top - 0.2, 0.4),
                (a + 0.3, top - 0.2, 0.4),
                (a + 0.3, ridge, back / 2),
                (-a - 0.3, ridge, back / 2),
            ]
            brush.paint(slope, look, "roof")
    else:
        for side in (-1, 1):
            if brush.sees((side * a, top, 0), (side * (ridge - top), a, 0)):
                slope = [
                    (side * (a + 0.3), top - 0.2, 0.4),
                    (0, ridge, 0.4),
                    (0, ridge, back),
                    (side * (a + 0.3), top - 0.2, back),
                ]
                brush.paint(slope, look, "roof")
        if brush.eye[2] > 0:
            brush.paint([(-a, top, 0), (a, top, 0), (0, ridge, 0)], wall, "wall")
    if plan.storeys < 5 and dice.chance(0.6):
        _chimney(
            brush,
            dice,
            dice.uniform(-0.7, 0.7) * a,
            ridge if plan.roof == "eaves" else top + 0.6 * (ridge - top),
            back / 2,
        )


def _chimney(brush: Brush, dice: Dice, f: float, h: float, w: float) -> None:
    look = finish(dice, dice.pick(("brick", "brick", "metal", "ashlar")), scale=0.4)
    brush.paint([(f - 0.4, h - 0.6, w), (f + 0.4, h - 0.6, w), (f + 0.4, h + 0.9, w), (f - 0.4, h + 0.9, w)], look)
