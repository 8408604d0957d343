"""PatchCore: its search, its coreset and its image score against slow forms; patches of networks of every layout."""

import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F

from trust_exp.errors import UserError
from trust_exp.methods.anomaly import core
from trust_exp.methods.anomaly.core import coreset, nearest, reweighted
from trust_exp.methods.anomaly.patchcore import PatchFeatures, PatchMemory


def test_the_nearest_is_that_of_all_distances(monkeypatch):
    monkeypatch.setattr(core, "CHUNK", 300)  # several parts
    bank, features = torch.randn(50, 6), torch.randn(70, 6)
    slow = torch.cdist(features.double(), bank.double())
    distance, place = nearest(features, bank)
    assert torch.equal(place, slow.argmin(1))
    torch.testing.assert_close(distance.double(), slow.min(1).values, rtol=1e-5, atol=1e-6)


def test_a_patch_of_the_bank_is_at_no_distance():
    """Products of matrices alone would leave a distance of some hundredths here."""
    bank = torch.randn(30, 64) + 100
    distance, place = nearest(bank, bank)
    assert torch.equal(place, torch.arange(30))
    assert (distance == 0).all()


def slow_coreset(features, number, first):
    distances = torch.cdist(features.double(), features.double())
    chosen = [first]
    while len(chosen) < number:
        chosen.append(int(distances[chosen].min(0).values.argmax()))
    return chosen


def test_the_coreset_is_that_of_brute_force():
    features = torch.randn(200, 5, dtype=torch.float64)
    for seed in range(5):
        chosen = coreset(features, 20, torch.Generator().manual_seed(seed), projection=0)
        first = int(torch.randint(200, (1,), generator=torch.Generator().manual_seed(seed)))
        assert chosen.tolist() == slow_coreset(features, 20, first)


def test_a_projected_coreset_covers_rare_patches():
    """One cluster of 400 and 20 of one patch each: a random choice of 21 would miss most of the rare ones."""
    centres = torch.randn(21, 300) * 10
    cluster = torch.cat([torch.zeros(400, dtype=torch.int64), torch.arange(1, 21)])
    features = centres[cluster] + torch.randn(420, 300) * 0.1
    for projection in (0, 32):
        chosen = coreset(features, 21, torch.Generator().manual_seed(0), projection)
        assert cluster[chosen].unique().tolist() == list(range(21))


def test_features_of_few_values_are_searched_as_they_are():
    features = torch.randn(50, 5)
    found = [coreset(features, 9, torch.Generator().manual_seed(0), projection).tolist() for projection in (0, 5, 128)]
    assert found[0] == found[1] == found[2]
    assert coreset(features, 9, torch.Generator().manual_seed(0), 2).tolist() != found[0], (
        "fewer directions find others"
    )
    assert len(set(coreset(features.double(), 9, torch.Generator().manual_seed(0), 2).tolist())) == 9


def test_equal_rows_are_chosen_once_each():
    chosen = coreset(torch.ones(6, 3), 6, torch.Generator().manual_seed(0), projection=0)
    assert sorted(chosen.tolist()) == list(range(6))


def test_the_weight_of_an_image_is_that_of_the_formula():
    bank, features = torch.randn(30, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64) * 2
    for row, found in zip(features, reweighted(features, bank), strict=True):
        distances = (row - bank).norm(dim=1)
        closest = int(distances.argmin())
        around = (bank[closest] - bank).norm(dim=1).argsort()[:9]
        slow = 1 - math.exp(distances[closest]) / sum(math.exp(distances[place]) for place in around)
        assert found.item() == pytest.approx(slow, rel=1e-9)


def test_large_distances_have_a_finite_weight():
    assert reweighted(torch.full((1, 4), 1e4), torch.randn(20, 4)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "layers", "grid", "width"),
    [
        ("resnet18", ["stage3", "stage4"], (12, 12), 128 + 256),
        ("vit_tiny_patch16_224", ["blocks.7", "blocks.11"], (14, 14), 192 + 192),
        ("swin_tiny_patch4_window7_224", ["layers.1", "layers.2"], (28, 28), 192 + 384),
    ],
)
def test_patches_of_every_layout(name, layers, grid, width):
    side = 96 if name == "resnet18" else 224
    network = timm.create_model(name, num_classes=5).eval()
    features = PatchFeatures(network, layers, (3, side, side), 3, unit=True)
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        patches = features(image)
    assert features.grid == grid
    assert patches.shape == (2, grid[0] * grid[1], width)
    torch.testing.assert_close(patches.norm(dim=2), torch.ones(2, grid[0] * grid[1]))


def test_patches_of_a_resnet_are_those_of_its_layers():
    network = timm.create_model("resnet18", num_classes=5).eval()
    kept = {}
    for name in ("layer2", "layer3"):
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: kept.__setitem__(name, out))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        patches = PatchFeatures(network, ["stage3", "stage4"], (3, 64, 64), 3, unit=False)(image)
    fine, coarse = (F.avg_pool2d(kept[name], 3, 1, 1, count_include_pad=False) for name in ("layer2", "layer3"))
    both = torch.cat([fine, F.interpolate(coarse, fine.shape[2:], mode="bilinear")], 1)
    torch.testing.assert_close(patches, both.flatten(2).mT)


def test_an_unknown_layer_names_the_nearest():
    with pytest.raises(UserError, match="the layer 'layr3' does not exist; did you mean layer3"):
        PatchFeatures(timm.create_model("resnet18"), ["layr3"], (3, 64, 64), 3, unit=False)


class Plain(torch.nn.Module):
    """Patches of 2 by 2 pixels."""

    grid = (4, 4)

    def forward(self, image):
        return F.unfold(image, 2, stride=2).mT


@pytest.mark.parametrize("image_score", ["reweighted", "largest", "worst"])
def test_a_defect_has_the_largest_score_where_it_is(image_score):
    normal = torch.rand(30, 1, 8, 8) * 0.1
    network = PatchMemory(Plain(), 1, image_score, smooth=0.0)
    network.keep(0, Plain()(normal).flatten(0, 1))
    images = torch.rand(6, 1, 8, 8) * 0.1
    images[3, 0, 2:4, 4:6] = 1.0
    found = network(images)
    assert found["scores"].shape == (6, 1)
    assert found["scores"][:, 0].argmax() == 3
    assert found["maps"].shape == (6, 1, 8, 8)
    place = int(found["maps"][3, 0].argmax())
    assert (place // 8, place % 8) in {(2, 4), (2, 5), (3, 4), (3, 5)}


def test_smoothing_keeps_the_place_of_a_defect():
    network = PatchMemory(Plain(), 1, "largest", smooth=2.0)
    network.keep(0, torch.zeros(1, 4))
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 2:4, 4:6] = 1.0
    place = int(network(image)["maps"][0, 0].argmax())
    assert abs(place // 8 - 2.5) < 2
    assert abs(place % 8 - 4.5) < 2


@pytest.fixture
def folder(tmp_path):
    """Normal images are smooth; defects are squares, with masks."""
    draw = np.random.default_rng(0)

    def write(path, square=False):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((32, 32, 3), 90, np.uint8) + draw.integers(0, 12, (32, 32, 3), np.uint8)
        if square:
            pixels[8:16, 12:20] = 230
        Image.fromarray(pixels).save(path)

    for number in range(24):
        write(tmp_path / f"tiles/train/good/{number}.png")
    for number in range(5):
        write(tmp_path / f"tiles/test/good/{number}.png")
        write(tmp_path / f"tiles/test/square/{number}.png", square=True)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:16, 12:20] = 255
        (tmp_path / "tiles/ground_truth/square").mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / f"tiles/ground_truth/square/{number}_mask.png")
    return tmp_path / "tiles"


def test_a_strangers_folder_in_one_command(command_line, folder, tmp_path):
    """Scores, maps and figures, with a network given by its file of weights."""
    network = timm.create_model("resnet18", num_classes=2)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    found = command_line.here(
        "method=patchcore",
        "dataset=anomaly_folder",
        f"dataset.path={folder}",
        "dataset.image_size=[64,64]",
        "dataset.stretch=true",
        "dataset.resize=null",
        "dataset.workers=0",
        "model=timm",
        "model.name=resnet18",
        f"checkpoint={tmp_path / 'weights.pth'}",
    )
    assert found.returncode == 0, found.stderr
    for metric in ("anomaly/auroc", "anomaly/pixel_auroc", "anomaly/aupro"):
        assert metric in found.stdout
    metrics = command_line.result()["metrics"]
    assert metrics["anomaly/auroc"] == 1
    assert metrics["anomaly/pixel_auroc"] > 0.9
