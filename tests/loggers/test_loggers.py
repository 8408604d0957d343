"""The choice of a logger, what is imported for it, CSV and TensorBoard."""

import csv
import json
import subprocess
import sys

import pytest

from trust_exp import engine
from trust_exp.errors import UserError
from trust_exp.identity import run_id
from trust_exp.job import Job
from trust_exp.runs import open_run, restart

LOGGERS = ("none", "csv", "tensorboard", "wandb")
HEAVY = {"torch", "lightning", "wandb", "wandb_workspaces", "tensorboard"}


@pytest.mark.parametrize("name", LOGGERS)
def test_every_logger_composes_and_none_changes_the_run(composed, name):
    config = composed(f"logger={name}")
    assert config["logger"]["name"] == name
    assert run_id(config) == run_id(composed()) == "44a94211f0"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["logger=wandb", "logger.mode=onlin"], "logger.mode must be one of auto, online, offline; got 'onlin'"),
        (["logger=wandb", "logger.patience=0"], "logger.patience must be greater than 0; got 0"),
        (["logger=wandb", "logger.tags=['']"], "logger.tags must have 1 to 64 characters each, a limit of W&B; got ''"),
        (["logger=csv", "+logger.project=x"], "the key 'logger.project' does not exist"),
        (["logger=wandb", "+logger.projet=x"], "did you mean logger.project?"),
    ],
)
def test_a_wrong_value_is_one_sentence(composed, overrides, sentence):
    with pytest.raises(UserError) as error:
        composed(*overrides)
    assert sentence in str(error.value)


def test_the_project_may_come_from_the_environment(composed, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "thesis")
    monkeypatch.setenv("WANDB_ENTITY", "us")
    logger = composed("logger=wandb")["logger"]
    assert (logger["project"], logger["entity"]) == ("thesis", "us")


COMPOSE = """
from hydra import compose, initialize_config_dir
from trust_exp.compose import check, register
from trust_exp.schema import CONF
import trust_exp.jobs
register()
with initialize_config_dir(str(CONF), version_base="1.3"):
    check(compose("config", ["logger=wandb"]))
"""
HELP = """
from trust_exp import cli
try:
    cli.run(["wandb", "dashboard", "--help"])
except SystemExit:
    pass
"""
WRITER = "import trust_exp.loggers.wandb_process, trust_exp.loggers.sync"


@pytest.mark.parametrize("code", [COMPOSE, HELP, WRITER], ids=["compose", "help", "writer"])
def test_nothing_heavy_is_imported_before_it_is_used(code):
    tell = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    told = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(told.stderr))


def carry_out(composed, tmp_path, *overrides: str) -> Job:
    config = composed("size=smoke", "eval=[clean]", *overrides)
    job = Job(config, open_run(config, tmp_path / "run", []), [])
    engine.execute_and_record(job)
    return job


def test_tensorboard_gets_the_curves_and_the_metrics(composed, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = carry_out(composed, tmp_path, "logger=tensorboard")
    events = EventAccumulator(str(job.run.folder / "curves" / "tensorboard"))
    events.Reload()
    (table,) = job.run.folder.glob("curves/version_*/metrics.csv")
    lines = [line for line in csv.DictReader(table.open()) if line["train/loss"]]
    curve = events.Scalars("train/loss")
    assert [event.step for event in curve] == [int(line["step"]) for line in lines] == [4, 9, 14, 19]
    assert [event.value for event in curve] == pytest.approx([float(line["train/loss"]) for line in lines])
    (accuracy,) = events.Scalars("clean/accuracy")
    assert accuracy.value == pytest.approx((job.run.read("result.json") or {})["metrics"]["clean/accuracy"])
    assert accuracy.step == 20


def test_without_a_logger_there_are_no_curves(composed, tmp_path):
    job = carry_out(composed, tmp_path, "logger=none")
    assert job.run.status() == "done"
    assert not (job.run.folder / "curves").exists()


def test_csv_writes_nothing_but_its_curves(composed, tmp_path):
    job = carry_out(composed, tmp_path, "logger=csv")
    assert [path.name for path in (job.run.folder / "curves" / "version_0").iterdir()] == ["metrics.csv"]
    assert not (job.run.folder / "wandb").exists()


def test_a_new_start_forgets_what_was_logged(composed, tmp_path):
    job = carry_out(composed, tmp_path, "logger=wandb")
    assert list(job.run.folder.glob("wandb/offline-run-*"))
    restart(job.run)
    assert not (job.run.folder / "wandb").exists()
    assert not (job.run.folder / "curves").exists()
