"""Surfaces: the look of a material, as a function of the place on the surface.

A texture takes coordinates u, v (float32 [n], one unit is one brick, one board, one leaf ...) of all the pixels of its
kind at once and returns two numbers for each pixel: ``mix`` in [0, 1] leads from the surface's colour to its accent
(mortar, stripes, reflections), ``tone`` around 0 lightens or darkens. Colours are drawn apart from that and overlap
between materials on purpose: it is the texture that tells them.
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from trust_exp.data.config import NOTHING
from trust_exp.data.street_scenes.drawing.concepts import MATERIALS
from trust_exp.data.street_scenes.drawing.dice import Dice

Colour = tuple[float, float, float]
Function = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

GRID = 8  # units after which noise repeats
CELL = 32  # samples per unit


class Texture(NamedTuple):
    """A texture with the colours and scales (metres per unit) that it comes in."""

    function: Function
    material: int
    colours: tuple[Colour, ...]
    accents: tuple[Colour, ...]
    scale: tuple[float, float]


class Finish(NamedTuple):
    """One choice from a texture: what a surface is painted with. ``glow`` is the share of its own light."""

    kind: int
    colour: Colour
    accent: Colour
    scale: float
    phase: tuple[float, float]
    glow: float = 0.0

    def tinted(self, colour: Colour, accent: Colour | None = None) -> "Finish":
        """The same in another colour."""
        return self._replace(colour=colour, accent=accent or colour)

    def toned(self, factor: float) -> "Finish":
        """The same, lighter or darker."""
        red, green, blue = self.colour
        return self._replace(colour=(red * factor, green * factor, blue * factor))


TEXTURES: list[Texture] = []
KINDS: dict[str, int] = {}


def rgb(code: str) -> Colour:
    """``"c08040"`` as fractions."""
    red, green, blue = bytes.fromhex(code)
    return red / 255, green / 255, blue / 255


def texture(material: str, scale: tuple[float, float], colours: str, accents: str) -> Callable[[Function], Function]:
    """Enter a function as a texture under its name; without a material it is none of MATERIALS."""

    def enter(function: Function) -> Function:
        index = MATERIALS.index(material) if material else NOTHING
        palette, accent = (tuple(map(rgb, codes.split())) for codes in (colours, accents))
        KINDS[function.__name__] = len(TEXTURES)
        TEXTURES.append(Texture(function, index, palette, accent, scale))
        return function

    return enter


def finish(dice: Dice, name: str, colour: Colour | None = None, scale: float | None = None) -> Finish:
    """Draw a finish of a texture: one of its colours, a little off, at some scale and place."""
    kind = KINDS[name]
    made = TEXTURES[kind]
    light = dice.uniform(0.8, 1.15)
    red, green, blue = colour or dice.pick(made.colours)
    off = [light * dice.uniform(0.93, 1.07) for _ in range(3)]
    return Finish(
        kind=kind,
        colour=(red * off[0], green * off[1], blue * off[2]),
        accent=dice.pick(made.accents),
        scale=scale or dice.between(made.scale),
        phase=(dice.uniform(0, GRID), dice.uniform(0, GRID)),
    )


# ---------------------------------------------------------------------------------------------------------------- noise


class Noise(NamedTuple):
    """Tables that repeat in both directions, float32 [side * side], side = GRID * CELL."""

    white: np.ndarray  # uniform in [0, 1)
    smooth: np.ndarray  # uniform in [0, 1], hills about one unit wide
    edge: np.ndarray  # distance to the border of a cell, in units
    cell: np.ndarray  # a random number of each cell, uniform in [0, 1)


@cache
def noise() -> Noise:
    """The noise of all scenes; hills come from sums of integers, so that clouds have the same outline everywhere."""
    dice, side = Dice("street_scenes", "noise"), GRID * CELL
    white = dice.bytes(side * side).reshape(side, side)
    hills = white.astype(np.int64)
    for axis in (0, 1, 0, 1, 0, 1):
        window = np.cumsum(np.concatenate([hills, hills], axis), axis)
        hills = np.take(window, np.arange(CELL // 2, CELL // 2 + side), axis) - np.take(window, np.arange(side), axis)
    rank = np.empty(side * side, np.float32)
    rank[np.argsort(hills, axis=None, kind="stable")] = np.linspace(0, 1, side * side)
    edge, cell = _cells(dice, side)
    return Noise(white.astype(np.float32).ravel() / 256, rank, edge, cell)


def _cells(dice: Dice, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells of a jittered grid: distance between the borders of the two nearest, and the nearest's number."""
    jitter = dice.array(2 * GRID * GRID).reshape(2, GRID, GRID)
    number = dice.array(GRID * GRID).reshape(GRID, GRID)
    y, x = np.mgrid[:side, :side] / CELL
    row, column = y.astype(int), x.astype(int)
    distances, numbers = [], []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            at = (row + down) % GRID, (column + right) % GRID
            distances.append(np.hypot(row + down + jitter[0][at] - y, column + right + jitter[1][at] - x))
            numbers.append(number[at])
    order = np.argsort(distances, axis=0)
    nearest = np.take_along_axis(np.array(distances), order[:2], 0)
    cell = np.take_along_axis(np.array(numbers), order[:1], 0)[0]
    return (nearest[1] - nearest[0]).astype(np.float32).ravel(), cell.astype(np.float32).ravel()


def _at(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    side = GRID * CELL
    # Far from 0 there is no need for a floor: what is cut off is always above zero.
    column, row = ((CELL * w + np.float32(1 << 16)).astype(np.int32) & (side - 1) for w in (u, v))
    return row * side + column


def smooth(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Soft hills one unit wide, uniform in [0, 1]."""
    return noise().smooth[_at(u, v)]


def cells(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the border and random number of irregular cells one unit wide."""
    at = _at(u, v)
    return noise().edge[at], noise().cell[at]


def grain(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """White noise of each 1/32 unit, uniform in [0, 1)."""
    return noise().white[_at(u, v)]


def block(i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """A random number of the block in column i, row j, uniform in [0, 1)."""
    return noise().white[(i.astype(np.int32) * 37 + j.astype(np.int32) * 1031) & (noise().white.size - 1)]


def fract(x: np.ndarray) -> np.ndarray:
    """The fractional part."""
    return x - np.floor(x)


def clouds(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Density of clouds in [0, 1] where a ray goes u to the right and v up for each unit forward."""
    far = 0.9 / (np.maximum(v, 0) + 0.12)
    x, y = u * far, far * 1.6
    return 0.6 * smooth(x, y) + 0.28 * smooth(2.7 * x, 2.7 * y) + 0.12 * smooth(7 * x, 7 * y)


# ------------------------------------------------------------------------------------------------------------ materials


@texture(
    "brick",
    (0.35, 0.75),
    "8a3f30 a5573f 6b3a30 b78a5c c9b48a 7d7a76 d8d2c8 5a3b36",
    "b8b0a4 d9d4ca 5f5752 8d8379",
)
def brick(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running bond."""
    v = 2.5 * v
    row = np.floor(v)
    u = u + 0.5 * row
    mortar = (fract(u) < 0.12) | (fract(v) < 0.24)
    return mortar.astype(np.float32), 0.5 * (block(np.floor(u), row) - 0.5)


@texture("stone", (0.5, 1.4), "8f8c86 b3a991 a08a72 6d6f73 c7bfae 9b6f5c 7f8a86", "6a655e b5aea2 4e4b48")
def ashlar(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hewn blocks of unequal length."""
    v = 1.7 * v
    row = np.floor(v)
    u = u + 3 * block(row, row)
    joint = (fract(u) < 0.07) | (fract(v) < 0.1)
    rough = 0.35 * (smooth(2.3 * u, 2.3 * v) - 0.5) + 0.3 * (grain(u, v) - 0.5)
    return joint.astype(np.float32), rough + 0.25 * (block(np.floor(u), row) - 0.5)


@texture("stone", (0.25, 0.7), "8b8880 a39a88 6f7276 b9ad98 8a6f60 77807d", "4b4845 5d564e 8b857b")
def cobbles(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Irregular stones."""
    edge, number = cells(u, v)
    return (edge < 0.16).astype(np.float32), 0.55 * (number - 0.5) + 0.25 * (grain(u, v) - 0.5)


@texture("tile", (0.35, 0.9), "b9b2a6 8f8a85 a8745c c9bda8 74808a d9d6cf 8c4a3a 56606a", "8a847b 5c5751 e2ded6")
def tiles(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square slabs in rows and columns."""
    joint = (fract(u) < 0.1) | (fract(v) < 0.1)
    return joint.astype(np.float32), 0.3 * (block(np.floor(u), np.floor(v)) - 0.5) + 0.12 * (fract(u + v) - 0.5)


@texture("tile", (0.35, 0.8), "a14f36 8a3f2e b8694a 5d4a44 6a6c70 3f454b 7f5a3c 4f6a5c", "4a2a22 2c2c2e 6d4636")
def roof_tiles(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping courses: light at their crest, dark under their edge."""
    v = 1.4 * v
    row = np.floor(v)
    u = u + 0.5 * row
    wave = np.abs(2 * fract(u) - 1)
    under = fract(v) < 0.25 + 0.15 * wave
    return 0.8 * under.astype(np.float32), 0.35 * (wave - 0.5) + 0.25 * (block(np.floor(u), row) - 0.5)


@texture("wood", (0.18, 0.5), "8a5f3c 6b4a31 a98259 77706a 9a948b d9d5cb 4f6b52 3f5c78 8c3f34 54483f", "3d2e24 574a40")
def planks(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upright boards with grain."""
    board = np.floor(u)
    gap = fract(u) < 0.14
    veins = smooth(2.6 * u + 5 * board, 0.22 * v + block(board, board))
    return gap.astype(np.float32), 0.55 * (veins - 0.5) + 0.25 * (block(board, board) - 0.5)


@texture("wood", (0.15, 0.4), "6d543d 574737 857158 6f6a62 a39078", "35291f 9a8a70")
def bark(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Long cracks."""
    edge, number = cells(1.3 * u, 0.3 * v)
    return (edge < 0.12).astype(np.float32), 0.5 * (number - 0.5) + 0.3 * (smooth(3 * u, 0.5 * v) - 0.5)


@texture(
    "foliage",
    (0.22, 0.6),
    "4d6b2f 5f7d38 3d5a30 7d8c3c 2f4a2c a8923a b0692f 8c4a34 6b8560",
    "24381f 35502a 1f2a1a",
)
def leaves(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clumps, some lit, some deep in shade."""
    edge, twig = cells(u, v)
    _, leaf = cells(2.7 * u + v, 2.7 * v - u)
    clump = smooth(0.4 * u, 0.4 * v)
    deep = np.clip(1.8 * (0.42 - clump) + 0.4 * (edge < 0.12), 0, 1)
    return deep.astype(np.float32), 0.45 * (twig - 0.45) + 0.6 * (leaf - 0.5) + 0.5 * (clump - 0.5)


@texture(
    "fabric",
    (0.1, 0.25),
    "2d3440 8c2f3a 3f5c8a d6d2c8 4d6b3a c08a3a 6b4a6b 23282b a39a8c 2f6b6b d98c9a 5a4636",
    "1a1c20 f0ece2 8c8478",
)
def cloth(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A weave over soft folds."""
    folds = smooth(0.45 * u, 0.16 * v)
    weave = (fract(u + v) < 0.5) ^ (fract(u - v) < 0.5)
    return 0.3 * (folds < 0.25), 0.65 * (folds - 0.5) + 0.16 * (weave - 0.5)


@texture("fabric", (0.2, 0.6), "3f6b3f 8c2f2f 2f4a7a d9d2c0 c9a23a 4a4a52 6b8f5a b5563f", "f0ece0 e8dcb8 2a2c30")
def stripes(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Striped cloth."""
    folds = smooth(0.3 * u, 0.2 * v)
    return (fract(u) < 0.5).astype(np.float32), 0.45 * (folds - 0.5) + 0.1 * (fract(6 * v) - 0.5)


@texture("glass", (0.9, 2.2), "3a4a58 26303a 5a7080 4a5a56 7d93a3 2d2a28 8a9aa0", "a9c0d0 c9d6dc 6f8a9a d6d0bf 55684f")
def glass(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slanting reflections with sharp borders over a dark inside."""
    bent = u + 0.6 * v + 0.7 * smooth(0.7 * u, 0.7 * v)
    streak = fract(bent)
    mirror = np.clip(5 * (smooth(0.5 * u + 0.3 * v, 0.5 * v) - 0.45), 0, 0.7)
    return np.where(streak < 0.22, 0.85, mirror).astype(np.float32), 0.35 * (fract(0.5 * v) - 0.5)


PAINT = "d9d9d6 a6a9ab 6a6e72 23262a 8c2a2a 2f4a7a 3f5f47 c9a63a 7a6a55 b5c0c7 5a2f3a d07a3a"


@texture("metal", (0.7, 1.6), PAINT, "eef2f5 dfe4e8 c8d2da")
def metal(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A smooth sheet that mirrors the horizon as bright and dark bands."""
    band = fract(1.1 * v + 0.15 * smooth(0.3 * u, 0.3 * v))
    shine = np.clip(1 - 7 * np.abs(band - 0.3), 0, 1)
    return 0.6 * shine, 0.55 * (band - 0.45) + 0.06 * (smooth(0.5 * u, 9 * v) - 0.5)


@texture("metal", (0.2, 0.6), "8f979c a8a39a 5f7380 7a5648 c6c9c8 4f5a55 6b7a6a 9c6a4a", "4a4f53 d0d5d8 6a4a3a")
def sheet(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corrugated sheet with streaks of rust."""
    rust = np.clip(3 * (smooth(0.8 * u, 0.08 * v) - 0.72), 0, 0.6)
    return rust, 0.42 * np.sin(2 * np.pi * u) + 0.15 * (smooth(3 * u, 0.2 * v) - 0.5)


@texture(
    "plastic",
    (0.5, 1.5),
    "e2ddd2 c98f78 2a2d30 4a4e52 b53a34 3a6aa0 e0b23a 4f8a4a 8c8a86 d8b59a 1f2326",
    "ffffff 8a8a8a",
)
def plastic(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Even and dull, one soft gleam."""
    gleam = np.clip(4 * (smooth(0.5 * u, 0.5 * v) - 0.8), 0, 0.35)
    return gleam, 0.1 * (smooth(0.8 * u, 0.8 * v) - 0.5)


@texture("rubber", (0.12, 0.3), "2a2a2c 3a3836 4a4641 1f2022 55524e", "6a655e 121314 7d766c")
def rubber(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Treads full of dust."""
    tread = fract(1.5 * u) < 0.4
    dust = np.clip(2.5 * (smooth(0.8 * u, 0.8 * v) - 0.55), 0, 0.7)
    return dust, 0.5 * (tread ^ (fract(1.5 * v) < 0.4)) + 0.35 * (grain(0.3 * u, 0.3 * v) - 0.6)


@texture("skin", (0.25, 0.5), "f0c8ac dba585 c08660 94613f 6b4430 4a3024 e8b895", "b5604a 7a3f2f d98c74")
def skin(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A soft blush."""
    blush = np.clip(1.2 * (smooth(2 * u, 2 * v) - 0.45), 0, 0.5)
    return blush, 0.3 * (smooth(0.9 * u, 0.9 * v) - 0.5)


# ------------------------------------------------------------------------------------------------ none of the materials


@texture("", (1.0, 1.0), "4a80c0", "c0d0e0")
def sky(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The accent at the horizon fades into the colour above."""
    return np.exp(-np.maximum(v, 0) / 0.22), np.zeros_like(u)


@texture("", (1.0, 1.0), "ffffff", "c0c8d0")
def cloud(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dense in its midst, tinged by the horizon."""
    density = clouds(u, v)
    thin = np.clip(1.5 - 2.2 * density, 0, 1)
    return np.maximum(thin, 0.8 * np.exp(-np.maximum(v, 0) / 0.12)), 0.35 * (density - 0.6)


@texture("", (1.0, 2.5), "5a5b5e 6d6c6a 48494d 7a7672 635f5a", "3a3b3d 8c8a85")
def asphalt(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Speckled, with patches and stains."""
    patch = 0.5 * (smooth(0.25 * u, 0.25 * v) > 0.8)
    return patch, 0.22 * (grain(u, v) - 0.5) + 0.16 * (smooth(0.4 * u, 0.1 * v) - 0.5)


@texture("", (1.5, 4.0), "d8cfba c9b08a b5a69a e0d9cc a8b0a8 c98f6f d9c27a 9aa3b0 b57f78", "8f8676 6f6a62")
def plaster(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Render with stains that run down."""
    stain = np.clip(1.6 * (smooth(2.5 * u, 0.4 * v) - 0.65), 0, 0.5)
    return stain, 0.1 * (smooth(u, v) - 0.5) + 0.08 * (grain(2 * u, 2 * v) - 0.5)


@texture("", (1.5, 3.5), "9a9892 85837e aaa69c 75767a b5aea0", "6a6862 55534f")
def concrete(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cast panels."""
    seam = (fract(u) < 0.025) | (fract(v) < 0.025)
    return seam.astype(np.float32), 0.22 * (smooth(1.4 * u, 0.7 * v) - 0.5) + 0.12 * (grain(u, v) - 0.5)


@texture("", (0.5, 1.5), "6a8a42 7f9548 8c8f4a 5a7a3c a39a58", "4a6a30 a8a060 6f6440")
def grass(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blades and worn patches."""
    worn = np.clip(2 * (smooth(0.3 * u, 0.3 * v) - 0.5), 0, 0.8)
    return worn, 0.4 * (smooth(5 * u, 5 * v) - 0.5) + 0.35 * (grain(0.7 * u, 0.7 * v) - 0.5)


@texture("", (0.6, 2.0), "8a7354 a08a66 6f5c46 b5a07a 7a6658", "5a4a38 c0ae8a")
def soil(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Earth, sand, gravel."""
    patch = smooth(0.5 * u, 0.5 * v)
    return 0.6 * patch, 0.3 * (grain(u, v) - 0.5) + 0.2 * (smooth(3 * u, 3 * v) - 0.5)


@texture("", (0.05, 0.1), "1f1a18 3a2a20 6b4a2f a8793f c9b08a 8a8680 7a3a24", "0f0d0c d9c29a 4a3a2c")
def hair(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strands."""
    strand = smooth(1.5 * u, 0.3 * v)
    return 0.5 * (strand < 0.2), 0.7 * (strand - 0.5)


@texture("", (0.6, 1.5), "dcdad2 e6e4da c9c6bb d9b84a", "8a8780 6a6864")
def marking(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Worn paint."""
    worn = np.clip(3 * (smooth(1.5 * u, 1.5 * v) - 0.7), 0, 0.8)
    return worn, 0.15 * (grain(u, v) - 0.5)
