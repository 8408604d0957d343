"""Evals asked while a network is trained: what they find, and that the training does not notice."""

import csv
import json

import pytest
import torch
from torch import nn

from trust_exp import engine
from trust_exp.callbacks import StepDraws
from trust_exp.errors import Interrupted, UserError
from trust_exp.evals.clean.suite import Clean
from trust_exp.job import Job
from trust_exp.jobs import carry_out
from trust_exp.methods.standard.module import Standard
from trust_exp.runs import Run, open_run

THREE = ["method=standard", "dataset=digits", "size=smoke", "model=conv_2c2f", "fit.steps=null", "fit.epochs=3"]
FEW = ["dataset.limit_train=200", "dataset.batch_size=50"]  # 4 steps an epoch
CLEAN = "fit.watch={every: 1, metrics: [clean/accuracy]}"


@pytest.fixture
def trained(composed, tmp_path):
    """Trains and evaluates a run of given overrides, in a folder of a given name; returns the run."""

    def train(name, *overrides, evals="clean") -> Run:
        config = composed(*THREE, *FEW, f"eval=[{evals}]", *overrides)
        job = Job(config, open_run(config, tmp_path / name, []), [])
        engine.execute_and_record(job)
        return job.run

    return train


def result_of(run: Run) -> dict:
    return run.read("result.json") or {}


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.weights, weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: Run, other: Run) -> None:
    for name, value in weights(one).items():
        assert torch.equal(weights(other)[name], value), name


def test_values_stand_in_the_result_and_beside_the_learning_curves(trained, capsys):
    result = result_of(run := trained("run", CLEAN))
    watched = result["watched"]
    assert [(one["epoch"], one["step"], one["split"]) for one in watched] == [
        (1, 4, "test"),
        (2, 8, "test"),
        (3, 12, "test"),
    ]
    values = [one["metrics"]["clean/accuracy"] for one in watched]
    assert len(set(values)) > 1
    assert values[-1] == result["metrics"]["clean/accuracy"], "the end of the training is what is evaluated"
    assert "fit.watch: clean/accuracy on test, after every epoch; dataset=digits has no" in capsys.readouterr().err
    rows = list(csv.DictReader((run.folder / "curves" / "version_0" / "metrics.csv").open()))
    curve = [(int(row["step"]), float(row[key])) for row in rows if row[key := "watch/test/clean/accuracy"]]
    assert curve == [(one["step"], one["metrics"]["clean/accuracy"]) for one in watched]


def test_epochs_between_are_left_out_and_the_end_of_a_training_of_steps_is_not(trained):
    options = ["fit.epochs=null", "fit.steps=11", "fit.watch={every: 2, metrics: [clean/accuracy]}"]
    watched = result_of(trained("run", *options))["watched"]
    assert [(one["epoch"], one["step"]) for one in watched] == [(2, 8), (3, 11)]


def test_the_validation_part_is_looked_at_where_there_is_one(trained):
    run = trained("run", CLEAN, "dataset.hold_out=0.2", "eval.clean.splits=[val,test]")
    watched, metrics = result_of(run)["watched"], result_of(run)["metrics"]
    assert {one["split"] for one in watched} == {"val"}
    assert watched[-1]["metrics"] == {"clean/accuracy": metrics["clean/val_accuracy"]}
    other = trained("other", "fit.watch={split: test, metrics: [clean/accuracy]}", "dataset.hold_out=0.2")
    assert result_of(other)["watched"][-1]["metrics"] == {
        "clean/accuracy": result_of(other)["metrics"]["clean/accuracy"]
    }


def noisy_step(suite, batch):
    """Asks as ``Clean`` does, and disturbs all that it can reach."""
    torch.rand(3)
    with torch.enable_grad():
        suite.context.model(batch.image).sum().backward()
    return {"correct": suite.context.model(batch.image).argmax(1) == batch.label}


def test_a_watched_training_ends_with_the_weights_of_one_that_is_not(trained, monkeypatch):
    def network(cls, model, info, options):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
        )

    monkeypatch.setattr(Standard, "network", classmethod(network))
    monkeypatch.setattr(StepDraws, "on_train_batch_start", lambda *_: None)  # dropout goes on from step to step
    monkeypatch.setattr(Clean, "step", noisy_step)
    both = "fit.watch={metrics: [clean/accuracy, autoattack/accuracy]}"
    alone, watched = (trained(name, *given, evals="clean,autoattack") for name, given in (("0", []), ("1", [both])))
    assert_same_weights(alone, watched)
    assert "watched" not in result_of(alone)
    assert len(result_of(watched)["watched"]) == 3


def test_a_resumed_training_looks_once_at_every_epoch(composed, tmp_path, monkeypatch):
    config = composed(*THREE, *FEW, "eval=[clean]", CLEAN, "fit.checkpoint_seconds=0")

    def job(name) -> Job:
        return Job(config, open_run(config, tmp_path / name, []), [])

    engine.execute_and_record(whole := job("whole"))
    step = Standard.training_step
    for stop in (4, 6, 8):  # where an epoch begins, within one, and where the next begins

        def stopped(method, batch, number, at=stop):
            if method.global_step == at:
                raise Interrupted("as by a signal")
            return step(method, batch, number)

        with monkeypatch.context() as patch:
            patch.setattr(Standard, "training_step", stopped)
            with pytest.raises(Interrupted):
                engine.execute_and_record(job("resumed"))
    engine.execute_and_record(resumed := job("resumed"))
    assert result_of(resumed.run)["watched"] == result_of(whole.run)["watched"]
    assert_same_weights(resumed.run, whole.run)


def test_a_run_that_was_stopped_after_its_last_step_is_looked_at_once(composed, tmp_path, monkeypatch):
    config = composed(*THREE, *FEW, "eval=[clean]", CLEAN, "fit.checkpoint_seconds=0")
    job = Job(config, open_run(config, tmp_path / "run", []), [])
    with monkeypatch.context() as patch:
        patch.setattr(engine.Pipeline, "_keep", lambda *_: 1 / 0)
        with pytest.raises(Exception, match="ZeroDivisionError"):
            engine.execute_and_record(job)
    result = result_of(job.run)
    before = result["watched"]
    job.run.result.write_text(json.dumps({**result, "watched": before[:-1]}))
    engine.execute_and_record(job)
    assert result_of(job.run)["watched"] == before


def test_figures_are_kept_for_each_epoch_where_asked(trained):
    options = ["method=cll", "fit.epochs=1", "eval.certify.tightness_pairs=0"]
    watch = "fit.watch={metrics: [certify/lipschitz], figures: %s}"
    kept = trained("kept", *options, watch % "true", evals="certify")
    for one in result_of(kept)["watched"]:
        assert one["figures"] == [f"figures/watch/{one['epoch']}/certified_accuracy.png"]
        assert (kept.folder / one["figures"][0]).stat().st_size > 1000
    plain = trained("plain", *options, watch % "false", evals="certify")
    assert not (plain.folder / "figures" / "watch").exists()
    assert "figures" not in result_of(plain)["watched"][0]
    assert result_of(plain)["watched"][0]["metrics"] == result_of(kept)["watched"][0]["metrics"]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ["fit.watch={metrics: [certify/lipschitz]}"],
            "cannot be watched, as eval=certify is not chosen; the evals of",
        ),
        (["fit.watch={metrics: []}"], "fit.watch.metrics must name metrics such as clean/accuracy"),
        (["fit.watch={metrics: [accuracy]}"], "fit.watch.metrics must name metrics such as clean/accuracy"),
        (["fit.watch={every: 2}"], "fit.watch.metrics must be given"),
        (["fit.watch={every: 0, metrics: [clean/accuracy]}"], "fit.watch.every must be at least 1; got 0"),
        (["fit.watch={split: train, metrics: [clean/accuracy]}"], "fit.watch.split must be one of auto, val, test"),
        ([CLEAN, "dataset@eval.clean.data=mnist"], "as eval.clean.data=mnist is not what the network is trained on"),
    ],
)
def test_what_cannot_be_watched_is_refused_when_composed(composed, overrides, complaint):
    with pytest.raises(UserError) as refused:
        composed(*THREE, "eval=[clean]", *overrides)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["fit.watch={split: val, metrics: [clean/accuracy]}"], "has no validation part; dataset.hold_out=0.1"),
        (
            ["fit.watch={metrics: [autoattack/accuracy]}", "dataset.hold_out=0.2"],
            "eval=autoattack looks at test alone, not at val; choose fit.watch.split=test",
        ),
    ],
)
def test_a_split_that_cannot_be_watched_is_refused_before_the_training(trained, monkeypatch, overrides, complaint):
    monkeypatch.setattr(Standard, "training_step", lambda *_: 1 / 0)
    with pytest.raises(UserError) as refused:
        trained("run", *overrides, evals="clean,autoattack")
    assert complaint in str(refused.value)


def test_a_metric_that_an_eval_does_not_give_is_named_with_those_that_it_does(trained):
    with pytest.raises(UserError, match=r"'clean/acuracy' does not exist; did you mean clean/accuracy\?"):
        trained("run", "fit.watch={metrics: [clean/acuracy]}")


def test_watching_changes_no_id_and_a_done_run_says_that_there_is_nothing_to_see(composed, tmp_path, capsys):
    plain, watched = (composed(*THREE, *FEW, "eval=[clean]", *given) for given in ([], [CLEAN]))
    run = open_run(plain, tmp_path / "run", [])
    engine.execute_and_record(Job(plain, run, []))
    carry_out(Job(watched, open_run(watched, tmp_path / "run", []), []))
    assert "fit.watch was not given when it was trained" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_see_what_one_sees(command_line, tmp_path):
    arguments = [*THREE, *FEW, "eval=[clean]", CLEAN, "dataset.eval_batch_size=7", "accelerator.kind=cpu"]
    process = command_line(*arguments, "accelerator=ddp")
    assert process.returncode == 0, process.stderr
    two = command_line.result()
    assert process.stderr.count("fit.watch: clean/accuracy on test") == 1
    assert command_line.here(*arguments, f"paths.runs={tmp_path / 'one'}").returncode == 0
    one = json.loads((tmp_path / "one" / command_line.folder().name / "result.json").read_text())
    assert two["watched"] == one["watched"]
