"""The property that users buy: no certified image is ever broken, by AutoAttack (the official library and the package's
own) or by our own APGD. Every certified image is attacked here."""

from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn

from trust_exp.attacks.auto_attack import autoattack
from trust_exp.attacks.auto_pgd import apgd
from trust_exp.build import build
from trust_exp.data.batch import as_floats
from trust_exp.evals.certify.suite import Certify
from trust_exp.evals.suite import Context, Report, SuiteRunner
from trust_exp.rng import keyed_generator


class Certified:
    """A network, the images that it was certified on, and their radii."""

    def __init__(self, quiet_trainer, config, root: Path, epochs: int, folder: Path) -> None:
        L.seed_everything(0, verbose=False)
        self.data = build(config["dataset"], name=config["dataset"]["name"], root=root, seed=0)
        info = self.data.info
        self.model: nn.Module = build(config["model"], shape=info.shape, classes=len(info.classes))
        method = build(config["method"], model=self.model, info=info)
        quiet_trainer(max_epochs=epochs, inference_mode=False).fit(method, datamodule=self.data)
        self.model.eval()
        suite: Certify = build(config["eval"]["certify"])
        suite.context = Context(self.model, self.data, folder)
        runner = SuiteRunner(suite, "test", {})
        quiet_trainer(inference_mode=False).test(runner, verbose=False)
        self.radius: Tensor = runner.outcomes["test"]["radius"].float()
        self.report: Report = runner.report
        arrays = self.data.arrays("test")
        self.images, self.labels, self.radii = as_floats(arrays.images), arrays.labels, suite.radii
        self.classes = len(info.classes)

    def broken(self, epsilon: float, version: str, implementation: str = "official") -> int:
        """How many images that are certified at ``epsilon`` AutoAttack breaks there."""
        certified = self.radius > epsilon
        assert certified.any(), f"no image is certified at {epsilon}; the test would show nothing"
        result = autoattack(
            self.model,
            self.images[certified],
            self.labels[certified],
            epsilon,
            norm="L2",
            version=version,
            implementation=implementation,
        )
        return int((~result.robust).sum())

    def broken_at_own_radius(self, loss: str) -> int:
        own = self.radius > 0
        attacked = apgd(
            self.model,
            self.images[own],
            self.labels[own],
            self.radius[own],
            norm="L2",
            loss=loss,
            generator=keyed_generator("soundness"),
        )
        with torch.no_grad():
            return int((self.model(attacked).argmax(1) != self.labels[own]).sum())


@pytest.fixture(scope="module")
def digits(tmp_path_factory, composed_in, quiet_trainer):
    folder = tmp_path_factory.mktemp("digits")
    search = "eval.certify={tightness_pairs: 20, tightness_steps: 20}"
    config = composed_in(folder, "method=cll", "dataset=digits", search)
    return Certified(quiet_trainer, config, folder, 30, folder)


@pytest.fixture(scope="module")
def mnist(tmp_path_factory, composed_in, shared_data, quiet_trainer):
    folder = tmp_path_factory.mktemp("mnist")
    config = composed_in(
        folder, "method=cll", "dataset=mnist", "dataset.limit_test=2000", "eval.certify.tightness_pairs=0"
    )
    from trust_exp.data.sources import import_dataset

    import_dataset("mnist", shared_data / "mnist", folder)
    return Certified(quiet_trainer, config, folder, 2, folder)


@pytest.mark.slow  # the contract test attacks each method's certificates after two steps
@pytest.mark.parametrize("radius", [0.5, 1.0])
def test_no_certified_digit_is_broken_by_the_apgd_attacks_of_autoattack(digits, radius):
    assert radius in digits.radii
    assert digits.broken(radius, "fast", "own") == 0


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["own", "official"])
@pytest.mark.parametrize("radius", [0.25, 0.5, 0.75, 1.0])
def test_no_certified_digit_is_broken_by_autoattack(digits, radius, implementation):
    assert digits.broken(radius, "standard", implementation) == 0


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_no_digit_is_broken_at_its_own_radius(digits, loss):
    assert (digits.radius > 0).sum() > 250
    assert digits.broken_at_own_radius(loss) == 0


def test_the_attack_would_have_found_a_bound_that_is_too_small(digits):
    """Radii three times as large are not certified, and the same attacks do break images there."""
    digits.radius *= 3
    try:
        assert digits.broken_at_own_radius("dlr") > 0
    finally:
        digits.radius /= 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("radius", [0.3, 0.5, 1.0, 1.58])
def test_no_certified_mnist_image_of_2000_is_broken_by_the_apgd_attacks_of_autoattack(mnist, radius):
    assert len(mnist.images) == 2000
    assert radius in mnist.radii
    assert mnist.broken(radius, "fast") == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_no_mnist_image_of_2000_is_broken_at_its_own_radius(mnist, loss):
    assert mnist.broken_at_own_radius(loss) == 0


def test_rows_agree_with_the_radii(digits):
    values = {row.metric: row.value for row in digits.report.rows if "class" not in row.detail}
    for radius in digits.radii:
        expected = (digits.radius > radius).double().mean().item()
        assert values[f"certify/accuracy@{radius:.3g}"] == pytest.approx(expected, abs=1e-6)
    assert 0 < values["certify/tightness"] <= 1
    assert 0 <= values["certify/bound_gap"] < 0.02
    per_class = [row for row in digits.report.rows if row.detail.get("radius") == 0.5 and "class" in row.detail]
    assert len(per_class) == 10
    assert sum(row.value * row.n for row in per_class) == pytest.approx(
        values["certify/accuracy@0.5"] * len(digits.images)
    )
