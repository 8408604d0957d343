"""What the reader of images with boxes serves: boxes stay around what they were drawn around."""

import numpy as np
import pytest
import torch
from PIL import Image

from trust_exp.data.batch import DatasetInfo
from trust_exp.data.config import UNKNOWN, AugmentConfig
from trust_exp.data.readers.boxes import BoxReader
from trust_exp.data.stream import StreamLoader
from trust_exp.errors import UserError

INFO = DatasetInfo("voc", ("red", "green", "blue"), (3, 96, 80), (0.0, 1.0), task="detection")
COLOURS = np.eye(3, dtype=np.uint8) * 255
SIZE = (96, 80)
EVERYTHING = AugmentConfig(flip=True, scale=[0.7, 1.4], shift=0.3)
BOXES = {  # of images of 60x120 and 150x100 pixels, height times width
    (60, 120): [(10, 20, 40, 50, 0), (70, 5, 110, 30, 1)],
    (150, 100): [(5, 60, 95, 140, 2)],
    (50, 50): [],
}


@pytest.fixture
def reader(tmp_path):
    return lambda augment=EVERYTHING, **given: BoxReader(
        tmp_path, painted(tmp_path), INFO, SIZE, given.get("resize"), augment
    )


def painted(folder):
    """Black images with rectangles of the colour of their class, and their index."""
    for number, ((height, width), boxes) in enumerate(BOXES.items()):
        pixels = np.zeros((height, width, 3), np.uint8)
        for left, top, right, bottom, label in boxes:
            pixels[top:bottom, left:right] = COLOURS[label]
        Image.fromarray(pixels).save(folder / f"{number}.png")
    every = np.array([box for boxes in BOXES.values() for box in boxes])
    return {
        "paths": np.array([f"{number}.png".encode() for number in range(len(BOXES))]),
        "sizes": np.array(list(BOXES), np.int32),
        "boxes": every[:, :4].astype(np.float32),
        "boxlabels": every[:, 4].astype(np.uint8),
        "difficult": np.array([False, True, False]),
        "boxcount": np.array([len(boxes) for boxes in BOXES.values()], np.int32),
    }


def extent(image, label):
    """Left, top, right, bottom of the pixels that are mostly of the colour of a class; None without any."""
    rows, columns = np.nonzero(image[label] > 127)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else None


def test_evaluation_resizes_image_and_boxes_and_pads_with_unknown(reader):
    image, boxes, labels, difficult = reader()(0, None)
    assert (image.shape, image.dtype) == ((3, *SIZE), np.uint8)
    assert (boxes.dtype, labels.dtype, difficult.dtype) == (np.float32, np.int64, bool)
    factor = np.array([80 / 120, 96 / 60] * 2)
    assert boxes == pytest.approx(np.array([[10, 20, 40, 50], [70, 5, 110, 30]]) * factor, abs=1e-4)
    assert (labels.tolist(), difficult.tolist()) == ([0, 1], [False, True])
    _, boxes, labels, difficult = reader()(1, None)
    assert boxes == pytest.approx(np.array([[4, 38.4, 76, 89.6], [0, 0, 0, 0]]), abs=1e-4)
    assert (labels.tolist(), difficult.tolist()) == ([2, UNKNOWN], [False, False])
    _, _, labels, _ = reader()(2, None)
    assert labels.tolist() == [UNKNOWN, UNKNOWN]


def test_evaluation_is_the_resizing_of_pil(reader, tmp_path):
    image, *_ = reader()(1, None)
    expected = Image.open(tmp_path / "1.png").resize((80, 96), Image.Resampling.BILINEAR)
    assert np.array_equal(image.transpose(1, 2, 0), expected)


def test_training_without_changes_is_evaluation(reader):
    plain = reader(AugmentConfig())
    for row in (0, 1):
        unchanged, changed = plain(row, None), plain(row, np.full(plain.draws, 0.3, np.float32))
        assert np.abs(unchanged[0].astype(int) - changed[0]).max() <= 1
        assert all(np.array_equal(a, b) for a, b in zip(unchanged[1:], changed[1:], strict=True))


def test_boxes_follow_what_they_are_around(reader):
    read, generator = reader(), np.random.default_rng(0)
    kept, lost = 0, 0
    for number in range(60):
        row = number % 2
        image, boxes, labels, difficult = read(row, generator.random(read.draws, np.float32))
        used = labels != UNKNOWN
        assert used.tolist() == sorted(used.tolist(), reverse=True)
        for box, label, odd in zip(boxes[used], labels[used], difficult[used], strict=True):
            assert odd == (label == 1)
            assert (box >= 0).all()
            assert (box <= (80, 96, 80, 96)).all()
            if (box[2:] - box[:2]).min() > 2:
                assert box == pytest.approx(extent(image, label), abs=1.01)
        kept, lost = kept + used.sum(), lost + (~used).sum() - row
    assert kept > 60  # most stay, some leave
    assert lost > 0


def test_an_object_whose_centre_leaves_is_left_out(reader):
    far = AugmentConfig(shift=1.0)
    down_and_right = np.array([0.5, 0.9, 0.5, 0.0], np.float32)
    image, _, labels, _ = reader(far)(1, down_and_right)
    assert labels.tolist() == [UNKNOWN, UNKNOWN]
    assert (image[:, :48] == 0).all()


def test_what_is_drawn_is_mirrored_scaled_and_shifted(reader):
    read = reader(AugmentConfig(flip=True, scale=[0.5, 1.5], shift=0.25))
    _, boxes, _, _ = read(1, np.array([0.0, 0.5, 0.5, 0.9], np.float32))
    assert boxes[0] == pytest.approx([22, 43.2, 58, 68.8], abs=1e-4)  # half as large, about the centre
    _, boxes, _, _ = read(1, np.array([0.5, 1.0, 0.0, 0.9], np.float32))
    assert boxes[0] == pytest.approx([0, 62.4, 56, 96], abs=1e-4)  # down and to the left
    *_, (_, boxes, _, _) = [read(0, np.array([0.5, 0.5, 0.5, chance], np.float32)) for chance in (0.9, 0.1)]
    assert boxes[0] == pytest.approx([80 - 80 / 3, 32, 80 - 20 / 3, 80], abs=1e-4)


def test_a_large_image_is_smoothed_when_it_becomes_smaller(tmp_path):
    pixels = np.zeros((960, 800, 3), np.uint8)
    pixels[::2] = 255  # stripes that picking single pixels would keep
    arrays = painted(tmp_path)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    read = BoxReader(tmp_path, arrays, INFO, SIZE, None, AugmentConfig(shift=0.01))
    image, *_ = read(0, np.array([0.5, 0.3, 0.3, 0.5], np.float32))
    inner = image[:, 5:-5, 5:-5]
    assert np.abs(inner.astype(int) - 127).max() <= 2


def test_a_batch_has_images_as_floats_and_places_for_every_box(reader):
    read = reader()
    samples = [read(row, None) for row in range(3)]
    parts = tuple(torch.from_numpy(np.stack(part)) for part in zip(*samples, strict=True))
    batch = read.batch(parts, torch.arange(3))
    assert batch.image.shape == (3, 3, *SIZE)
    assert (batch.image.dtype, float(batch.image.max())) == (torch.float32, 1.0)
    assert (batch.boxes.shape, batch.label.shape, batch.difficult.shape) == ((3, 2, 4), (3, 2), (3, 2))
    assert batch.label.tolist() == [[0, 1], [2, UNKNOWN], [UNKNOWN, UNKNOWN]]
    assert batch.index.tolist() == [0, 1, 2]


def test_any_number_of_workers_serves_the_same_batches(reader):
    rows = torch.arange(3).repeat(4)
    options = {"position": lambda: 0, "seed": 3}
    batches = [list(StreamLoader(reader(), rows, 6, workers=workers, **options)) for workers in (0, 2)]
    assert len(batches[0]) == len(batches[1]) == 2
    for one, other in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(batches[0][0].boxes, batches[0][1].boxes)


def test_a_crop_is_refused(reader):
    with pytest.raises(UserError, match=r"^dataset.resize=64 would crop images; dataset=voc has boxes"):
        reader(resize=64)
