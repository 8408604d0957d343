"""The AutoAttack suite: what it skips, what it records, and what it refuses."""

import pytest
import torch
from torch import Tensor, nn

from trust_exp.build import build
from trust_exp.data.batch import Batch, as_floats
from trust_exp.errors import UserError
from trust_exp.evals.suite import Context, Outcomes, Suite

ASKED = 12


class Counting(nn.Module):
    """A linear classifier that keeps which images it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().flatten(1))
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def suite(composed, folder, certified: Outcomes | None, *overrides: str) -> tuple[Suite, Batch]:
    """The suite and a batch of digits, at places 20, 21, ... of the test split, that the model gets right."""
    config = composed(
        "dataset=digits", "eval=[certify,autoattack]", "eval.autoattack.version=fast",
        "eval.autoattack.epsilon=3", *overrides,
    )  # fmt: skip
    data = build(config["dataset"], name="digits", root=folder, seed=0)
    torch.manual_seed(0)
    model = Counting()
    index = torch.arange(20, 20 + ASKED)
    images = as_floats(data.arrays("test").images[index])
    with torch.no_grad():
        labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    built: Suite = build(config["eval"]["autoattack"])
    earlier = {} if certified is None else {"certificates": {"test": certified}}
    built.context = Context(model, data, folder, earlier=earlier)
    built.samples = None
    return built, Batch(images, labels, index)


def certificates(covered: list[int], epsilon: float = 3.0) -> Outcomes:
    """Radii of the whole test split: twice epsilon for the places given, exactly epsilon (too little) for the rest."""
    radius = torch.full((359,), epsilon, dtype=torch.float64)
    radius[covered] = 2 * epsilon
    return {"index": torch.arange(359), "radius": radius, "correct": torch.ones(359, dtype=torch.bool)}


def test_certified_images_are_not_attacked_and_count_as_held(composed, tmp_path):
    covered = [20, 22, 23]  # the first is classified wrongly, whatever the certificate says
    asked, batch = suite(composed, tmp_path, certificates(covered), "eval.autoattack.skip_certified=true")
    asked.prepare()
    outcomes = asked.step(batch)
    assert outcomes["skipped"].nonzero().flatten().tolist() == [2, 3]
    assert outcomes["survived"][:, -1].nonzero().flatten().tolist() == [2, 3]  # an untrained model holds nowhere else
    clean = batch.image.flatten(1)
    for points in asked.context.model.seen:
        if len(points) < ASKED:  # an attack's batch, not the clean images
            assert not any((points == clean[row]).all(1).any() for row in (2, 3))
    report = asked.finish({"test": {"index": batch.index, **outcomes}})
    rows = {row.metric: row for row in report.rows}
    assert "autoattack/broken_certificates" not in rows  # it would show nothing
    accuracy = rows["autoattack/accuracy"]
    assert (accuracy.value, accuracy.n) == (2 / ASKED, ASKED)
    assert accuracy.detail["certified_not_attacked"] == 2
    assert accuracy.detail["how"].endswith("2 certified ones not attacked")
    assert accuracy.detail["implementation"].startswith("trust_exp ")


def test_it_is_off_by_default_and_then_all_are_attacked(composed, tmp_path):
    asked, batch = suite(composed, tmp_path, certificates([22, 23]))
    assert composed("eval=[autoattack]")["eval"]["autoattack"]["skip_certified"] is False
    asked.prepare()
    outcomes = asked.step(batch)
    assert not outcomes["skipped"].any()
    assert not outcomes["survived"].any()
    report = asked.finish({"test": {"index": batch.index, **outcomes}})
    broken = {row.metric: row for row in report.rows}["autoattack/broken_certificates"]
    assert (broken.value, broken.n) == (2, 2)  # the certificates were made up
    assert "certified_not_attacked" not in report.rows[0].detail


def test_the_library_runs_where_it_is_asked_for_and_the_record_says_so(composed, tmp_path):
    asked, batch = suite(composed, tmp_path, None, "eval.autoattack.implementation=official")
    report = asked.finish({"test": {"index": batch.index, **asked.step(batch)}})
    assert report.rows[0].detail["implementation"].startswith("pyautoattack ")


def test_the_record_says_where_steps_are_fewer(composed, tmp_path):
    asked, batch = suite(composed, tmp_path, None, "eval.autoattack.steps=3")
    report = asked.finish({"test": {"index": batch.index, **asked.step(batch)}})
    assert report.rows[0].detail["how"] == "L2 3: apgd-ce + apgd-t of 3 steps"


def test_no_certificates_nothing_to_skip(composed, tmp_path):
    asked, _ = suite(composed, tmp_path, None, "eval.autoattack.skip_certified=true")
    with pytest.raises(UserError, match=r"skip_certified=true needs the certificates.*eval=\[certify,autoattack\]"):
        asked.prepare()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["skip_certified=true", "norm=Linf"], r"skip_certified=true needs eval.autoattack.norm=L2.*got Linf"),
        (["implementation=torchattacks"], r"eval.autoattack.implementation must be one of own, official"),
    ],
)
def test_refusals(composed, override, message):
    with pytest.raises(UserError, match=message):
        composed("eval=[certify,autoattack]", *(f"eval.autoattack.{value}" for value in override))


def test_the_soundness_tests_attack_every_certified_image():
    from trust_exp.schema import ROOT

    text = (ROOT / "tests" / "evals" / "test_soundness.py").read_text()
    assert "skip" not in text.replace("skip(", "")


def test_images_of_early_stopping_are_left_out_and_no_others(composed, tmp_path):
    asked, _ = suite(composed, tmp_path, None)
    assert asked.rows("test") is None
    held_out = [3, 0, 358, 77]
    asked.context.facts = {"stopping_rows": held_out}
    left = asked.rows("test").tolist()
    assert left == sorted(set(range(359)) - set(held_out))
    asked.samples = 5
    assert asked.rows("test").tolist() == [1, 2, 4, 5, 6]
    served = asked.context.data.eval_loader("test", asked.rows("test"))
    assert torch.cat([batch.index for batch in served]).tolist() == [1, 2, 4, 5, 6]
