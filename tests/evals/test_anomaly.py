"""eval=anomaly: its rows for one model and for many, with masks, and where there is nothing to measure."""

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from trust_exp.data.batch import Batch, MaskBatch
from trust_exp.data.digits import Digits
from trust_exp.evals.anomaly.pasting import with_foreign, with_square
from trust_exp.evals.anomaly.suite import Anomaly
from trust_exp.evals.suite import Context, run_within


class Scored(nn.Module):
    """A network with given outputs, looked up by the first pixel of an image."""

    def __init__(self, **outputs):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.outputs = outputs

    def forward(self, image):
        return {name: make(image) for name, make in self.outputs.items()}


def bright(image):
    return image.flatten(1).mean(1, keepdim=True)


def asked(network, data, tmp_path, quiet_trainer, **options):
    suite = Anomaly(**{"false_alarms": 0.05, "pictures": 2, "pasted": 0, **options})
    suite.context = Context(network, data, tmp_path, method="nearest")
    report, _ = run_within(suite, quiet_trainer())
    return {row.metric: row for row in report.rows if "class" not in row.detail}, report


@pytest.fixture
def data():
    return Digits(name="digits", normal_class=["1"], hold_out=0.2)


def test_the_rows_of_one_model(data, tmp_path, quiet_trainer):
    rows, report = asked(Scored(scores=bright), data, tmp_path, quiet_trainer)
    test = data.arrays("test").batch()
    wanted = roc_auc_score(test.label != 1, bright(test.image)[:, 0])
    assert rows["anomaly/auroc"].value == pytest.approx(wanted, abs=1e-9)
    low, high = rows["anomaly/auroc"].interval
    assert low < wanted < high
    assert {"anomaly/average_precision", "anomaly/f1_max"} <= rows.keys()
    assert all(path.exists() for path in report.figures)
    assert len(report.figures) == 2


def test_the_threshold_is_that_of_held_out_normal_samples(data, tmp_path, quiet_trainer):
    rows, _ = asked(Scored(scores=bright), data, tmp_path, quiet_trainer, false_alarms=0.25)
    held = bright(data.arrays("val").batch().image)[:, 0].sort().values
    threshold = held[math.ceil(0.75 * (len(held) - 1))]
    test = data.arrays("test").batch()
    above = bright(test.image)[:, 0] > threshold
    normal = test.label == 1
    assert rows["anomaly/true_positive_rate"].value == pytest.approx(above[~normal].double().mean().item())
    assert rows["anomaly/false_positive_rate"].value == pytest.approx(above[normal].double().mean().item())
    assert rows["anomaly/false_positive_rate"].n == int(normal.sum())
    assert (held > threshold).double().mean() <= 0.25


def test_no_test_sample_chooses_the_threshold(data, tmp_path, quiet_trainer):
    """With other test scores and the same held-out ones the alarms are those of the same threshold."""
    held = {tuple(image) for image in data.arrays("val").batch().image.flatten(1).tolist()}

    def shifted(image):
        own = torch.tensor([tuple(one) in held for one in image.flatten(1).tolist()])
        return (bright(image)[:, 0] + torch.where(own, 0.0, 10.0))[:, None]

    rows, _ = asked(Scored(scores=shifted), data, tmp_path, quiet_trainer)
    assert rows["anomaly/true_positive_rate"].value == rows["anomaly/false_positive_rate"].value == 1


def test_without_a_held_out_part_there_is_no_threshold(tmp_path, quiet_trainer):
    data = Digits(name="digits", normal_class=["1"], hold_out=0)
    rows, _ = asked(Scored(scores=bright), data, tmp_path, quiet_trainer)
    assert "anomaly/auroc" in rows
    assert "anomaly/true_positive_rate" not in rows


def test_the_rows_of_many_models_are_those_of_each_and_their_mean(tmp_path, quiet_trainer):
    data = Digits(name="digits", normal_class=["each"], hold_out=0.2, classes=["0", "1", "2"])
    weights = torch.tensor([1.0, -1.0, 2.0])
    rows, report = asked(Scored(scores=lambda image: bright(image) * weights), data, tmp_path, quiet_trainer)
    each = {row.detail["class"]: row for row in report.rows if row.metric == "anomaly/class_auroc"}
    test = data.arrays("test").batch()
    for number, name in enumerate(("0", "1", "2")):
        wanted = roc_auc_score(test.label != number, bright(test.image)[:, 0] * weights[number])
        assert each[name].value == pytest.approx(wanted, abs=1e-9)
    assert rows["anomaly/auroc"].value == pytest.approx(sum(row.value for row in each.values()) / 3)
    assert rows["anomaly/auroc"].interval[0] < rows["anomaly/auroc"].value < rows["anomaly/auroc"].interval[1]


def test_other_scores_have_rows_of_their_own(data, tmp_path, quiet_trainer):
    network = Scored(scores=bright, scores_dark=lambda image: -bright(image))
    rows, _ = asked(network, data, tmp_path, quiet_trainer)
    assert rows["anomaly/dark/auroc"].value == pytest.approx(1 - rows["anomaly/auroc"].value)
    assert rows["anomaly/dark/auroc"].interval is None


def test_a_score_of_nan_is_refused(data, tmp_path, quiet_trainer):
    with pytest.raises(FloatingPointError, match="a score is nan"):
        asked(Scored(scores=lambda image: bright(image) * math.nan), data, tmp_path, quiet_trainer)


def test_a_perfect_reconstruction_has_a_pixel_auc_of_1(data, tmp_path, quiet_trainer):
    """It says how well images are copied, and nothing about anomalies."""
    perfect = Scored(scores=bright, reconstruction=lambda image: image[:, None])
    rows, _ = asked(perfect, data, tmp_path, quiet_trainer)
    assert rows["anomaly/reconstruction_auc@0"].value == rows["anomaly/reconstruction_auc@0.5"].value == 1
    image = data.arrays("test").batch().image
    moved = Scored(scores=bright, reconstruction=lambda image: image[:, None].roll(1, -1))
    rows, _ = asked(moved, data, tmp_path, quiet_trainer)
    wanted = roc_auc_score((image > 0.5).flatten(), image.roll(1, -1).flatten())
    assert rows["anomaly/reconstruction_auc@0.5"].value == pytest.approx(wanted, abs=1e-4)


class Fixed:
    """Two splits of given batches, as a data module serves them."""

    splits = ("train", "test")

    def __init__(self, batch, info):
        self.batch, self.info, self.trainer = batch, info, None

    def eval_loader(self, *_):
        return [self.batch]

    def size(self, _):
        return len(self.batch.label)

    def served_labels(self, _):
        return self.batch.label

    def samples(self, _, rows):
        return Batch(self.batch.image[rows], self.batch.label[rows], rows)


def masked(labels, info):
    mask = torch.zeros(len(labels), 6, 6, dtype=torch.bool)
    mask[labels > 0, 1:3, 1:4] = True
    image = mask[:, None].float().expand(-1, 3, -1, -1)
    return Fixed(MaskBatch(image, labels, torch.arange(len(labels)), mask), info)


def info(classes=("good", "crack")):
    from trust_exp.data.config import DatasetInfo

    return DatasetInfo("anomaly_folder", classes, (3, 6, 6), (0.0, 1.0), task="anomaly", normal=((0,),))


def test_masks_give_measures_of_pixels(tmp_path, quiet_trainer):
    network = Scored(scores=bright, maps=lambda image: image[:, :1])
    rows, _ = asked(network, masked(torch.tensor([0, 0, 1, 1]), info()), tmp_path, quiet_trainer)
    for metric in ("auroc", "pixel_auroc", "pixel_average_precision", "aupro"):
        assert rows[f"anomaly/{metric}"].value == pytest.approx(1.0)
    opposite = Scored(scores=bright, maps=lambda image: -image[:, :1])
    rows, _ = asked(opposite, masked(torch.tensor([0, 0, 1, 1]), info()), tmp_path, quiet_trainer)
    assert rows["anomaly/pixel_auroc"].value == rows["anomaly/aupro"].value == 0


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_without_anomalies_or_normal_samples_the_measures_are_nan(tmp_path, quiet_trainer, labels):
    rows, report = asked(Scored(scores=bright), masked(torch.tensor(labels), info()), tmp_path, quiet_trainer)
    assert math.isnan(rows["anomaly/auroc"].value)
    assert rows["anomaly/auroc"].interval is None
    assert report.figures


# --- what is pasted -------------------------------------------------------------------------------------------------


def test_what_is_pasted_is_a_square_or_another_image_at_half_of_its_size():
    image = torch.zeros(40, 1, 10, 10)
    squares = with_square(image, torch.Generator().manual_seed(0))
    sides = (squares > 0).flatten(1).sum(1)
    assert (sides == 4).all(), "a fifth of the side"
    assert len({tuple(one) for one in (squares > 0).flatten(1).tolist()}) > 10, "somewhere"
    other = torch.full((40, 1, 10, 10), 0.75)
    both = with_foreign(image + 0.5, other, torch.Generator().manual_seed(0))
    assert ((both == 0.75).flatten(1).sum(1) == 25).all()
    assert torch.equal(with_foreign(image + 1, other, torch.Generator()), image + 1), "the brighter pixel is seen"
    assert not image.any(), "the images themselves stay as they are"


def test_a_map_that_sees_what_is_pasted_has_an_auroc_of_1(data, tmp_path, quiet_trainer):
    """It knows the normal images; the opposite of it has 0, and one that does not look 0.5."""
    known = data.arrays("test").batch().image

    def changed(image):
        nearest = torch.cdist(image.flatten(1), known.flatten(1)).argmin(1)
        return (image - known[nearest]).abs().sum(1, keepdim=True)

    network = Scored(
        scores=bright,
        maps=lambda image: (changed(image) > 1e-6).float(),
        attention=lambda image: -(changed(image) > 1e-6).float(),
        attention_offline=lambda image: torch.zeros(len(image), 1, 8, 8),
    )
    rows, report = asked(network, data, tmp_path, quiet_trainer, pasted=9)
    assert rows["anomaly/pasted_square/maps_auroc"].value > 0.98, "a copy of the nearest image is not always found"
    assert rows["anomaly/pasted_square/attention_auroc"].value < 0.02
    for kind in ("square", "foreign"):
        assert rows[f"anomaly/pasted_{kind}/attention_offline_auroc"].value == 0.5
        assert rows[f"anomaly/pasted_{kind}/maps_auroc"].n == 9
    assert [path.name for path in report.figures][-1] == "anomaly_maps_1.png"


def test_without_maps_nothing_is_pasted(data, tmp_path, quiet_trainer):
    rows, _ = asked(Scored(scores=bright), data, tmp_path, quiet_trainer, pasted=9)
    assert not any("pasted" in name for name in rows)
