import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from trust_exp.compose import register
from trust_exp.data import sources, store
from trust_exp.data.augment import Augment
from trust_exp.data.batch import Arrays, DenseBatch
from trust_exp.data.concepts import concept_names, concept_presence
from trust_exp.data.config import NOTHING, UNKNOWN, AugmentConfig, DatasetInfo, Layer
from trust_exp.data.geometry import scaled_crop_views, warp
from trust_exp.data.loader import ArrayLoader
from trust_exp.data.readers.dense import DenseReader, nearest
from trust_exp.data.sources.base import Source
from trust_exp.data.stream import StreamDataModule
from trust_exp.data.street_scenes.drawing import CLASSES, MATERIALS, PARTS, SCENES, street_scene
from trust_exp.data.street_scenes.module import StreetScenes
from trust_exp.errors import UserError
from trust_exp.rng import keyed_generator
from trust_exp.schema import CONF, check_options, to_plain

PALETTE = np.random.default_rng(3).integers(40, 256, (6, 3), np.uint8)  # of labels UNKNOWN, 0, ..., 4: none is black
HEIGHT, WIDTH = 96, 160


class Painted(Source):
    """One image painted from its label map, which is stored at a fraction of its size."""

    def __init__(self, labels):
        self.labels = labels

    def check(self, folder):
        raise NotImplementedError

    read = check

    def maps(self, folder, files):
        return np.stack([self.labels, self.labels[::-1]])


def blocks(rows, columns, times):
    labels = np.random.default_rng(1).integers(-1, 5, (rows, columns)).astype(np.int16)
    return labels.repeat(times, 0).repeat(times, 1)


def painted(tmp_path, labels, served, resize=None, classes=("a", "b", "c", "d", "e"), **augment):
    times = HEIGHT // labels.shape[0]
    pixels = PALETTE[labels + 1].repeat(times, 0).repeat(times, 1)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    arrays = {"paths": np.array([b"image.png"]), "maps": np.array([[b""]])}
    info = DatasetInfo("painted", classes, (3, *served), (0.0, 1.0), "segmentation", (Layer("part", ("x",) * 5),))
    return DenseReader(Painted(labels).maps, tmp_path, arrays, info, served, resize, AugmentConfig(**augment))


def draw(reader, seed):
    return torch.rand(reader.draws, generator=keyed_generator("test", seed)).numpy()


def inner(maps, margin):
    """Places with one label all around them; none at the border, beyond which there may be another."""
    size = 2 * margin + 1
    windows = np.lib.stride_tricks.sliding_window_view(maps, (size, size))
    return np.pad(windows.min((2, 3)) == windows.max((2, 3)), margin)


def test_an_image_of_the_size_that_is_served_is_not_changed(tmp_path):
    labels = blocks(6, 10, 16)
    image, maps = painted(tmp_path, labels, (HEIGHT, WIDTH), scale=[0.5, 2], flip=True)(0, None)
    assert np.array_equal(image, PALETTE[labels + 1].transpose(2, 0, 1))
    assert np.array_equal(maps, [labels, labels[::-1]])
    assert (image.dtype, maps.dtype) == (np.uint8, np.int16)


@pytest.mark.parametrize(
    "augment",
    [
        {"scale": [0.5, 2], "rotate": 10, "flip": True},
        {"scale": [0.5, 2], "rotate": 10, "flip": True, "size": [65, 97]},
        {"resized_crop": [0.2, 1], "flip": True},
        {"flip": True},
    ],
)
@pytest.mark.parametrize("fraction", [1, 2])
def test_images_and_maps_move_together(tmp_path, augment, fraction):
    labels = blocks(3, 5, 32 // fraction)
    reader = painted(tmp_path, labels, (80, 112), **augment)
    colours = np.vstack([PALETTE, [[0, 0, 0]]])
    served = [reader(0, draw(reader, seed)) for seed in range(8)]
    for image, (maps, _) in served:
        assert image.shape == (3, *augment.get("size", (80, 112)))
        outside = (image == 0).all(0)
        assert (maps[outside] == UNKNOWN).mean() > 0.97 if outside.any() else True
        where = inner(np.where(outside, 9, maps), 3) & ~outside
        assert where.mean() > 0.1
        difference = np.abs(image.transpose(1, 2, 0)[where].astype(int) - colours[maps[where] + 1])
        assert difference.max() <= 1
    assert len({maps.tobytes() for _, maps in served}) == (2 if augment == {"flip": True} else 8)


def test_the_central_crop_has_the_shorter_side_that_is_asked_for(tmp_path):
    labels = blocks(6, 10, 16)
    image, maps = painted(tmp_path, labels, (40, 40), resize=48)(0, None)
    assert np.array_equal(maps[0], labels[9:88:2, 41:120:2])
    where = inner(maps[0], 3)
    assert np.array_equal(image.transpose(1, 2, 0)[where], PALETTE[maps[0][where] + 1])
    with pytest.raises(UserError, match=r"image.png has 160x96 pixels; with a shorter side of dataset.resize=30 it is"):
        painted(tmp_path, labels, (40, 40), resize=30)(0, None)


def test_maps_are_sampled_as_on_the_device():
    maps = torch.randint(-2, 700, (1, 3, 50, 70), generator=keyed_generator("maps"), dtype=torch.int16)
    uniform = torch.rand(20, 5, generator=keyed_generator("views"))
    views = scaled_crop_views(
        uniform, torch.tensor([[50, 70]]).expand(20, 2), (41, 37), scale=(0.5, 2), angle=10, flip=True
    )
    same = [
        np.mean(
            nearest(maps[0].numpy(), view, (41, 37), (50, 70))
            == warp(maps, view[None], (41, 37), nearest=True, fill=UNKNOWN)[0].numpy()
        )
        for view in views
    ]
    assert min(same) > 0.999  # one rounds to float32


def test_labels_come_first_where_there_are_classes(tmp_path):
    labels = blocks(6, 10, 16)
    for classes in (("a", "b", "c", "d", "e"), ()):
        reader = painted(tmp_path, labels, (HEIGHT, WIDTH), classes=classes)
        parts = tuple(torch.from_numpy(part)[None] for part in reader(0, None))
        batch = reader.batch(parts, torch.tensor([0]))
        assert isinstance(batch, DenseBatch)
        assert batch.image.max() <= 1
        assert batch.label.dtype == batch.concepts.dtype == torch.int64
        if classes:
            assert torch.equal(batch.label[0], torch.from_numpy(labels).long())
            assert batch.concepts.shape == (1, 1, HEIGHT, WIDTH)
        else:
            assert (batch.label == UNKNOWN).all()
            assert batch.concepts.shape == (1, 2, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("augment", "key"), [({"pad": 4}, "pad"), ({"shift": 0.2}, "shift"), ({"rotate": 10}, "rotate needs scale")]
)
def test_changes_that_label_maps_do_not_know_are_refused(tmp_path, augment, key):
    with pytest.raises(UserError, match=f"dataset.augment.{key}"):
        painted(tmp_path, blocks(6, 10, 16), (HEIGHT, WIDTH), **augment)


# --- in memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [None, [49, 65]])
def test_images_and_maps_in_memory_move_together(size):
    labels = blocks(6, 10, 16)
    images = torch.from_numpy(PALETTE[labels + 1].transpose(2, 0, 1).copy()).expand(4, -1, -1, -1)
    maps = torch.from_numpy(labels).to(torch.int8).expand(4, -1, -1)
    augment = Augment(AugmentConfig(scale=[0.5, 2], flip=True, size=size))
    loader = ArrayLoader(Arrays(images, maps, maps.unsqueeze(1)), 4, position=lambda: 0, augment=augment)
    (batch,) = loader
    assert batch.image.shape[2:] == tuple(size or (HEIGHT, WIDTH))
    assert torch.equal(batch.label, batch.concepts[:, 0])
    for image, label in zip(batch.image.mul(255).round().numpy(), batch.label.numpy(), strict=True):
        where = inner(np.where((image == 0).all(0), 9, label), 3) & ~(image == 0).all(0)
        assert where.mean() > 0.1
        assert np.abs(image.transpose(1, 2, 0)[where] - PALETTE[label[where] + 1]).max() <= 1


# --- streamed ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    """Five images of 32x64 in Cityscapes' layout, prepared."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        for number in range(count):
            stem = f"ulm_{number:06d}_000019"
            for kind, name, pixels in (
                ("leftImg8bit", f"{stem}_leftImg8bit.png", random.integers(0, 256, (32, 64, 3), np.uint8)),
                ("gtFine", f"{stem}_gtFine_labelIds.png", random.integers(0, 34, (32, 64), np.uint8)),
            ):
                place = root / "cityscapes" / kind / split / "ulm"
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place / name)
    return root


def module(root, **options):
    augment = AugmentConfig(scale=[0.5, 2], rotate=10, flip=True, blur=0.5, size=[17, 25])
    common = {"task": "segmentation", "test": ["val"], "image_size": [32, 64], "batch_size": 4, "augment": augment}
    return StreamDataModule("cityscapes", root=root, **common, **options)


@pytest.mark.slow
def test_batches_are_the_same_for_any_number_of_workers(cityscapes):
    here, there = (module(cityscapes, workers=workers, eval_batch_size=2) for workers in (0, 2))
    for name in ("train_dataloader", "test_dataloader"):
        own, other = (list(getattr(data, name)()) for data in (here, there))
        assert len(own) == len(other) == (1 if name == "train_dataloader" else 2)
        for batch, same in zip(own, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
    assert own[0].image.shape == (2, 3, 32, 64)
    assert next(iter(here.train_dataloader())).label.shape == (4, 17, 25)
    assert here.info.task == "segmentation"
    assert len(here.info.classes) == 19


def test_held_out_images_are_streamed_as_evaluation_serves_them(cityscapes):
    whole = module(cityscapes, workers=0)
    data = module(cityscapes, workers=0, hold_out=0.4)
    assert (whole.size("train"), data.size("train"), data.size("val")) == (4, 2, 2)
    held = data.served("val")
    batch = next(iter(data.eval_loader("val")))
    expected = whole.samples("train", held)
    assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
    assert torch.equal(batch.index, held)
    trained = torch.cat([batch.index for _ in range(3) for batch in data.train_dataloader()])
    assert not torch.isin(trained, held).any()


def test_evaluation_serves_whole_images(cityscapes):
    batch = next(iter(module(cityscapes, workers=0).test_dataloader()))
    source, folder = sources.find_source("cityscapes"), cityscapes / "cityscapes"
    arrays = store.open_part(cityscapes, "cityscapes", "val")
    for row in range(3):
        pixels = np.array(Image.open(folder / arrays["paths"][row].decode()))
        assert np.array_equal(batch.image[row].mul(255).round().numpy().transpose(1, 2, 0), pixels)
        assert np.array_equal(batch.label[row], source.maps(folder, arrays["maps"][row])[0])


# --- concepts of images --------------------------------------------------------------------------------------------


def test_presence_joins_the_layers_of_a_kind():
    layers = (Layer("part", ("a", "b", "c")), Layer("part", ("a", "b", "c")), Layer("material", ("a", "wood")))
    info = DatasetInfo("x", (), (3, 4, 5), None, "segmentation", layers)
    names = concept_names(info)
    assert names == (("part", "a"), ("part", "b"), ("part", "c"), ("material", "a"), ("material", "wood"))
    concepts = torch.randint(-2, 2, (20, 3, 2, 2), generator=keyed_generator("presence"))
    found = concept_presence(concepts, info)
    for image, present in zip(concepts, found, strict=True):
        seen = {
            (layer.kind, layer.concepts[v])
            for layer, m in zip(layers, image, strict=True)
            for v in m.flatten().tolist()
            if v >= 0
        }
        assert {name for name, there in zip(names, present, strict=True) if there} == seen


# --- generated -----------------------------------------------------------------------------------------------------


def scenes(root, **options):
    return StreetScenes(root=root, image_size=[16, 32], images=14, test_images=6, **options)


def test_street_scenes_are_those_of_the_generator(tmp_path):
    data = scenes(tmp_path, task="segmentation", eval_batch_size=6)
    data.prepare_data()
    assert (data.info.classes, data.size("train"), data.size("test")) == (CLASSES, 14, 6)
    assert [layer.concepts for layer in data.info.layers] == [PARTS, MATERIALS]
    (batch,) = data.test_dataloader()
    for row in range(6):
        scene = street_scene(0, "test", row, (16, 32))
        assert np.array_equal(batch.image[row].mul(255).round().numpy(), scene.image)
        assert np.array_equal(batch.label[row], scene.label)
        assert np.array_equal(batch.concepts[row], np.stack([scene.part, scene.material]))
    assert (batch.concepts == NOTHING).any()


def test_the_kind_of_place_and_the_concepts_of_a_whole_scene(tmp_path):
    data = scenes(tmp_path, limit_train=6)
    data.prepare_data()
    assert data.info.classes == SCENES
    labels = data.arrays("train").labels
    assert sorted(labels.tolist()) == list(range(6))
    present = data.presence("train")
    for row in range(6):
        scene = street_scene(0, "train", row, (16, 32))
        assert labels[row] == scene.scene
        assert set(present[row].nonzero().flatten().tolist()) == {
            *np.unique(scene.part[scene.part >= 0]),
            *(len(PARTS) + np.unique(scene.material[scene.material >= 0])),
        }


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_limit_draws_less_and_serves_the_same(tmp_path, task):
    whole, few = scenes(tmp_path / "whole", task=task), scenes(tmp_path / "few", task=task, limit_train=7)
    limited = scenes(tmp_path / "whole", task=task, limit_train=7, fraction=1.0)
    assert (whole.counts["train"], few.counts["train"], limited.counts["train"]) == (14, 12, 14)
    assert torch.equal(few.arrays("train").images, limited.arrays("train").images)
    assert torch.equal(few.arrays("train").index, limited.arrays("train").index)


def test_damaged_scenes_are_drawn_again(tmp_path):
    data = scenes(tmp_path)
    data.prepare_data()
    (file,) = (tmp_path / "prepared").glob("street_scenes-*/test_images.npy")
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    scenes(tmp_path).prepare_data()
    assert file.read_bytes() == good


def test_scenes_of_other_sizes_are_kept_apart(tmp_path):
    for size in ([16, 32], [24, 32]):
        data = StreetScenes(root=tmp_path, image_size=size, images=2, test_images=2, task="segmentation")
        assert data.arrays("train").images.shape == (2, 3, *size)
    assert len(list((tmp_path / "prepared").glob("street_scenes-*"))) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("camvid", "cityscapes", "broden", "broden_plus", "broden_plus_street"),
        *("cityscapes_parts", "street_scenes"),
    ],
)
def test_the_files_in_conf_are_of_segmentation(name):
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"dataset={name}"])
    dataset = check_options(to_plain(config, "dataset"), "dataset")
    assert (dataset["name"], dataset["task"]) == (name, "segmentation")
    if name != "street_scenes":
        assert set(dataset["train"] + dataset["test"]) <= {"train", "val", "test", "all"}
        assert sources.find_source(name).streams == ("workers" in dataset)
