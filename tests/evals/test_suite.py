"""What every eval gets: sums and passes that do not show the number of processes, data of its own, and its own rows."""

import json
import math
import os
import random
import runpy
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from trust_exp.data.digits import Digits
from trust_exp.errors import UserError
from trust_exp.evals.clean.suite import Clean
from trust_exp.evals.suite import Context, ExactSum
from trust_exp.schema import ROOT

SCRIPT = ROOT / "tests" / "evals" / "on_processes.py"
TRAINED = ("method=standard", "dataset=digits", "size=smoke", "accelerator.kind=cpu")


# --- sums, passes and outcomes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone():
    return runpy.run_path(str(SCRIPT))["ask"](1)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The same on two processes, which Lightning starts as it does those of a run."""
    out = tmp_path_factory.mktemp("together") / "found.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), "2", str(out)]
    done = subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return torch.load(out, weights_only=True)


def test_two_processes_find_what_one_finds_to_the_last_digit(alone, together):
    assert (alone["world"], together["world"]) == (1, 2)
    for kind in ("outcomes", "totals"):
        for split in ("train", "test"):
            one, two = alone[kind][split], together[kind][split]
            assert one.keys() == two.keys()
            for name in one:
                assert torch.equal(one[name], two[name]), (kind, split, name)
    assert alone["value"] == together["value"]


def test_outcomes_come_in_the_order_of_the_data_whoever_found_them(together):
    data = Digits("digits", limit_train=300, limit_test=101)
    for split in ("train", "test"):
        found = together["outcomes"][split]
        assert torch.equal(found["index"], data.served(split))
        assert torch.equal(found["label"], data.served_labels(split))


def test_whole_numbers_are_summed_as_such(together):
    for split, count in (("train", 300), ("test", 101)):
        confusion = together["totals"][split]["confusion"]
        assert confusion.dtype == torch.int64
        assert torch.equal(confusion.sum(1), torch.bincount(together["outcomes"][split]["label"]))
        assert int(confusion.sum()) == count


def test_a_second_pass_uses_what_the_first_one_found(alone, together):
    for found in (alone, together):
        assert found["calls"] == ["prepare", "between", "finish"]
        for outcomes in found["outcomes"].values():
            assert set(outcomes) == {"index", "label", "distance"}


KINDS = {
    "alike": lambda draw: draw.random(),
    "of all sizes": lambda draw: draw.choice([-1, 1]) * 10 ** draw.uniform(-12, 12),
    "that nearly cancel": lambda draw: draw.choice([-1, 1]) * (1e6 + draw.random()),
    "of a third": lambda draw: draw.randint(-1000, 1001) / 3,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sum_is_the_nearest_number_whatever_the_order_of_its_parts(kind):
    draw = random.Random(kind)
    values = [KINDS[kind](draw) for _ in range(400)]
    exact = float(sum(map(Fraction, values)))
    assert exact == math.fsum(values)
    plain = set()
    for _ in range(10):
        draw.shuffle(values)
        shares, place = [], 0
        while place < len(values):  # some processes, each with some in a row
            size = draw.randint(1, 150)
            shares.append(values[place : place + size])
            place += size
        whole = ExactSum()
        for share in shares:
            own = ExactSum()
            for value in share:
                own.add(torch.tensor(value, dtype=torch.float64))
            whole.add(own.high, own.low)
        assert whole.value().dtype == torch.float64
        assert float(whole.value()) == exact
        plain.add(sum(values))
    assert len(plain) > 1, "adding them up one by one shows their order"


def test_a_sum_of_tensors_is_that_of_each_place():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(3, 2, generator=generator) * 10.0**power for power in range(-8, 9) for _ in range(9)]
    total = ExactSum()
    for part in parts:
        total.add(part)
    for row in range(3):
        for column in range(2):
            assert float(total.value()[row, column]) == math.fsum(float(part[row, column]) for part in parts)


def test_a_sum_of_whole_numbers_is_exact_beyond_what_floats_hold():
    total = ExactSum()
    for value in (2**60, 1, True, -(2**60), 2**53 + 1):
        total.add(torch.tensor(value))
    assert total.value().dtype == torch.int64
    assert int(total.value()) == 2 + 2**53 + 1


@pytest.mark.parametrize(("values", "total"), [([1.0, math.inf, 2.0], math.inf), ([-math.inf, 1.0], -math.inf)])
def test_a_sum_with_an_infinite_part_is_infinite(values, total):
    found = ExactSum()
    for value in values:
        found.add(torch.tensor(value))
    assert float(found.value()) == total


def test_a_sum_with_nan_or_of_both_infinities_is_nan():
    for values in ([1.0, math.nan], [math.inf, -math.inf]):
        found = ExactSum()
        for value in values:
            found.add(torch.tensor(value))
        assert math.isnan(found.value())


# --- outputs by name -------------------------------------------------------------------------------------------------


class Both(nn.Module):
    """A network that returns a dictionary."""

    def forward(self, image):
        return {"logits": image + 1, "scores": image.sum(1)}


@pytest.mark.parametrize(
    ("network", "name", "wanted"),
    [
        (nn.Identity(), "logits", [[1.0, 2.0]]),
        (Both(), "logits", [[2.0, 3.0]]),
        (Both(), "scores", [3.0]),
    ],
    ids=["a tensor", "logits of a dictionary", "scores of a dictionary"],
)
def test_a_network_is_asked_for_an_output_by_name(network, name, wanted):
    context = Context(network, None, Path())
    assert context.output(name, torch.tensor([[1.0, 2.0]])).tolist() == wanted


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        (nn.Identity(), "the network gives no maps; it gives logits"),
        (Both(), "the network gives no maps; it gives logits, scores"),
    ],
    ids=["a tensor", "a dictionary"],
)
def test_an_output_that_a_network_lacks_is_one_sentence(network, sentence):
    with pytest.raises(UserError) as error:
        Context(network, None, Path()).output("maps", torch.zeros(1, 2))
    assert str(error.value) == sentence


# --- evals of a run that is done -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(command_line_in, tmp_path_factory):
    """The runs' folder of a run that is done."""
    command_line = command_line_in(tmp_path_factory.mktemp("trained"))
    process = command_line.here(*TRAINED, "eval=[clean]")
    assert process.returncode == 0, process.stderr
    return command_line.runs


@pytest.fixture
def again(command_line, trained):
    """A copy of the run; ask it something by overrides."""
    shutil.copytree(trained, command_line.runs)
    command_line.before = command_line.result()

    def ask(*overrides, run=command_line.here):
        return run("mode=eval", f"run={command_line.before['run_id']}", "accelerator.kind=cpu", *overrides)

    command_line.ask = ask
    return command_line


def rows_of(result, suite):
    return [row for row in result["rows"] if row["suite"] == suite]


def test_an_eval_may_have_data_of_its_own(again):
    own = ("eval=[clean]", "dataset@eval.clean.data=digits", "eval.clean.data.limit_test=20")
    process = again.ask(*own)
    assert process.returncode == 0, process.stderr
    result = again.result()
    assert rows_of(result, "clean") == rows_of(again.before, "clean")
    (row,) = rows_of(result, "clean@digits")
    assert (row["metric"], row["n"]) == ("clean@digits/accuracy", 20)
    folder = again.folder() / "outcomes"
    whole, few = (torch.load(folder / f"{name}-test.pt", weights_only=True) for name in ("clean", "clean@digits"))
    assert torch.equal(whole["correct"][few["index"]], few["correct"])
    assert row["value"] == float(few["correct"].double().mean())
    assert "eval.clean.data" in result["further_data"]
    assert result["config"] == again.before["config"]
    assert "is done" in again.ask(*own).stderr, "and is not asked twice"


def test_data_of_other_classes_are_refused_and_the_run_stays_done(again):
    process = again.ask("eval=[clean]", "dataset@eval.clean.data=digits", "eval.clean.data.classes=['0','1']")
    assert process.returncode == 2
    assert "error: the network has 10 classes; dataset=digits has 2; " in process.stderr.splitlines()[-1]
    result = again.result()
    assert result["status"] == "done"
    assert result["rows"] == again.before["rows"]


def test_the_same_eval_stands_twice_under_two_names(again):
    process = again.ask("eval=[clean]", "+eval@eval.learnt=clean", "eval.learnt.splits=[train]")
    assert process.returncode == 0, process.stderr
    first = again.result()
    (row,) = rows_of(first, "learnt")
    assert row["metric"] == "learnt/train_accuracy"
    assert row["n"] == first["config"]["dataset"]["limit_train"] == 100
    assert {path.name for path in (again.folder() / "outcomes").iterdir()} == {"clean-test.pt", "learnt-train.pt"}
    assert again.ask("eval=[clean]", "force=true").returncode == 0
    second = again.result()
    for name in ("clean", "learnt"):
        assert rows_of(second, name) == rows_of(first, name)
    assert second["metrics"] == first["metrics"]


def test_other_options_replace_rows_and_are_told(again):
    process = again.ask("eval=[clean]", "eval.clean.splits=[train]")
    assert process.returncode == 0, process.stderr
    assert (
        "eval=clean had rows with splits=['test'], which these replace; "
        "to keep both, give one a name of its own: +eval@eval.clean_2=clean" in process.stderr
    )
    assert set(again.result()["metrics"]) == {"clean/train_accuracy"} | {
        name for name in again.before["metrics"] if not name.startswith("clean/")
    }
    process = again.ask("eval=[clean]", "eval.clean.splits=[train]", "force=true")
    assert "had rows with" not in process.stderr, "the same options"


def test_what_is_told_of_other_data_and_of_a_second_name_can_be_typed(again):
    given = ("eval=[]", "+eval@eval.few=clean", "dataset@eval.few.data=digits")
    assert again.ask(*given, "eval.few.data.limit_test=20").returncode == 0
    process = again.ask(*given, "eval.few.data.limit_test=30")
    assert (
        "eval=few had rows with data.limit_test=20, which these replace; "
        "to keep both, give one a name of its own: +eval@eval.few_2=clean" in process.stderr
    )


def test_what_a_suite_does_not_save_is_not_in_the_folder(again, monkeypatch):
    class Large(Clean):
        """Also gives something large, and needs it once more at the end."""

        unsaved = ("logits",)

        def step(self, batch):
            return {**super().step(batch), "logits": self.context.output("logits", batch.image)}

        def finish(self, outcomes):
            assert outcomes["test"]["logits"].shape == (60, 10)
            return super().finish(outcomes)

    monkeypatch.setattr("trust_exp.evals.clean.suite.Clean", Large)
    process = again.ask("eval=[clean]", "force=true")
    assert process.returncode == 0, process.stderr
    saved = torch.load(again.folder() / "outcomes" / "clean-test.pt", weights_only=True)
    assert set(saved) == {"index", "correct"}


def test_a_done_run_stays_done_when_an_eval_fails(again, monkeypatch):
    def fail(*_):
        raise RuntimeError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Clean, "finish", fail)
        process = again.ask("eval=[clean]", "force=true")
    assert process.returncode == 1
    (said,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert f"{again.folder().name} failed with RuntimeError: no answer; see " in said
    assert "no answer" in (again.folder() / "traceback.txt").read_text()
    result = again.result()
    assert (result["status"], result["error"]) == ("done", None)
    assert result["rows"] == again.before["rows"]
    assert again.ask("eval=[clean]", "force=true").returncode == 0
    assert not (again.folder() / "traceback.txt").exists()


@pytest.mark.slow
def test_a_done_run_stays_done_when_an_eval_fails_in_a_sweep(again):
    shutil.rmtree(again.folder() / "outcomes")
    (again.folder() / "outcomes").write_text("no folder, so that nothing can be written into it")
    process = again.ask("eval=[clean]", "force=true", "accelerator.threads=1", run=lambda *given: again("-m", *given))
    assert process.returncode == 1, process.stderr
    result = json.loads((again.runs / again.before["name"] / "result.json").read_text())
    assert (result["status"], result["error"]) == ("done", None)
    assert result["metrics"] == again.before["metrics"]


def test_a_split_that_the_data_lack_is_said_before_the_training(command_line):
    process = command_line.here(*TRAINED, "eval=[clean]", "eval.clean.splits=[val]")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == (
        "error: dataset=digits has no validation part; dataset.hold_out=0.1 makes one of the training samples"
    )
    assert not list(command_line.runs.glob("*")), "what is refused leaves nothing"


def test_samples_that_are_held_out_are_evaluated(command_line):
    process = command_line.here(*TRAINED, "dataset.hold_out=0.1", "eval=[clean]", "eval.clean.splits=[val]")
    assert process.returncode == 0, process.stderr
    (row,) = command_line.result()["rows"]
    assert row["metric"] == "clean/val_accuracy"
    assert row["n"] == Digits("digits", limit_train=100, hold_out=0.1).size("val") > 0
