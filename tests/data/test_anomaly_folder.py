"""Folders of normal and defective images: what is read, what is served with its mask, what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from trust_exp import cli
from trust_exp.commands.data import chosen_rows, sheet
from trust_exp.data.batch import MaskBatch
from trust_exp.data.stream import StreamDataModule
from trust_exp.errors import UserError
from trust_exp.messages import exit_code_of

SIDE = 40
HEIGHT, WIDTH = 50, 70
DEFECT = (slice(20, 30), slice(30, 40))


def draw(path, shade=100, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)


def draw_mask(path, where=DEFECT, size=(HEIGHT, WIDTH)):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    if where is not None:
        mask[where] = 255
    Image.fromarray(mask).save(path)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "bottle"
    for number in range(24):
        draw(place / f"train/good/{number:03d}.png", 100 + number)
    for number in range(3):
        draw(place / f"test/good/{number:03d}.png")
    for kind in ("crack", "dent"):
        for number in range(2):
            draw(place / f"test/{kind}/{number:03d}.png", 50)
    for number in range(2):
        draw_mask(place / f"ground_truth/crack/{number:03d}_mask.png")
    return place


def module(folder, **options):
    own = {"image_size": [SIDE, SIDE], "workers": 0, "task": "anomaly", "hold_out": 0.1, **options}
    return StreamDataModule("anomaly_folder", path=str(folder), root=folder.parent / "data", **own)


def test_good_is_normal_and_each_defect_a_class(folder):
    data = module(folder)
    assert data.info.classes == ("good", "crack", "dent")
    assert (data.info.task, data.info.normal) == ("anomaly", ((0,),))
    assert data.labels("test").tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert data.size("train") + data.size("val") == 24
    assert data.size("val") == 2


def test_a_mask_goes_through_the_geometry_of_its_image(folder):
    """An image that is white where its mask is: both are served at the same place, up to half a pixel of its edge."""
    white = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    white[DEFECT] = 255
    Image.fromarray(white).save(folder / "test/crack/000.png")
    for options in ({}, {"resize": 45}, {"stretch": True}):
        batch = module(folder, **options).samples("test", torch.tensor([3]))
        assert isinstance(batch, MaskBatch)
        assert batch.mask.shape == (1, SIDE, SIDE)
        assert batch.mask.any()
        inside = batch.image[:, 0] > 0.5
        differ = inside != batch.mask
        near = torch.nn.functional.max_pool2d(batch.mask.float()[:, None], 3, 1, 1)[:, 0] > 0
        assert not differ[~near].any()
        assert differ.sum() <= 0.25 * batch.mask.sum()


def test_images_without_a_mask_have_an_empty_one(folder):
    batch = next(iter(module(folder).eval_loader("test")))
    assert batch.label.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert batch.mask.flatten(1).any(1).tolist() == [False, False, False, True, True, False, False]


def test_masks_are_left_out_of_nothing_else(folder):
    batch = next(iter(module(folder).train_dataloader()))
    assert not batch.mask.any()
    assert batch.label.tolist() == [0] * len(batch.label)


def test_without_masks_and_without_tests_it_trains(folder):
    import shutil

    shutil.rmtree(folder / "ground_truth")
    assert not next(iter(module(folder).eval_loader("test"))).mask.any()
    shutil.rmtree(folder / "test")
    data = module(folder)
    assert data.size("train") == 22
    with pytest.raises(UserError, match=r"has no folder test, so there is nothing to evaluate on"):
        data.size("test")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda place: draw(place / "train/bad/0.png"), "holds bad beside good; only normal images are trained on"),
        (lambda place: draw_mask(place / "ground_truth/hole/000_mask.png"), "there is no test/hole with images"),
        (lambda place: draw_mask(place / "ground_truth/good/000_mask.png"), "there is no test/good with images"),
        (
            lambda place: draw_mask(place / "ground_truth/crack/009_mask.png"),
            "009_mask.png is a mask without its image",
        ),
        (
            lambda place: draw_mask(place / "ground_truth/dent/000_mask.png", None),
            "is empty, and its image is one of a",
        ),
        (
            lambda place: draw_mask(place / "ground_truth/dent/000_mask.png", size=(50, 60)),
            "has 60x50 pixels, its image .*test/dent/000.png 70x50",
        ),
        (lambda place: (place / "train/good").rename(place / "train/fine"), "lacks the folder train/good"),
    ],
)
def test_what_is_wrong_is_named(folder, change, sentence):
    change(folder)
    with pytest.raises(UserError, match=sentence):
        module(folder).size("train")


def test_a_changed_mask_is_another_data_set(folder):
    before = module(folder).facts()
    draw_mask(folder / "ground_truth/crack/000_mask.png", (slice(0, 5), slice(0, 5)))
    assert module(folder).facts() != before


def test_too_few_normal_images_are_refused(folder):
    for number in range(6):
        (folder / f"train/good/{number:03d}.png").unlink()
    with pytest.raises(UserError, match="has 16 training samples of the normal class good; at least 20 are needed"):
        module(folder).size("train")


def test_show_draws_masks_in_the_colours_of_their_kinds(folder, tmp_path, capsys):
    out = tmp_path / "page.png"
    given = ["show", "anomaly_folder", f"dataset.path={folder}", "--root", str(tmp_path / "root"), "--out", str(out)]
    assert exit_code_of(lambda: cli.run(["data", *given])) in (None, 0), capsys.readouterr().err
    data = module(folder)
    batch = data.samples("test", chosen_rows(data, "test", 24))
    page = sheet(batch, data.info)
    assert set(page.legend["defects"]) - {"(nothing)"} == {
        data.info.classes[label] for label in batch.label[batch.mask.any((1, 2))]
    }
    (image, masked) = page.strips[int(batch.mask.any((1, 2)).nonzero()[0])]
    assert (image.image != masked.image).any()
    assert out.exists()
