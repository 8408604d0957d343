"""From strokes to pixels; see ``canvas`` for the idea."""

from typing import NamedTuple

import numpy as np

from trust_exp.data.street_scenes.drawing.canvas import Camera, Canvas, Stroke
from trust_exp.data.street_scenes.drawing.dice import Dice
from trust_exp.data.street_scenes.drawing.light import Light
from trust_exp.data.street_scenes.drawing.textures import TEXTURES, clouds

FINE = 2  # the grid on which polygons are filled has this many samples a pixel in each direction
DIAGONAL = ((0, 0), (1, 1))  # those of them that are seen: two a pixel, for smooth edges; the last gives the labels
NEAR = 0.4  # metres: nothing nearer is seen
SKY, CLOUD = 0, 1  # the first two strokes


class Maps(NamedTuple):
    """Image uint8 [3, H, W]; label, part, material int8 [H, W]."""

    image: np.ndarray
    label: np.ndarray
    part: np.ndarray
    material: np.ndarray


class Lens(NamedTuple):
    """The fine grid of samples, and where a ray (x to the right, y up, 1 forward) meets it."""

    height: int
    width: int
    focal: float  # samples
    row: float  # of the horizon
    column: float  # of the middle

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y of all samples that are seen, float32 [samples] each."""
        x = ((np.arange(self.width) + 0.5 - self.column) / self.focal).astype(np.float32)
        y = ((self.row - np.arange(self.height) - 0.5) / self.focal).astype(np.float32)
        shape = self.height // FINE, self.width // FINE
        xs = [np.broadcast_to(x[j::FINE], shape) for _, j in DIAGONAL]
        ys = [np.broadcast_to(y[i::FINE, None], shape) for i, _ in DIAGONAL]
        return np.stack(xs).ravel(), np.stack(ys).ravel()

    def project(self, points: np.ndarray) -> np.ndarray:
        """Column and row of the samples, int64 [n, 2], at points [n, 3] in front of the camera."""
        scale = self.focal / np.maximum(points[:, 2], NEAR / 2)
        at = np.stack([self.column + points[:, 0] * scale, self.row - points[:, 1] * scale], 1)
        return np.floor(at).astype(np.int64)


class Polygons(NamedTuple):
    """All polygons, one after the other: points [P, 3] as seen by the camera; the rest has one entry a polygon."""

    points: np.ndarray
    start: np.ndarray
    end: np.ndarray
    stroke: np.ndarray


def render(canvas: Canvas, light: Light, size: tuple[int, int], dice: Dice) -> Maps:
    """Draw all strokes: the first two are the sky and the clouds, which are cut from a layer that covers it."""
    height, width = (FINE * side for side in size)
    camera = canvas.camera
    lens = Lens(height, width, camera.focal * max(height, width / 2), camera.horizon * height, width / 2)
    strokes = sorted(canvas.strokes, key=lambda stroke: stroke.order)
    polygons = _as_seen(strokes)
    x, y = lens.rays()

    number = _fill(polygons, lens)
    over = np.flatnonzero(number == CLOUD)
    number[over[clouds(x[over], y[over]) <= light.clear]] = SKY
    colour = _shade(number, x, y, _table(strokes, polygons, camera, light, lens), light)
    shaded = _fill(_cast(canvas), lens).astype(bool) & np.array([stroke.ground for stroke in strokes])[number]
    colour *= 1 - (1 - _in_shadow(light))[:, None] * shaded

    names = [(stroke.label, stroke.part, TEXTURES[stroke.finish.kind].material) for stroke in strokes]
    label, part, material = np.array(names, np.int8).T[:, number.reshape(len(DIAGONAL), *size)[-1]]
    return Maps(_develop(colour.reshape(3, len(DIAGONAL), *size).mean(1), light, dice), label, part, material)


# ------------------------------------------------------------------------------------------------------------- geometry


def _as_seen(strokes: list[Stroke]) -> Polygons:
    count = [len(s.points) for s in strokes]
    corners = np.repeat([s.points.shape[1] for s in strokes], count)
    stroke = np.repeat(np.arange(len(strokes)), count)
    local = np.concatenate([s.points.reshape(-1, 3) for s in strokes])
    frame = np.stack([s.frame for s in strokes])[np.repeat(stroke, corners)]
    points = (local[:, :, None] * frame[:, :3]).sum(1) + frame[:, 3]
    end = np.cumsum(corners)
    return Polygons(points, end - corners, end, stroke)


def _cast(canvas: Canvas) -> Polygons:
    """The shadows, all as stroke 1."""
    corners = np.repeat([s.shape[1] for s in canvas.shadows], [len(s) for s in canvas.shadows])
    flat = np.concatenate([s.reshape(-1, 2) for s in canvas.shadows])
    end = np.cumsum(corners)
    points = np.stack([flat[:, 0], np.full(len(flat), -canvas.camera.height), flat[:, 1]], 1)
    return Polygons(points, end - corners, end, np.ones(len(corners), int))


def _fill(polygons: Polygons, lens: Lens) -> np.ndarray:
    """Number of the stroke of the last polygon over each sample that is seen, int32 [samples]."""
    from PIL import Image, ImageDraw

    points, start, end, stroke = polygons
    at = lens.project(points)
    nearest, farthest = (f.reduceat(points[:, 2], start) for f in (np.minimum, np.maximum))
    low, high = (f.reduceat(at, start) for f in (np.minimum, np.maximum))
    cut = nearest < NEAR
    seen = (farthest > NEAR) & (cut | ((high >= 0) & (low < (lens.width, lens.height))).all(1))
    image = Image.new("I", (lens.width, lens.height))
    draw = ImageDraw.Draw(image)
    flat = at.ravel().tolist()
    for i in np.flatnonzero(seen).tolist():
        a, b = int(start[i]), int(end[i])
        where = lens.project(_clipped(points[a:b])).ravel().tolist() if cut[i] else flat[2 * a : 2 * b]
        draw.polygon(where, fill=int(stroke[i]))
    grid = np.asarray(image)
    return np.stack([grid[i::FINE, j::FINE] for i, j in DIAGONAL]).ravel()


def _clipped(points: np.ndarray) -> np.ndarray:
    """The part of a polygon beyond the near plane (Sutherland and Hodgman 1974)."""
    corners = points.tolist()  # a few corners are faster as floats than as arrays
    kept = []
    for (ax, ay, az), (bx, by, bz) in zip([corners[-1], *corners], corners, strict=False):
        if (az < NEAR) != (bz < NEAR):
            t = (NEAR - az) / (bz - az)
            kept.append((ax + t * (bx - ax), ay + t * (by - ay), NEAR))
        if bz >= NEAR:
            kept.append((bx, by, bz))
    return np.array(kept)


# ---------------------------------------------------------------------------------------------------------------- light


class Table(NamedTuple):
    """The parameters of each stroke for its samples; a row [3] times a ray (x, y, 1) is linear on the screen."""

    kind: np.ndarray  # uint8 [n]: the texture
    columns: np.ndarray  # float32 [20, n], in the order in which ``_shade`` takes them


def _table(strokes: list[Stroke], polygons: Polygons, camera: Camera, light: Light, lens: Lens) -> Table:
    """A plane with unit axes e, f and origin o, all of whose points p have m . p = 1, is met by the ray r at depth
    1 / (m . r); there its coordinate (p - o) . e is (e - (o . e) m) . r / (m . r).
    """
    first = np.searchsorted(polygons.stroke, np.arange(len(strokes)))
    frame = np.stack([stroke.frame for stroke in strokes])
    normal, across, up = _axes(polygons, first, frame)
    corner, origin = polygons.points[polygons.start[first]], frame[:, 3]
    gap = (normal * corner).sum(1, keepdims=True)
    m = normal / np.where(np.abs(gap) < 1e-3, np.copysign(1e-3, gap), gap)
    rows = [axis - (origin * axis).sum(1, keepdims=True) * m for axis in (across, up)]

    finishes = [stroke.finish for stroke in strokes]
    scale = np.array([finish.scale for finish in finishes])[:, None]
    phase = np.array([finish.phase for finish in finishes])
    texture = [row / scale + phase[:, i : i + 1] * m for i, row in enumerate(rows)]
    sun = np.array([*camera.rotated(light.sun[0], light.sun[2]), light.sun[1]])[[0, 2, 1]]
    bulge = _bulge(strokes, polygons, first, origin, (across, up), rows, m, sun)

    lit = _lit(strokes, np.where(gap > 0, -normal, normal), sun, light)
    colours = [np.array([finish.colour for finish in finishes]) * lit, np.array([f.accent for f in finishes]) * lit]
    detail = np.linalg.norm(m, axis=1, keepdims=True) / (scale * lens.focal)
    haze = np.array([[0.0 if stroke.order == 0 else 1 / light.visibility] for stroke in strokes])
    columns = np.hstack([m, *texture, bulge, *colours, detail, haze]).T.astype(np.float32)
    return Table(np.array([finish.kind for finish in finishes], np.uint8), columns)


def _axes(polygons: Polygons, first: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit normal, axis across and axis up (on level planes: ahead) of each stroke's plane, [n, 3] each."""
    following = np.arange(1, len(polygons.points) + 1)
    following[polygons.end - 1] = polygons.start
    area = np.add.reduceat(np.cross(polygons.points, polygons.points[following]), polygons.start)[first]
    normal = area / np.maximum(np.linalg.norm(area, axis=1, keepdims=True), 1e-12)
    guide = np.where(np.abs(normal[:, 1:2]) > 0.9, frame[:, 0], frame[:, 1])
    up = guide - (guide * normal).sum(1, keepdims=True) * normal
    up /= np.maximum(np.linalg.norm(up, axis=1, keepdims=True), 1e-12)
    return normal, np.cross(up, normal), up


def _bulge(
    strokes: list[Stroke],
    polygons: Polygons,
    first: np.ndarray,
    origin: np.ndarray,
    axes: tuple[np.ndarray, np.ndarray],
    rows: list[np.ndarray],
    m: np.ndarray,
    sun: np.ndarray,
) -> np.ndarray:
    """Rows of how much lighter a surface gets from its middle towards the sun, [n, 3]."""
    owner = np.repeat(np.arange(len(polygons.start)), polygons.end - polygons.start)
    from_origin = polygons.points - origin[polygons.stroke[owner]]
    total = np.zeros_like(m)
    for axis, row in zip(axes, rows, strict=True):
        along = (from_origin * axis[polygons.stroke[owner]]).sum(1)
        low, high = (f.reduceat(along, polygons.start)[first] for f in (np.minimum, np.maximum))
        middle, half = (low + high)[:, None] / 2, np.maximum(high - low, 1e-3)[:, None] / 2
        total += (axis @ sun)[:, None] * (row - middle * m) / half
    return total * np.array([[stroke.bulge] for stroke in strokes])


def _lit(strokes: list[Stroke], normal: np.ndarray, sun: np.ndarray, light: Light) -> np.ndarray:
    """Factors of the colours of each stroke, [n, 3]."""
    level, glow = (
        np.array(values)[:, None] for values in zip(*((s.level, s.finish.glow) for s in strokes), strict=True)
    )
    facing = _facing(normal @ sun)[:, None] * (1 - level) + 0.55 * level
    lit = np.array(light.ambient) * (0.87 + 0.13 * normal[:, 1:2]) + np.array(light.direct) * facing
    return lit * (1 - glow) + glow


def _facing(cosine: np.ndarray | float) -> np.ndarray:
    """Sunlight on a surface: a little more than Lambert's, for what the surroundings throw back."""
    return np.maximum(0, 0.2 + 0.8 * np.asarray(cosine))


def _in_shadow(light: Light) -> np.ndarray:
    ambient = 0.85 * np.array(light.ambient)
    return (ambient / (light.ambient + np.array(light.direct) * _facing(light.sun[1]))).astype(np.float32)


def _shade(number: np.ndarray, x: np.ndarray, y: np.ndarray, table: Table, light: Light) -> np.ndarray:
    """Colours of all samples, float32 [3, n]."""
    kind = table.kind[number]
    order = np.argsort(kind, kind="stable")  # samples of one texture lie together: it is computed in one go
    x, y = x[order], y[order]
    c = np.take(table.columns, number[order], axis=1)
    depth = 1 / np.maximum(c[0] * x + c[1] * y + c[2], 1e-4)
    # A plane seen from its edge has no place to speak of: any will do that fits into an integer.
    u, v, bulge = (np.clip((c[i] * x + c[i + 1] * y + c[i + 2]) * depth, -1e5, 1e5) for i in (3, 6, 9))
    visible = np.clip(1.4 - 1.6 * depth * depth * c[18], 0, 1)  # detail finer than the samples would flicker
    mix, tone = np.empty_like(u), np.empty_like(u)
    starts = np.searchsorted(kind[order], np.arange(len(TEXTURES) + 1))
    for texture, a, b in zip(TEXTURES, starts, starts[1:], strict=False):
        if a < b:
            mixed, tone[a:b] = texture.function(u[a:b], v[a:b])
            mean = mixed.mean()
            mix[a:b] = mean + (mixed - mean) * visible[a:b]
    tone = 1 + tone * visible + np.clip(bulge, -0.6, 0.6)
    clear = np.exp(-depth * c[19])
    colour = np.empty((3, len(number)), np.float32)
    for channel in range(3):
        own, accent = c[12 + channel], c[15 + channel]
        fog = np.float32(light.horizon[channel])
        colour[channel, order] = fog + ((own + (accent - own) * mix) * tone - fog) * clear
    return colour


def _develop(image: np.ndarray, light: Light, dice: Dice) -> np.ndarray:
    """Soften, add noise: uint8 [3, H, W] from colours float32 [3, H, W]."""
    share = np.float32(light.blur)
    for axis in (1, 2):
        padded = np.concatenate([image.take([0], axis), image, image.take([-1], axis)], axis)
        n = image.shape[axis]
        sides = padded.take(range(n), axis) + padded.take(range(2, n + 2), axis)
        image = image * (1 - 2 * share) + sides * share
    # The sum of two uniform bytes: close enough to a bell, and a fifth of its price.
    pair = dice.bytes(2 * image.size).reshape(2, *image.shape)
    noise = (pair[0].astype(np.float32) + pair[1] - 255) * np.float32(light.grain * 255 / 104.5)
    return np.clip(image * 255 + noise + 0.5, 0, 255).astype(np.uint8)
