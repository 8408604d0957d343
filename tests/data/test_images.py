"""Image files as data sets bring them: every mode and kind of damage, and label maps that must keep their numbers."""

import io
import itertools
import re
import struct
import subprocess
import sys
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from trust_exp.data.readers import images
from trust_exp.data.readers.images import (
    ImageFacts,
    check_images,
    image_facts,
    open_rgb,
    read_labels,
    read_rgb,
    upright_sizes,
)
from trust_exp.errors import UserError

HEIGHT, WIDTH = 6, 9
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def png(pixels, depth, colour):
    """A PNG file of any depth and colour type, which PIL does not write, from rows of packed bytes."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    width = pixels.shape[1] * 8 // (depth * channels)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, len(pixels), depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def in_mode(mode):
    """The test's picture in another mode of PIL."""
    image = Image.fromarray(RGB)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(GREY))
        return image
    return image.convert("L").convert(mode) if mode == "LA" else image.convert(mode)


@pytest.fixture
def file(tmp_path):
    def write(content, name="image.any"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def refused(read, path, message):
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} {message}") as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_pixels_of_lossless_files_are_read_whatever_the_name(file, kind):
    content = encoded(Image.fromarray(RGB), kind)
    for source in (content, file(content), str(file(content, "image.jpg"))):
        pixels = read_rgb(source)
        np.testing.assert_array_equal(pixels, RGB)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable


@pytest.mark.parametrize(
    ("mode", "kind", "converted"),
    [
        ("RGB", "JPEG", None),
        ("RGB", "WEBP", None),
        ("L", "JPEG", "grey"),
        ("LA", "PNG", "grey"),
        ("1", "PNG", "grey"),
        ("P", "PNG", "palette"),
        ("P", "GIF", "palette"),
        ("CMYK", "JPEG", "cmyk"),
        ("RGBA", "PNG", "alpha"),
        ("RGBA", "WEBP", "alpha"),
    ],
)
def test_every_mode_becomes_rgb_and_is_counted(file, mode, kind, converted):
    image = in_mode(mode)
    path = file(encoded(image, kind, **({"quality": 100} if kind == "JPEG" else {})))
    assert image_facts(path) == ImageFacts(HEIGHT, WIDTH, mode)
    assert read_rgb(path).shape == (HEIGHT, WIDTH, 3)
    if kind == "PNG":
        np.testing.assert_array_equal(read_rgb(path), np.asarray(image.convert("RGB")))
    facts = check_images([path, path])
    assert facts.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert facts.sizes.dtype == np.int32
    assert facts.converted == {kind: 2 * (kind == converted) for kind in ("grey", "cmyk", "palette", "alpha")}


def test_the_colour_under_an_alpha_channel_stays(file):
    np.testing.assert_array_equal(read_rgb(encoded(in_mode("RGBA"), "PNG")), RGB)


def test_transparent_palettes_are_read_without_a_warning():
    image = in_mode("P")
    content = encoded(image, "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_rgb(content), np.asarray(image.convert("RGB")))


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "PNG"):
        pixels = read_rgb(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
        assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_orientation_in_the_metadata_is_applied_where_it_is_asked_for(file, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(RGB), kind, exif=exif)
        stored = read_rgb(content)
        assert stored.shape == (HEIGHT, WIDTH, 3)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
        np.testing.assert_array_equal(read_rgb(content, upright=True), expected)
        np.testing.assert_array_equal(open_rgb(content, orientation=orientation), expected)
        facts = check_images([file(content)])
        assert (facts.sizes.tolist(), facts.orientations.tolist()) == ([[HEIGHT, WIDTH]], [orientation])
        assert upright_sizes(facts.sizes, facts.orientations).tolist() == [list(expected.shape[:2])]


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_an_orientation_that_there_is_not_is_none(file, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert image_facts(file(encoded(Image.fromarray(RGB), "JPEG", exif=exif))).orientation == 1


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_portable_pixmaps_are_read(file, mode):
    image = in_mode(mode)
    np.testing.assert_array_equal(read_rgb(encoded(image, "PPM")), np.asarray(image.convert("RGB")))
    assert image_facts(file(encoded(image, "PPM"))) == ImageFacts(HEIGHT, WIDTH, mode)


def test_a_portable_pixmap_of_numbers_is_read():
    text = "P3\n# three by one\n3 1\n255\n1 2 3  4 5 6  7 8 9\n"
    assert read_rgb(text.encode()).tolist() == [[[1, 2, 3], [4, 5, 6], [7, 8, 9]]]


DEEP = np.arange(HEIGHT * WIDTH * 8, dtype=np.uint8).reshape(HEIGHT, -1)


@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.fromarray(GREY.astype(np.uint16) * 256), "PNG"),
        encoded(Image.fromarray(GREY.astype(np.uint16) * 256), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        png(DEEP[:, : WIDTH * 2], 16, 0),
        png(DEEP[:, : WIDTH * 6], 16, 2),
        png(DEEP[:, : WIDTH * 4], 16, 4),
        png(DEEP[:, : WIDTH * 8], 16, 6),
        b"P5 9 6 65535\n" + DEEP[:, : WIDTH * 2].tobytes(),
        b"P6 9 6 1023\n" + DEEP[:, : WIDTH * 6].tobytes(),
        b"P3 1 1 65535\n1 2 3\n",
        b"Pf\n9 6\n-1.0\n" + bytes(WIDTH * HEIGHT * 4),
    ],
    ids=[
        *("I;16 png", "I;16 tiff", "I tiff", "F tiff", "grey png", "rgb png", "grey alpha png", "rgb alpha png"),
        *("grey pgm", "rgb ppm", "ppm of numbers", "pfm"),
    ],
)
def test_more_than_8_bits_are_refused(file, content):
    refused(read_rgb, file(content), r"has more than 8 bits a channel \(mode [A-Z16;]+\); convert it to 8 bits$")


def test_colours_of_16_bits_in_a_tiff_are_refused(file):
    tags = [(256, WIDTH), (257, HEIGHT), (258, 16), (259, 1), (262, 2), (273, 122), (277, 3), (279, WIDTH * HEIGHT * 6)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags if tag != 258)
    bits = struct.pack("<HHII", 258, 3, 3, 116)
    entries = entries[:24] + bits + entries[24:]
    content = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 8) + entries + bytes(4)
    content = content.ljust(116, b"\0") + struct.pack("<3H", 16, 16, 16) + bytes(WIDTH * HEIGHT * 6)
    assert Image.open(io.BytesIO(content)).mode == "RGB"  # what PIL alone makes of it
    refused(image_facts, file(content), "has more than 8 bits a channel")


def test_other_ways_to_store_colours_are_refused(file):
    path = file(encoded(Image.fromarray(RGB).convert("LAB"), "TIFF"))
    refused(read_rgb, path, "stores its pixels as LAB; convert it to RGB$")


JPEG = encoded(Image.fromarray(RGB).resize((90, 60)), "JPEG")


@pytest.mark.parametrize("lost", [1, 2, 10, 300, len(JPEG) // 2])
def test_a_truncated_jpeg_is_refused(file, lost):
    refused(image_facts, file(JPEG[:-lost]), "is damaged: image file is truncated")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_truncated_images_of_other_kinds_are_refused(file, kind):
    content = encoded(Image.fromarray(RGB), kind)
    for length in range(0, len(content) * 3 // 4, 5):
        path = file(content[:length])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a TIFF's
            refused(image_facts, path, "is (damaged: |empty$|not an image of a known kind)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty$"),
        (b"<!DOCTYPE html>", r"is not an image of a known kind \(JPEG, PNG, BMP, GIF, TIFF, WEBP, PPM(, AVIF)?\)$"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "is not an image of a known kind"),
        (png(np.zeros((HEIGHT, 0), np.uint8), 8, 0), "(has no pixels|is damaged|is not an image)"),
        (b"BM" + bytes(60), "(has no pixels|is damaged|is not an image)"),
    ],
)
def test_what_is_no_image_is_refused(file, content, message):
    refused(image_facts, file(content), message)


def test_a_file_that_is_not_there_or_a_folder_is_one_sentence(tmp_path):
    refused(read_rgb, tmp_path / "none.png", "cannot be read: No such file or directory$")
    refused(read_rgb, tmp_path, "cannot be read: Is a directory$")


def test_bytes_are_called_what_the_caller_calls_them():
    with pytest.raises(UserError, match=r"^member 7 of set.tar is damaged: image file is truncated"):
        read_rgb(JPEG[:-9], "member 7 of set.tar")


@pytest.mark.parametrize("pixels", [HEIGHT * WIDTH - 1, HEIGHT * WIDTH // 3])  # PIL warns of one and refuses the other
def test_decompression_bombs_are_refused(file, monkeypatch, pixels):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        path = file(encoded(Image.fromarray(RGB), "PNG"))
        refused(read_rgb, path, f"has more than {pixels} pixels; make it smaller$")


@pytest.fixture
def many(tmp_path):
    """500 files of different sizes."""
    paths = [tmp_path / f"{number:03}.png" for number in range(500)]
    for number, path in enumerate(paths):
        Image.new("L" if number % 5 == 0 else "RGB", (1 + number % 7, 1 + number % 11)).save(path)
    return paths


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_facts_of_many_files_come_in_their_order(many, workers):
    facts = check_images(many, workers=workers)
    assert facts.sizes.tolist() == [[1 + number % 11, 1 + number % 7] for number in range(500)]
    assert facts.converted == {"grey": 100, "cmyk": 0, "palette": 0, "alpha": 0}


def test_no_files_have_no_facts():
    facts = check_images([])
    assert facts.sizes.shape == (0, 2)
    assert sum(facts.converted.values()) == 0


def test_the_first_bad_file_in_order_is_named(many):
    for number in (450, 130, 129, 301):
        many[number].write_bytes(b"no image")
    for _ in range(5):
        with pytest.raises(UserError, match=r"129.png is not an image"):
            check_images(many, workers=8)


def test_a_bad_file_ends_the_check_at_once(many, monkeypatch):
    seen, facts = [], images.image_facts
    many[0].write_bytes(b"no image")

    def slow(path):
        seen.append(path)
        if path != many[0]:
            threading.Event().wait(0.005)
        return facts(path)

    monkeypatch.setattr(images, "image_facts", slow)
    with pytest.raises(UserError, match=r"000.png is not an image"):
        check_images(many, workers=2)
    assert len(seen) <= 3 * images.CHUNK
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_labels_in_grey_files_keep_their_numbers(file):
    np.testing.assert_array_equal(read_labels(file(encoded(Image.fromarray(GREY), "PNG"))), GREY)
    wide = GREY.astype(np.uint16) * 200
    labels = read_labels(file(encoded(Image.fromarray(wide), "PNG")))
    np.testing.assert_array_equal(labels, wide)
    assert labels.dtype == np.uint16


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3])
def test_labels_of_few_bits_are_not_stretched(file, depth, colour):
    labels = np.random.default_rng(0).integers(0, 2**depth, (HEIGHT, 16), dtype=np.uint8)
    bits = np.unpackbits(labels[..., None], axis=2)[..., 8 - depth :]
    content = png(np.packbits(bits.reshape(HEIGHT, -1), axis=1), depth, colour)
    if colour == 3:  # a palette must come before the pixels
        palette = b"PLTE" + bytes(range(255, -1, -1))[: 3 * 2**depth].ljust(3 * 2**depth, b"\7")
        chunk = struct.pack(">I", len(palette) - 4) + palette + struct.pack(">I", zlib.crc32(palette))
        content = content[:33] + chunk + content[33:]
    read = read_labels(file(content))
    np.testing.assert_array_equal(read, labels)
    assert read.dtype == np.uint8


def test_labels_in_palette_files_are_indices(file):
    image = Image.fromarray(GREY % 5, "L").copy()
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 7, 7, 7])
    np.testing.assert_array_equal(read_labels(file(encoded(image, "PNG"))), GREY % 5)


def test_labels_in_rgb_files_are_left_to_the_caller(file):
    np.testing.assert_array_equal(read_labels(file(encoded(Image.fromarray(RGB), "PNG"))), RGB)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            encoded(Image.fromarray(GREY), "JPEG"),
            "is a JPEG file, which does not keep numbers .*; label maps are PNG",
        ),
        (encoded(Image.fromarray(GREY), "BMP"), "is a BMP file; label maps are PNG files$"),
        (
            encoded(in_mode("RGBA"), "PNG"),
            "has 8 bits a channel in mode RGBA; label maps are grey, palette or",
        ),
        (png(DEEP[:, : WIDTH * 6], 16, 2), "has 16 bits a channel in mode RGB; label maps are"),
        (encoded(Image.fromarray(GREY), "PNG")[:60], "is damaged: "),
    ],
)
def test_what_holds_no_labels_is_refused(file, content, message):
    refused(read_labels, file(content), message)


def test_real_photographs_are_read(shared_data):
    content = np.load(shared_data / "imagenet_samples" / "imagenet_1per_class_144.npz")
    stored, offsets = content["jpeg"], content["offsets"]
    for start, stop in itertools.pairwise(offsets[:21]):
        pixels = read_rgb(stored[start:stop].tobytes())
        assert min(pixels.shape[:2]) == 144
        assert 5 < pixels.mean() < 250


def test_reading_files_loads_no_torch():
    modules = "trust_exp.data.fetch, trust_exp.data.readers.images, trust_exp.data.readers.pickles"
    code = f"import sys, {modules}; print(sorted({{'torch', 'lightning', 'torchvision'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
