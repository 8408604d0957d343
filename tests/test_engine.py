"""Whole runs through the command line: done once, resumed exactly, failed with a reason, on several processes."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from tests.waiting import PATIENCE, wait_for
from trust_exp import engine
from trust_exp.data.digits import Digits
from trust_exp.errors import UserError
from trust_exp.identity import folder_name
from trust_exp.job import Job
from trust_exp.messages import RunFailed
from trust_exp.methods.config import MethodConfig
from trust_exp.runs import Run, lock, open_run

SMOKE = ["size=smoke", "eval=[clean,certify]"]
LONG = ["eval=[clean]", "fit.epochs=null", "fit.steps=400", "fit.checkpoint_seconds=0.05"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)["state_dict"]
    return state


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def wait_for_file(path: Path, process, since: int = 0) -> None:
    """Wait for a file, written later than ``since`` (in nanoseconds)."""
    wait_for(lambda: path.exists() and path.stat().st_mtime_ns > since, process)


def begun(command_line, process) -> Path:
    """The folder of the only run, as soon as its process has made it."""
    return wait_for(lambda: list(command_line.runs.glob("*")), process)[0]


def test_a_run_writes_what_it_promises_and_the_same_command_does_nothing(command_line, tmp_path):
    first = command_line(*SMOKE)
    assert first.returncode == 0, first.stderr
    result = command_line.result()
    assert result["status"] == "done"
    assert result["error"] is None
    for key in ("run_id", "config", "metrics", "rows", "seconds", "environment", "figures", "samples_per_second"):
        assert key in result
    assert result["name"] == f"cll-digits-{result['run_id']}" == command_line.folder().name
    assert set(result["metrics"]) >= {
        "clean/accuracy",
        "certify/accuracy@0.5",
        "certify/lipschitz",
        "certify/tightness",
    }
    assert all((command_line.folder() / figure).stat().st_size > 1000 for figure in result["figures"])
    assert first.stdout.rstrip().endswith(f"result:  {command_line.folder() / 'result.json'}")
    curves = (command_line.folder() / "curves" / "version_0" / "metrics.csv").read_text()
    assert "train/loss" in curves

    (tmp_path / "torch.py").write_text("raise RuntimeError('a run that is done must not start torch')")
    command_line.environment["PYTHONPATH"] = str(tmp_path)
    second = command_line(*SMOKE)
    assert second.returncode == 0, second.stderr
    assert "is done; force=true starts it anew" in second.stderr
    assert second.stdout == first.stdout
    assert command_line.result() == result

    forced = command_line.here(*SMOKE, "force=true")
    assert forced.returncode == 0
    assert command_line.result()["metrics"] == result["metrics"], "the same seed gives the same numbers"


def test_an_earlier_run_is_evaluated_and_not_trained(command_line):
    assert command_line.here("size=smoke", "eval=[clean]", "method.epsilon=0.3").returncode == 0
    before, run_id = weights(command_line.folder()), command_line.result()["run_id"]
    process = command_line.here("mode=eval", f"run={run_id}", "eval=[certify,autoattack]", "eval.autoattack.samples=5")
    assert process.returncode == 0, process.stderr
    result = command_line.result()
    assert result["run_id"] == run_id
    assert {row["suite"] for row in result["rows"]} == {"clean", "certify", "autoattack"}
    assert result["config"]["method"]["epsilon"] == 0.3
    attacked = next(row for row in result["rows"] if row["metric"] == "autoattack/accuracy")
    assert attacked["n"] == 5
    assert attacked["detail"]["attacks"] == ["apgd-ce", "apgd-t"], "the recipe's and the size's evals hold"
    assert "trust_exp" in attacked["detail"]["implementation"]
    assert weights(command_line.folder()).keys() == before.keys()
    refused = command_line.here("mode=eval", f"run={run_id}", "method.epsilon=0.5")
    assert refused.returncode == 2
    assert "as it was trained; leave out method.epsilon=0.5" in refused.stderr


@pytest.fixture(scope="module")
def uninterrupted(command_line_in, tmp_path_factory) -> Path:
    command_line = command_line_in(tmp_path_factory.mktemp("uninterrupted"))
    assert command_line.here(*LONG).returncode == 0
    return command_line.folder()


@pytest.mark.slow
@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGKILL, signal.SIGINT), (signal.SIGTERM, signal.SIGKILL)],
    ids=["killed, then interrupted", "terminated, then killed"],
)
def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_weights(command_line, tmp_path, uninterrupted, numbers):
    folder, resumed = tmp_path / "runs" / uninterrupted.name, False
    for number in numbers:
        seen = (folder / "checkpoint.ckpt").stat().st_mtime_ns if resumed else 0
        process = command_line.start(*LONG)
        wait_for_file(folder / "checkpoint.ckpt", process, since=seen)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert not (folder / "weights.pt").exists(), "the run was over before it was stopped"
        assert ("resuming from step" in err) == resumed
        if number == signal.SIGKILL:
            assert process.returncode == -9
            assert command_line.result()["status"] == "running"
        else:
            assert process.returncode == 130, err
            assert command_line.result()["status"] == "interrupted"
            assert "the same command goes on with it" in err
        resumed = True

    again = command_line(*LONG)
    assert again.returncode == 0, again.stderr
    assert "resuming from step" in again.stderr
    assert command_line.result()["status"] == "done"
    assert command_line.result()["steps"] == 400
    assert not (folder / "checkpoint.ckpt").exists()
    assert_same_weights(folder, uninterrupted)


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(command_line, tmp_path):
    arguments = ["size=smoke", "eval=[clean,certify,autoattack]", "dataset.eval_batch_size=7", "accelerator.kind=cpu"]
    process = command_line(*arguments, "accelerator=ddp")
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("clean/accuracy") == 1, "only the first process speaks"
    ddp, two = command_line.folder(), command_line.result()
    assert command_line.here(*arguments, f"paths.runs={tmp_path / 'one'}").returncode == 0
    one = tmp_path / "one" / ddp.name
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(ddp)[name], value, rtol=1e-4, atol=1e-5)

    # the same weights, evaluated by one process: the very same numbers
    os.replace(ddp / "weights.pt", one / "weights.pt")
    (one / "result.json").unlink()
    assert command_line.here(*arguments, f"paths.runs={tmp_path / 'one'}").returncode == 0
    assert json.loads((one / "result.json").read_text())["rows"] == two["rows"]


def test_a_run_that_stopped_after_its_last_step_still_ends(composed, tmp_path, monkeypatch):
    config = composed("size=smoke", "eval=[clean]", "fit.checkpoint_seconds=0")
    job = Job(config, open_run(config, tmp_path / "run", []), [])
    with monkeypatch.context() as patch:
        patch.setattr(engine.Pipeline, "_keep", lambda *_: 1 / 0)
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            engine.execute_and_record(job)
    assert job.run.checkpoint.exists()
    engine.execute_and_record(job)
    assert job.run.status() == "done"
    assert (job.run.read("result.json") or {})["steps"] == 20


def test_other_data_under_an_old_run_are_refused(composed, tmp_path, monkeypatch):
    config = composed("size=smoke", "eval=[clean]")
    job = Job(config, open_run(config, tmp_path / "run", []), [])
    monkeypatch.setattr(Digits, "origin", lambda _: {"sha256": "one"})
    engine.execute_and_record(job)
    monkeypatch.setattr(Digits, "origin", lambda _: {"sha256": "other"})
    more = Job({**config, "eval": composed("size=smoke", "eval=[certify]")["eval"]}, job.run, [])
    with pytest.raises(UserError, match="is not what run was trained on"):
        engine.execute_and_record(more)


def test_one_class_is_refused_before_the_training(composed, tmp_path):
    config = composed("size=smoke", "eval=[certify,autoattack]", "dataset.classes=['3']")
    job = Job(config, open_run(config, tmp_path / "run", []), [])
    with pytest.raises(UserError, match="dataset=digits has one class, '3'; a classifier needs two or more"):
        engine.execute_and_record(job)
    assert not job.run.is_trained
    assert not job.run.checkpoints


class Reconstruction(MethodConfig):
    """Of a method with a network of its own that classifies nothing."""

    gives = ("network", "scores")


def test_one_class_is_enough_for_what_classifies_nothing(composed):
    config = composed("size=smoke", "eval=[clean]")
    method = {**config["method"], "_schema_": f"{__name__}:Reconstruction"}
    engine.check_two_classes({**config, "method": method}, Digits("digits", classes=["3"]))


def test_a_stopped_run_does_not_go_on_with_other_data(composed, tmp_path, monkeypatch):
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("\n".join(map(str, range(1000))))
    config = composed("size=smoke", "eval=[clean]", "fit.checkpoint_seconds=0", f"dataset.index_file={chosen}")
    job = Job(config, open_run(config, tmp_path / "run", []), [])
    with monkeypatch.context() as patch:
        patch.setattr(engine.Pipeline, "_keep", lambda *_: 1 / 0)
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            engine.execute_and_record(job)
    chosen.write_text("\n".join(map(str, range(999))))
    with pytest.raises(UserError, match=r"chosen\.txt is another one than when the run began"):
        engine.execute_and_record(job)


def test_a_later_eval_leaves_the_record_of_the_training_alone(command_line):
    assert command_line.here("size=smoke", "eval=[clean]", "accelerator.precision=bf16-mixed").returncode == 0
    before = command_line.result()
    assert command_line.here("mode=eval", f"run={before['run_id']}", "eval=[certify]").returncode == 0
    after = command_line.result()
    for key in ("config", "environment", "run_id", "steps"):
        assert after[key] == before[key]
    assert set(after["evals"]) == {"clean", "certify"}
    assert after["evals"]["certify"]["config"]["radii"] == [0.25, 0.5, 0.75, 1.0]
    again = command_line.here("mode=eval", f"run={before['run_id']}", "eval=[certify]", "force=true", "figures=svg")
    assert "evals to run: certify" in again.stderr
    assert command_line.result()["metrics"] == after["metrics"]
    assert after["figures"] == ["figures/certified_accuracy.png"]
    assert command_line.result()["figures"] == ["figures/certified_accuracy.svg"]
    assert [path.name for path in (command_line.folder() / "figures").iterdir()] == ["certified_accuracy.svg"]


@pytest.mark.slow
def test_two_processes_stop_together_in_an_eval(command_line):
    long = ["eval=[clean,autoattack]", "eval.autoattack.version=standard", "eval.autoattack.samples=60"]
    process = command_line.start("size=smoke", *long, "accelerator=ddp", "accelerator.kind=cpu")
    wait_for_file(begun(command_line, process) / "outcomes" / "clean-test.pt", process)  # the attack comes next
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert command_line.result()["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("done", [["seed=1"], []], ids=["one", "both"])
def test_a_sweep_goes_on_after_a_run_on_two_processes(command_line, done):
    arguments = ["size=smoke", "eval=[clean]"]
    for override in done:
        assert command_line.here(*arguments, override).returncode == 0
    process = command_line("-m", *arguments, "accelerator=ddp", "accelerator.kind=cpu", "seed=0,1")
    assert process.returncode == 0, process.stderr
    results = [json.loads(path.read_text()) for path in command_line.runs.glob("*/result.json")]
    assert sorted((result["config"]["seed"], result["status"]) for result in results) == [(0, "done"), (1, "done")]
    assert not list(command_line.runs.glob("*/job-*.json"))


@pytest.mark.slow  # what is said is in tests/data/test_loader.py
def test_a_batch_that_two_processes_cannot_share_is_refused(command_line):
    process = command_line(*SMOKE, "dataset.batch_size=25", "accelerator=ddp", "accelerator.kind=cpu")
    assert process.returncode == 2
    assert "choose dataset.batch_size as a multiple of 2" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_run_that_fails_says_why_and_is_retried(command_line):
    arguments = [*SMOKE, "method.optimizer.lr=1e30"]
    process = command_line.here(*arguments)
    assert process.returncode == 1
    assert process.stderr.count("error: ") == 1
    assert "Traceback" not in process.stderr
    result = command_line.result()
    assert result["status"] == "failed"
    assert "the loss is not finite" in result["error"]
    assert "at step 2 of 20" in result["error"]
    assert "FloatingPointError" in (command_line.folder() / "traceback.txt").read_text()
    assert "was failed; it goes on with its training" in command_line.here(*arguments).stderr


def test_two_commands_cannot_run_the_same_run_at_once(command_line, composed_in):
    folder = command_line.runs / folder_name(composed_in(command_line.runs, *SMOKE))
    folder.mkdir(parents=True)
    with lock(Run(folder)):
        second = command_line.here(*SMOKE)
    assert second.returncode == 2
    assert f"is being run by process {os.getpid()} on" in second.stderr


def test_a_broken_checkpoint_or_result_is_named(command_line):
    assert command_line.here("size=smoke", "eval=[clean]").returncode == 0
    folder = command_line.folder()
    whole = (folder / "weights.pt").read_bytes()
    (folder / "weights.pt").write_bytes(whole[:100])
    process = command_line.here("size=smoke", "eval=[clean,certify]")
    assert process.returncode == 2
    assert "weights.pt is missing or damaged" in process.stderr
    (folder / "weights.pt").write_bytes(whole)
    (folder / "result.json").write_text('{"status": "do')
    process = command_line.here("size=smoke", "eval=[clean]")
    assert process.returncode == 2
    assert "result.json cannot be read" in process.stderr
