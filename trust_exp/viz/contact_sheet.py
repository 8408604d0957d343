"""Contact sheets: many images of a data set on one page, with their labels, boxes or maps.

Drawn by Pillow: torchvision's ``draw_bounding_boxes`` has no dashes, rims or readable ink on dark labels, its
``draw_segmentation_masks`` took 9 times as long for 100 kinds, and its ``make_grid`` has no captions.
"""

import colorsys
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from trust_exp.viz.style import save

Colour = tuple[int, int, int]
Sizes = tuple[int, int]  # width and height, as PIL has them

INK, FAINT, EDGE, PAPER = (33, 37, 41), (134, 142, 150), (206, 212, 218), (255, 255, 255)
UNLABELLED = (52, 58, 64)
TITLE, TEXT, SMALL = 21, 14, 12  # heights of letters
LINE = 24  # of text
MARGIN, GAP = 30, 12
WIDTH = 1800  # of a page, about
DOTS = 160  # an inch, of a page as PDF or SVG
LARGEST_TILE = 400
TONES = ((0.78, 0.86), (0.62, 0.98), (0.85, 0.62), (0.45, 0.88), (1.0, 0.75))  # saturation and value of colours
MOST_NAMES = 48  # in a legend, for each heading


class Frame(NamedTuple):
    """A box on an image: left, top, right, bottom in its pixels; ``dashed`` if it does not count."""

    box: tuple[float, float, float, float]
    name: str
    colour: Colour
    dashed: bool


class Tile(NamedTuple):
    """One picture: uint8 [H, W, 3], the words below it at the left and at the right, and its boxes."""

    image: np.ndarray
    words: str
    remark: str = ""
    frames: Sequence[Frame] = ()


class Labels(NamedTuple):
    """A map of each image: int [B, H, W], positions in ``names``; -1 is unlabelled, -2 is nothing."""

    kind: str
    names: Sequence[str]
    maps: np.ndarray


class Sheet(NamedTuple):
    """The content of a page: strips of tiles that stay side by side, with images of one shape.

    ``across`` tiles stand in a row, unless a strip has more; a strip shorter than the longest leaves room at its end.
    The legend has the colours of names under their headings.
    """

    strips: Sequence[Sequence[Tile]]
    across: int
    legend: Mapping[str, Mapping[str, Colour]] = {}


# --- what stands on a sheet -----------------------------------------------------------------------------------------


def plain_sheet(images: np.ndarray, names: Sequence[str], index: Sequence[int]) -> Sheet:
    """Images (uint8 [B, H, W, 3]) with the name and the number of each."""
    return Sheet([[Tile(*each)] for each in zip(images, names, _numbers(index), strict=True)], 8)


def framed_sheet(
    images: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    difficult: np.ndarray,
    classes: Sequence[str],
    index: Sequence[int],
) -> Sheet:
    """Images (uint8 [B, H, W, 3]) with their boxes: float [B, M, 4], labels int [B, M], -1 where there is none."""
    palette = colours(len(classes))
    strips = []
    for image, own, kinds, uncounted, number in zip(images, boxes, labels, difficult, _numbers(index), strict=True):
        frames = [
            Frame(tuple(own[place].tolist()), classes[kinds[place]], palette[kinds[place]], bool(uncounted[place]))
            for place in np.flatnonzero(kinds >= 0)
        ]
        tally = Counter(frame.name for frame in frames).most_common()
        words = ", ".join(name if count == 1 else f"{count} {name}" for name, count in tally)
        strips.append([Tile(image, words or "no object", number, frames)])
    return Sheet(strips, 4, {"dashed boxes are difficult: they do not count": {}} if difficult.any() else {})


def mapped_sheet(images: np.ndarray, layers: Sequence[Labels], index: Sequence[int]) -> Sheet:
    """Images (uint8 [B, H, W, 3]), each followed by itself under the colours of every map."""
    legend = {kind: _colours_of(kind, layers) for kind in dict.fromkeys(layer.kind for layer in layers)}
    strips = [[Tile(image, number)] for image, number in zip(images, _numbers(index), strict=True)]
    for layer in layers:
        for strip, labels in zip(strips, layer.maps, strict=True):
            strip.append(Tile(_coloured(strip[0].image, labels, layer.names, legend[layer.kind]), layer.kind))
    return Sheet(strips, 8, legend)


def _numbers(index: Sequence[int]) -> list[str]:
    return [f"#{number}" for number in index]


def _colours_of(kind: str, layers: Sequence[Labels]) -> dict[str, Colour]:
    """A colour for each name of that kind that occurs, the most frequent first."""
    counts: Counter[str] = Counter()
    for layer in layers:
        if layer.kind == kind:
            pixels = np.bincount(layer.maps[layer.maps >= 0], minlength=len(layer.names)).tolist()
            counts.update({name: count for name, count in zip(layer.names, pixels, strict=True) if count})
    special = {"(unlabelled)": (-1, UNLABELLED), "(nothing)": (-2, PAPER)}
    own = [layer.maps for layer in layers if layer.kind == kind]
    found = {name: colour for name, (number, colour) in special.items() if any((maps == number).any() for maps in own)}
    return found | dict(zip((name for name, _ in counts.most_common()), colours(len(counts)), strict=True))


def _coloured(image: np.ndarray, labels: np.ndarray, names: Sequence[str], legend: Mapping[str, Colour]) -> np.ndarray:
    # One row for each name, then rows for -2 and -1, which Python counts from the end.
    table = np.array([*(legend.get(name, PAPER) for name in names), PAPER, UNLABELLED], np.float32)
    share = np.array([*(0.62 for _ in names), 0.55, 0.9], np.float32)[labels][..., None]
    grey = image.mean(2, keepdims=True, dtype=np.float32)
    return (table[labels] * share + grey * (1 - share)).round().astype(np.uint8)


def colours(count: int) -> list[Colour]:
    """Colours that are as distinct as their number allows."""
    palette = []
    for number in range(count):
        hue = (0.57 + number * 0.618034) % 1  # the golden ratio never comes close to an earlier hue
        saturation, value = TONES[number % len(TONES)]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        palette.append((round(255 * red), round(255 * green), round(255 * blue)))
    return palette


# --- drawing ---------------------------------------------------------------------------------------------------------


def draw_contact_sheet(title: str, sheet: Sheet, ending: str = ".png") -> bytes:
    """The page as the content of a file: ``ending`` is .png, or .pdf or .svg, which hold its pixels."""
    page, content = _draw_page(title, sheet), io.BytesIO()
    if ending == ".png":
        page.save(content, "PNG")
        return content.getvalue()
    figure = Figure((page.width / DOTS, page.height / DOTS))
    place = figure.add_axes((0, 0, 1, 1))
    place.set_axis_off()
    place.imshow(np.asarray(page), interpolation="none", aspect="auto")
    save(figure, content, ending)
    return content.getvalue()


def _draw_page(title: str, sheet: Sheet) -> Image.Image:
    length = max(map(len, sheet.strips))
    abreast = min(max(1, sheet.across // length), len(sheet.strips))
    height, width = sheet.strips[0][0].image.shape[:2]
    tile = _tile_size(width, height, abreast * length)
    inner = max(abreast * length * (tile[0] + GAP) - GAP, round(_width(title, TITLE)))
    entries = [line for heading in sheet.legend.items() for line in _legend_lines(*heading, inner)]
    top, step = MARGIN + 2 * TITLE, tile[1] + LINE + GAP
    bottom = top + -(-len(sheet.strips) // abreast) * step
    page = Image.new("RGB", (inner + 2 * MARGIN, bottom + len(entries) * LINE + MARGIN - GAP), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN), title, INK, _font(TITLE), anchor="lt")
    for number, strip in enumerate(sheet.strips):
        row, column = divmod(number, abreast)
        for place, shown in enumerate(strip, start=column * length):
            _draw_tile(page, shown, (MARGIN + place * (tile[0] + GAP), top + row * step), tile)
    for number, line in enumerate(entries):
        _draw_legend_line(draw, line, bottom + number * LINE)
    return page


def write_contact_sheet(path: Path, title: str, sheet: Sheet) -> Path:
    """Draw the page into a file in the format of its ending; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw_contact_sheet(title, sheet, path.suffix))
    return path


def _tile_size(width: int, height: int, columns: int) -> Sizes:
    """The drawn size of images: as large as the page allows, small images enlarged by a whole factor."""
    room = min(LARGEST_TILE, (WIDTH - 2 * MARGIN + GAP) // columns - GAP)
    factor = room / max(width, height)
    factor = max(1, int(factor)) if factor > 1 else factor
    return max(1, round(width * factor)), max(1, round(height * factor))


def _draw_tile(page: Image.Image, tile: Tile, place: Sizes, size: Sizes) -> None:
    image = Image.fromarray(tile.image)
    larger = size[0] >= image.width
    picture = image.resize(size, Image.Resampling.NEAREST if larger else Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for frame in sorted(tile.frames, key=lambda frame: frame.dashed, reverse=True):  # what counts lies on top
        _draw_frame(draw, frame, size[0] / image.width, size)
    page.paste(picture, place)
    draw = ImageDraw.Draw(page)
    left, top = place
    draw.rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=EDGE)
    middle = top + size[1] + LINE // 2 + 1
    room = size[0] - _width(tile.remark, SMALL) - GAP / 2
    draw.text((left, middle), _fitting(tile.words, room, TEXT), INK, _font(TEXT), anchor="lm")
    draw.text((left + size[0], middle), tile.remark, FAINT, _font(SMALL), anchor="rm")


def _draw_frame(draw: ImageDraw.ImageDraw, frame: Frame, factor: float, size: Sizes) -> None:
    left, top, right, bottom = (round(value * factor) for value in frame.box)
    corners = [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]
    edges = list(pairwise([*corners, corners[0]]))
    lines = [dash for edge in edges for dash in _dashes(*edge)] if frame.dashed else edges
    for colour, thick in ((UNLABELLED, 4), (frame.colour, 2)):  # a dark rim, as the image may have the same colour
        for line in lines:
            draw.line(line, colour, thick)
    _, _, width, height = _font(SMALL).getbbox(frame.name, anchor="lt")
    x = max(0, min(left, size[0] - round(width) - 8))
    y = top if top < height + 7 else top - round(height) - 7
    fill, ink = (PAPER, INK) if frame.dashed else (frame.colour, _readable_on(frame.colour))
    draw.rectangle((x, y, x + width + 8, y + height + 7), fill, frame.colour)
    draw.text((x + 4, y + 4), frame.name, ink, _font(SMALL), anchor="lt")


def _dashes(start: Sizes, end: Sizes, length: int = 5) -> Iterator[tuple[Sizes, Sizes]]:
    """The dashes of a vertical or horizontal line."""
    (left, top), (right, bottom) = sorted((start, end))
    for at in range(0, max(right - left, bottom - top) + 1, 2 * length):
        if top == bottom:
            yield (left + at, top), (min(left + at + length, right), top)
        else:
            yield (left, top + at), (left, min(top + at + length, bottom))


def _readable_on(colour: Colour) -> Colour:
    return INK if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 150 else PAPER


def _legend_lines(
    heading: str, names: Mapping[str, Colour], width: int
) -> Iterator[list[tuple[int, str, Colour | None]]]:
    """Lines of a legend: for each word its place from the left and its colour; a heading has none."""
    words: list[tuple[str, Colour | None]] = [(heading, None), *list(names.items())[:MOST_NAMES]]
    if len(names) > MOST_NAMES:
        words.append((f"and {len(names) - MOST_NAMES} more", None))
    line: list[tuple[int, str, Colour | None]] = []
    indent = x = 0
    for word, colour in words:
        step = round(_width(word, TEXT)) + (40 if colour else 22)
        if line and x + step > width:
            yield line
            line, x = [], indent
        line.append((x, word, colour))
        x += step
        indent = indent or step
    yield line


def _draw_legend_line(draw: ImageDraw.ImageDraw, line: Sequence[tuple[int, str, Colour | None]], top: int) -> None:
    middle = top + LINE / 2
    for x, word, colour in line:
        left = MARGIN + x
        if colour:
            draw.rounded_rectangle((left, middle - 7, left + 14, middle + 7), 3, colour, EDGE)
        draw.text((left + (20 if colour else 0), middle), word, INK if colour else FAINT, _font(TEXT), anchor="lm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _width(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _fitting(text: str, width: float, size: int) -> str:
    """The text, shortened with an ellipsis if it does not fit."""
    if _width(text, size) <= width:
        return text
    while text and _width(f"{text}…", size) > width:
        text = text[:-1].rstrip()
    return f"{text}…"
