"""Image files: read as RGB, checked before they are used, and label maps read as they are. No torch."""

import contextlib
import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from trust_exp.errors import UserError
from trust_exp.progress import Bar

AVIF = features.check("avif")  # not every Pillow can
# Not all of PIL's formats: for EPS it runs another program.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", *(["AVIF"] if AVIF else []))
ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", *([".avif"] if AVIF else [])),
)
UNREAD = {  # endings of other images
    *(".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx", ".svg", ".svgz", ".eps", ".psd", ".xcf"),
    *(".tga", ".pcx", ".ico", ".exr", ".hdr", ".pfm", ".pam", ".dcm"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
} - {*ENDINGS}
# What turns stored pixels upright, by the orientation that EXIF gives: where row 0 and column 0 of an image are.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = 5  # this orientation and greater ones change height and width
CONVERTED = {"1": "grey", "L": "grey", "LA": "grey", "P": "palette", "PA": "palette", "CMYK": "cmyk", "RGBA": "alpha"}
LABELS = {("1", 1), ("L", 2), ("L", 4), ("L", 8), ("P", 1), ("P", 2), ("P", 4), ("P", 8), ("I;16", 16), ("RGB", 8)}
PNG_DEPTH = 24  # where in a PNG file the bits of a channel stand
TIFF_DEPTH = 258  # the tag of the same in a TIFF file
CHUNK = 64


class ImageFacts(NamedTuple):
    """Stored size in pixels; how the file stores them: PIL's mode, e.g. RGB or L; and EXIF's orientation, 1 to 8."""

    height: int
    width: int
    mode: str
    orientation: int = 1


class Facts(NamedTuple):
    """Of many images: stored sizes int32 [N, 2] (height, width), and how many are grey, cmyk, palette and alpha.

    ``orientations`` uint8 [N] are EXIF's: 1 is upright, TURNS has what turns the others upright.
    """

    sizes: np.ndarray
    converted: dict[str, int]
    orientations: np.ndarray


def read_rgb(source: str | Path | bytes, name: str | None = None, *, upright: bool = False) -> np.ndarray:
    """Pixels of an image file, or of its content, as uint8 [H, W, 3], as they are stored.

    Grey, palette and CMYK become RGB; an alpha channel is dropped, and the colour under it stays. Of an animation this
    is the first frame. The orientation in EXIF is not applied, as labels and boxes are drawn on the stored pixels,
    unless ``upright`` asks for it. (PIL applies that of TIFF files always.)

    Args:
        source: the file or its bytes.
        name: of the image in messages; by default the path of the file.
        upright: apply the orientation.

    Raises:
        UserError: if it cannot be read, is not an image, is damaged, or has more than 8 bits a channel.
    """
    image, _ = _decode(source, name, _check_image)
    return np.array(_as_rgb(image, _orientation(image) if upright else 1))


def open_rgb(source: str | Path | bytes, name: str | None = None, *, orientation: int = 1) -> Image.Image:
    """The same as an image of PIL; an RGB file that is not turned is not copied.

    Args:
        source, name: as of ``read_rgb``.
        orientation: of the stored pixels, which are turned upright; as ``check_images`` finds it.

    Raises:
        UserError: as ``read_rgb``.
    """
    image, _ = _decode(source, name, _check_image)
    return _as_rgb(image, orientation)


def image_facts(path: str | Path) -> ImageFacts:
    """Facts about an image file that ``read_rgb`` can read; decodes it, so that a damaged one is found.

    Raises:
        UserError: as ``read_rgb``.
    """
    image, _ = _decode(path, None, _check_image)
    return ImageFacts(image.height, image.width, image.mode, _orientation(image))


def upright_sizes(sizes: np.ndarray, orientations: np.ndarray) -> np.ndarray:
    """The sizes of images when they stand upright, int32 [N, 2]; from those that are stored, and uint8 [N]."""
    return np.where((orientations >= LYING)[:, None], sizes[:, ::-1], sizes)


def check_images(paths: Sequence[str | Path], *, workers: int | None = None) -> Facts:
    """Check every file as ``image_facts`` does, with a progress bar.

    In threads and not in processes: PIL decodes without Python's lock, and a process that uses CUDA must not fork.

    Args:
        paths: the files.
        workers: how many threads; None for a few more than there are cores.

    Raises:
        UserError: for the first file in order that is not as it should be; the rest is not waited for.
    """
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    facts: list[ImageFacts] = []
    pool = ThreadPoolExecutor(workers)
    try:
        # PIL warns of EXIF data that are damaged; they say nothing then.
        with warnings.catch_warnings(action="ignore"), contextlib.closing(Bar("check images", len(paths))) as bar:
            for checked in pool.map(lambda chunk: [image_facts(path) for path in chunk], chunks):
                facts += checked
                bar.update(len(facts))
    finally:
        pool.shutdown(cancel_futures=True)
    sizes = np.array([(fact.height, fact.width) for fact in facts], np.int32).reshape(-1, 2)
    modes = Counter(CONVERTED.get(fact.mode) for fact in facts)
    converted = {kind: modes[kind] for kind in ("grey", "cmyk", "palette", "alpha")}
    return Facts(sizes, converted, np.array([fact.orientation for fact in facts], np.uint8))


def read_labels(path: str | Path) -> np.ndarray:
    """Whole numbers of a label map in a PNG file, as they are stored: uint8 or uint16 [H, W], or uint8 [H, W, 3].

    Palette files give the indices and not the colours, grey files of 1, 2 or 4 bits the numbers and not shades.

    Raises:
        UserError: if the file cannot be read, is damaged or lossy (JPEG), or holds no such numbers.
    """
    image, bits = _decode(path, None, _check_labels)
    labels = np.array(image)
    if image.mode == "1":
        return labels.astype(np.uint8)
    if image.mode == "L" and bits < 8:
        return labels // np.uint8(255 // (2**bits - 1))  # PIL has stretched them to 0 .. 255
    return labels


def read_mask(path: str | Path) -> np.ndarray:
    """Where an image is defective, bool [H, W]: every pixel of its mask that is not black.

    Raises:
        UserError: if the file cannot be read as an image.
    """
    mask = read_labels(path)
    found: np.ndarray = (mask if mask.ndim == 2 else mask.max(2)) > 0
    return found


def _as_rgb(image: Image.Image, orientation: int) -> Image.Image:
    image.info.pop("transparency", None)  # is dropped anyway, and PIL would warn
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    return image if image.mode == "RGB" else image.convert("RGB")  # even from RGB to RGB it would copy


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation of a decoded image, 1 to 8; 1 if there is none or it is damaged."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # whatever PIL raises of damaged EXIF data: the image itself is fine
        return 1
    return found if found in TURNS else 1


def _check_image(image: Image.Image, bits: int) -> str | None:
    if bits > 8 or image.mode.startswith(("I", "F")):
        return f"has more than 8 bits a channel (mode {image.mode}); convert it to 8 bits"
    if image.mode != "RGB" and image.mode not in CONVERTED:
        return f"stores its pixels as {image.mode}; convert it to RGB"
    return None


def _check_labels(image: Image.Image, bits: int) -> str | None:
    if image.format != "PNG":
        lossy = ", which does not keep numbers as they are" if image.format == "JPEG" else ""
        return f"is a {image.format} file{lossy}; label maps are PNG files"
    if (image.mode, bits) not in LABELS:
        return f"has {bits} bits a channel in mode {image.mode}; label maps are grey, palette or 8-bit RGB"
    return None


def _decode(
    source: str | Path | bytes, name: str | None, check: Callable[[Image.Image, int], str | None]
) -> tuple[Image.Image, int]:
    """The decoded image and its bits a channel; ``check`` describes a defect, if any, before the image is decoded."""
    name = name or ("the image" if isinstance(source, bytes) else str(source))
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream:
            head = stream.read(PNG_DEPTH + 1)
            image = Image.open(stream, formats=FORMATS)
            defect = _size_defect(image) or check(image, bits := _bits(image, head))
            if not defect:
                image.load()
                return image, bits
    except UnidentifiedImageError as error:
        what = "is empty" if not head else f"is not an image of a known kind ({', '.join(FORMATS)})"
        raise UserError(f"{name} {what}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name} has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except Exception as error:  # for a damaged file PIL raises OSError, SyntaxError, ValueError, struct.error, ...
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{name} cannot be read: {error.strerror}") from error
        raise UserError(f"{name} is damaged: {' '.join(str(error).split()) or type(error).__name__}") from error
    raise UserError(f"{name} {defect}")


def _size_defect(image: Image.Image) -> str | None:
    if not image.width or not image.height:
        return f"has no pixels: it is {image.width} by {image.height}"
    return too_large(image.height, image.width)


def too_large(height: int, width: int) -> str | None:
    """The defect of an image of more pixels than PIL reads, of which PIL itself only warns up to twice as many."""
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        return f"has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller"
    return None


def _bits(image: Image.Image, head: bytes) -> int:
    """Bits a channel in the file; PIL reduces 16-bit colours to 8 without a word."""
    if image.format == "PNG":
        return head[PNG_DEPTH]
    if image.format == "PPM":
        # Of the decoder: a mode, perhaps with the greatest number of a channel.
        arguments = image.tile[0].args  # type: ignore[attr-defined]  # image is a file, which has tiles
        return 16 if isinstance(arguments, tuple) and int(arguments[1]) > 255 else 8
    return max(getattr(image, "tag_v2", {}).get(TIFF_DEPTH, (8,)))
