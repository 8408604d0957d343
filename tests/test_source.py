"""Runs that build on other runs: what a reference stands for, which run is trained when, and what is said if not."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.waiting import PATIENCE, wait_for
from trust_exp import compose, jobs, references
from trust_exp.compose import Composer
from trust_exp.engine import execute_and_record
from trust_exp.errors import UserError
from trust_exp.identity import cell_id, folder_name, run_id
from trust_exp.job import Job, described_jobs
from trust_exp.messages import RunFailed
from trust_exp.references import at_paths, cells_of, quoted
from trust_exp.runs import Run, find_run, lock, open_run, stored_parts, with_stored_overrides, write_json

PARENT = "[method=standard,dataset=digits]"
CHILD = ("method=transfer", "dataset=digits", "size=smoke")
SMOKE = [*CHILD, "eval=[clean]"]


@pytest.fixture
def child(composed):
    """The checked configuration of a transfer from ``source``, with further overrides."""
    return lambda source, *more: composed(*CHILD, f"source='{source}'", *more)


@pytest.fixture
def parent(composed, tmp_path) -> Run:
    """A run as it looks when it is trained."""
    checked = composed("method=standard", "dataset=digits", "size=smoke")
    run = open_run(checked, tmp_path / folder_name(checked), ["method=standard", "dataset=digits", "size=smoke"])
    write_json(run.result, {"status": "done", "run_id": run.id})
    run.weights.write_bytes(b"weights")
    return run


# --- what a reference stands for ------------------------------------------------------------------------------------


def test_a_run_has_one_id_however_its_source_is_written(child, parent, tmp_path):
    written = (PARENT, parent.id, parent.id[:5], parent.folder.name, str(parent.folder))
    found = [child(text) for text in (*written, "[dataset=digits, seed=0,size=smoke , method=standard]")]
    assert {run_id(config) for config in found} == {run_id(found[0])}
    assert {config["source"] for config in found} == {config["model"]["source"] for config in found} == {parent.id}
    assert [config["references"]["source"]["written"] for config in found[:-1]] == list(written)


def test_another_source_is_another_run(child):
    ids = [run_id(child(f"[method=standard,dataset=digits{more}]")) for more in ("", ",seed=1", ",size=small")]
    assert len(set(ids)) == 3


def test_a_source_has_the_size_seed_and_precision_of_the_run_unless_it_has_others(child, composed):
    alone = composed("method=standard", "size=smoke", "seed=3", "accelerator.precision=bf16-mixed")
    for more in ((), ("accelerator.threads=1",)):
        found = child("[method=standard]", "seed=3", "accelerator.precision=bf16-mixed", *more)
        assert found["source"] == run_id(alone)
    alone = composed("method=standard", "size=full", "seed=4")
    own = "[method=standard,seed=4,size=full,accelerator.precision=32-true]"
    assert child(own, "accelerator.precision=bf16-mixed")["source"] == run_id(alone)


def test_a_source_is_trained_where_the_run_is(child, tmp_path):
    (job,) = jobs_for(child(PARENT, "paths.data=/somewhere", "accelerator=ddp"), tmp_path)
    assert job.config["paths"] == {"data": "/somewhere", "runs": str(tmp_path)}
    assert job.config["accelerator"]["devices"] == 2
    assert list(job.config["eval"]) == ["clean"], "what else it is evaluated by is for a command of its own"
    (job,) = jobs_for(child("[method=standard,eval=[clean,certify]]"), tmp_path)
    assert set(job.config["eval"]) == {"clean", "certify"}


def jobs_for(config, runs: Path) -> tuple[Job, ...]:
    return described_jobs(config, (runs / folder_name(config)).parent, Composer())


def test_a_file_is_known_by_its_content(child, tmp_path):
    network = "+model@model.network=conv_2c2f"
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"other")):
        (tmp_path / name).write_bytes(content)
    one, same, other = (child(tmp_path / name, network) for name in ("a.pt", "b.pt", "c.pt"))
    assert run_id(one) == run_id(same) != run_id(other)
    assert one["source"].startswith("sha256:")
    assert at_paths(one, "model")["source"] == str(tmp_path / "a.pt")
    wider = child(tmp_path / "a.pt", network, "model.network.dense=[7]")
    assert run_id(wider) != run_id(one)
    (tmp_path / "a.pt").write_bytes(b"other still")
    with pytest.raises(UserError, match=r"model.source: the file .*a.pt is another one than when the run began"):
        at_paths(one, "model")
    (tmp_path / "a.pt").unlink()
    with pytest.raises(UserError, match=r"model.source: the file .*a.pt is gone"):
        at_paths(one, "model")


def test_a_network_within_the_model_is_checked(child, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"one")
    with pytest.raises(UserError, match=r"model.network.dens"):
        child(tmp_path / "a.pt", "+model@model.network=conv_2c2f", "+model.network.dens=[7]")


def test_a_source_may_have_a_source(child, composed, tmp_path):
    middle = f"[method=transfer,dataset=digits,source={PARENT},method.optimizer.lr=0.2]"
    (job,) = jobs_for(child(middle), tmp_path)
    (first,) = job.sources
    assert run_id(first.config) == run_id(composed("method=standard", "dataset=digits", "size=smoke"))
    assert job.config["source"] == run_id(first.config)
    assert run_id(composed(*CHILD, f"source='{PARENT}'", "method.optimizer.lr=0.2")) == run_id(job.config)


def test_a_source_is_given_to_fields_as_a_path(child, parent, tmp_path):
    config = child(PARENT)
    assert at_paths(config, "model")["source"] == str(parent.folder)
    assert at_paths(config, "method") == config["method"]
    assert config["model"]["source"] == parent.id, "the configuration itself stays as it is"
    parent.weights.unlink()
    with pytest.raises(UserError, match="was stopped before it was trained"):
        at_paths(config, "model")
    shutil.rmtree(parent.folder)
    with pytest.raises(UserError, match=rf"model.source: run {parent.id} is not in .* any more"):
        at_paths(config, "model")


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("0123456789", "there is no such run in"),
        ("nowhere/weights.pt", "and no such file; it is a run's id, a path, or overrides such as"),
        ("[]", "describes no run"),
        ("[method=standard", "describes no run"),
        ("[digits,seed=1]", "'digits' is not key=value"),
        ("[method=standrd]", "did you mean standard?"),
        ("[method=standard,seed=abc]", "seed must be a whole number; got 'abc'"),
        ("[method=standard,fit.epoch=3]", "did you mean fit.epochs?"),
        ("[method=standard,seed=0,1]", "'1' is not key=value"),
        ("[method=standard,seed=range(0,2)]", "seed=range(0,2)"),
        ("[method=standard,paths.runs=/x]", "paths.runs cannot be set for a source"),
        ("[method=standard,force=true]", "force cannot be set for a source"),
        ("[mode=eval,run=abc]", "cannot be set for a source"),
        ("[method=transfer]", "needs the run to take the network from: source=<its id>"),
        ("[method=standard,dataset=camvid]", "data sets that fit"),
        (
            "[method=standard,eval=[clean],eval.certify.tightness_pairs=3]",
            "changes nothing, as eval=certify is not chosen",
        ),
    ],
)
def test_what_is_wrong_with_a_source_is_one_sentence_that_names_it(child, source, sentence):
    with pytest.raises(UserError) as error:
        child(source)
    assert str(error.value).startswith(f"source={source}: "), error.value
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_head_on_layers_of_an_unknown_constant_is_not_certified(child, composed, tmp_path):
    """Whether its source is described, trained, or the source of its source."""
    network = "model=preact_resnet18"
    config = child(f"[method=standard,{network}]")
    assert set(config["eval"]) == {"clean", "autoattack"}
    unknown = "needs layers with a known Lipschitz constant; model=preact_resnet18 gives logits; models that fit: "
    assert config["left_out"]["certify"].startswith(f"eval=certify {unknown}")
    (job,) = jobs_for(config, tmp_path)
    job.open()
    job.run.weights.touch()
    assert "certify" not in child(job.run.id)["eval"]
    assert "certify" not in child(f"[method=transfer,source={job.run.id},method.optimizer.lr=0.2]")["eval"]
    assert "certify" in child(PARENT)["eval"]
    (tmp_path / "a.pt").touch()
    assert "certify" not in child(tmp_path / "a.pt", f"+model@model.network={network.removeprefix('model=')}")["eval"]
    with pytest.raises(UserError, match=f"eval=certify {unknown}"):
        child(f"[method=standard,{network},eval=[clean,certify]]")


def test_an_evaluation_goes_by_the_network_that_was_trained(command_line):
    given = ["method=standard", "dataset=digits", "size=smoke", "model=preact_resnet18", "model.widths=[4,4,4,4]"]
    process = command_line.here(*given, "eval.autoattack.samples=1")
    assert process.returncode == 0, process.stderr
    unknown = "needs layers with a known Lipschitz constant; model=preact_resnet18 gives logits; models that fit: "
    assert f"eval=certify is left out: it {unknown}" in process.stderr
    result = command_line.result()
    assert set(result["evals"]) == {"clean", "autoattack"}
    process = command_line.here("mode=eval", f"run={result['run_id']}", "eval=[certify]")
    assert process.returncode == 2
    assert f"error: eval=certify {unknown}" in process.stderr


def test_a_source_that_nothing_builds_on_is_refused(composed):
    with pytest.raises(UserError, match=r"changes nothing: neither method=cll nor model=conv_2c2f builds on one"):
        composed(f"source='{PARENT}'")


def test_a_run_cannot_be_its_own_source(child, monkeypatch):
    """As a recipe may say it; on a command line no text can hold itself."""
    real = compose.composed

    def with_recipe(overrides):
        return real([*overrides, f"source='{own}'"])

    own = "[method=transfer,dataset=digits]"
    monkeypatch.setattr(compose, "composed", with_recipe)
    with pytest.raises(UserError, match="it needs itself"):
        child(own)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({"status": "failed", "error": "ValueError: too big"}, r"failed \(ValueError: too big\); run its own command"),
        ({"status": "interrupted", "error": None}, "was stopped before it was trained"),
        ({"status": "running", "error": None}, "was stopped before it was trained"),
        (None, "was never trained"),
    ],
    ids=str,
)
def test_a_run_that_is_not_trained_is_no_source(child, parent, status, sentence):
    parent.weights.unlink()
    parent.result.unlink()
    if status:
        write_json(parent.result, status)
    with pytest.raises(UserError, match=rf"^source={parent.id}: run {parent.folder.name} {sentence}"):
        child(parent.id)
    with lock(parent), pytest.raises(UserError, match=r"is being run by process .*; wait until it is done"):
        child(parent.id)
    child(PARENT)  # one that is described can still be trained


def test_an_ambiguous_beginning_names_the_key(child, parent, tmp_path):
    shutil.copytree(parent.folder, tmp_path / f"standard-digits-{parent.id[:9]}z")
    with pytest.raises(UserError, match=rf"^source={parent.id[:5]} fits 2 runs"):
        child(parent.id[:5])


def test_seeds_of_a_run_share_a_cell_if_their_sources_follow_them(child):
    along = [child("[method=standard]", f"seed={seed}") for seed in (0, 1)]
    fixed = [child("[method=standard,seed=0]", f"seed={seed}") for seed in (0, 1)]
    assert run_id(along[0]) == run_id(fixed[0]), "the same run, written in two ways"
    assert cell_id(along[0]) == cell_id(along[1])
    assert cell_id(fixed[0]) == cell_id(fixed[1]) != cell_id(along[0])
    for config in (along[0], fixed[0]):  # it belongs to both tables, whoever trained it
        assert cells_of(config) == {cell_id(along[0]), cell_id(fixed[0])}
    assert cells_of(along[1]) >= {cell_id(along[0])}
    assert cells_of(fixed[1]) == {cell_id(fixed[0])}


def test_a_run_without_a_source_has_one_cell(composed):
    config = composed()
    assert "references" not in config
    assert cells_of(config) == {cell_id(config)}


def test_an_evaluation_takes_the_source_that_was_stored(child, parent, tmp_path, composed, monkeypatch):
    config = child(PARENT)
    run = open_run(config, tmp_path / folder_name(config), [*CHILD, f"source='{PARENT}'"])
    monkeypatch.setenv("TRUST_EXP_RUNS", str(tmp_path))
    arguments = with_stored_overrides(["mode=eval", f"run={run.id}", "eval=[clean]"])
    again = stored_parts(run, composed(*arguments))
    assert (again["source"], again["references"]) == (config["source"], config["references"])
    assert at_paths(again, "model")["source"] == str(parent.folder)
    assert not jobs_for(again, tmp_path)
    with pytest.raises(UserError, match="leave out source=abcd"):
        with_stored_overrides(["mode=eval", f"run={run.id}", "source=abcd"])


# --- what is typed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("source=[method=sat,seed=0]", "source='[method=sat,seed=0]'"),
        ("source=[method=sat,eval=[clean]],[seed=1]", "source='[method=sat,eval=[clean]]','[seed=1]'"),
        ("source='[method=sat]'", "source='[method=sat]'"),
        ("source=[dataset.path='a b']", "source='[dataset.path=\\'a b\\']'"),
        ("method.subset.ranking=[+method.x=1]", "method.subset.ranking='[+method.x=1]'"),
        ("source=1234e56789,0123456789", "source='1234e56789',0123456789"),
        ("eval=[clean,certify]", "eval=[clean,certify]"),
        ('hydra.launcher.srun_args=["--mem=4G"]', 'hydra.launcher.srun_args=["--mem=4G"]'),
        ("hydra.launcher.setup=[a=b]", "hydra.launcher.setup=[a=b]"),
        ("method.k_schedule={start:1,power:10}", "method.k_schedule={start:1,power:10}"),
        ("+experiments/cll/table_4_2=glob(*)", "+experiments/cll/table_4_2=glob(*)"),
        ("seed=range(0,3)", "seed=range(0,3)"),
        ("~fit.epochs", "~fit.epochs"),
        ("method.optimizer.lr=1e5", "method.optimizer.lr=1e5"),
    ],
)
def test_what_hydra_could_not_read_is_quoted_and_nothing_else(argument, expected):
    assert quoted(argument) == expected
    assert quoted(expected) == expected


# --- training what is needed ----------------------------------------------------------------------------------------


def started(folder: Path) -> str:
    return str(json.loads((folder / "result.json").read_text())["started"])


@pytest.mark.slow
@pytest.mark.parametrize("rates", [["0.2"], ["0.2", "0.3"]], ids=["one", "two"])
def test_a_source_is_trained_on_demand_once_and_by_one_of_several_jobs(command_line, capfd, rates):
    first = command_line.here(*SMOKE, "source=[method=standard]")
    assert first.returncode == 0, first.stderr
    parent, own = (next(command_line.runs.glob(name)) for name in ("standard-*", "transfer-*"))
    assert f"{own.name} needs {parent.name}, which starts" in first.stderr
    result = json.loads((own / "result.json").read_text())
    assert result["config"]["source"] == Run(parent).id
    assert result["config"]["references"]["source"]["written"] == "[method=standard]"
    assert parent.name in capfd.readouterr().out, "a process of its own"
    assert own.name in first.stdout
    before = started(parent)
    assert before < started(own)

    again = command_line.here(*SMOKE, f"source={Run(parent).id[:5]}")
    assert again.returncode == 0, again.stderr
    assert f"{own.name} is done; force=true starts it anew" in again.stderr

    jobs = [f"method.optimizer.lr={','.join(rates)}", "seed=0"]
    process = command_line("-m", *SMOKE, "source=[method=standard,seed=1]", *jobs)
    assert process.returncode == 0, process.stderr
    assert ("(source of 1, 2)" if len(rates) == 2 else "(source of 1)") in process.stderr
    assert f"{len(rates) + 1} jobs in" in process.stdout
    assert f"{len(rates) + 1} done" in process.stdout
    process = command_line("-m", *SMOKE, "source=[method=standard]", "method.optimizer.lr=0.1", "seed=0")
    assert "1 job in" in process.stdout
    assert "1 skipped" in process.stdout
    assert started(parent) == before, "it was trained already"
    assert len(list(command_line.runs.glob("standard-*"))) == 2


@pytest.mark.parametrize("code", [1, 2, -9])
def test_a_source_that_fails_fails_the_command(composed, tmp_path, monkeypatch, code):
    config = composed(*SMOKE, f"source='{PARENT}'")
    (source,) = jobs_for(config, tmp_path)
    job = Job(config, Run(tmp_path / folder_name(config)), [], (source,))

    @contextmanager
    def handing_on():
        def start(command, **_):
            assert command[-3:] == ["--parent", str(os.getpid()), "--mute"], "it leaves it to us to say what was wrong"
            if code > 0:
                write_json(source.run.result, {"status": "failed", "error": "ValueError: too big"})
            return SimpleNamespace(wait=lambda: code)

        yield start

    monkeypatch.setattr(jobs, "handing_on", handing_on)
    why = "ValueError: too big" if code > 0 else "it ended with exit code -9"
    with pytest.raises(RunFailed, match=f"^{job.run.folder.name} needs {source.run.folder.name}, which failed: {why}$"):
        jobs.train_sources(job)
    assert source.run.folder.exists() == (code != 2), "what was refused leaves nothing"


@pytest.mark.slow
def test_a_source_that_fails_is_one_line_of_error(command_line):
    process = command_line(*SMOKE, "source=[method=standard,method.optimizer.lr=1e30]")
    assert process.returncode == 1
    assert process.stderr.count("error: ") == 1
    (parent,), (own,) = (list(command_line.runs.glob(name)) for name in ("standard-*", "transfer-*"))
    assert f"error: {own.name} needs {parent.name}, which failed: FloatingPointError" in process.stderr
    assert not (own / "result.json").exists()


def test_a_source_that_another_process_trains_is_said(command_line, composed_in):
    checked = composed_in(command_line.runs, "method=standard", "size=smoke")
    folder = command_line.runs / folder_name(checked)
    folder.mkdir(parents=True)
    with lock(Run(folder)):
        process = command_line.here(*SMOKE, "source=[method=standard]")
    assert process.returncode == 2
    assert f"needs {folder.name}, which is being run by process" in process.stderr


def test_a_child_is_trained_from_the_weights_of_its_source(composed, tmp_path):
    config = composed(*SMOKE, f"source='{PARENT}'")
    for source in jobs_for(config, tmp_path):
        open_run(source.config, source.run.folder, source.overrides)
        execute_and_record(source)
    run = open_run(config, tmp_path / folder_name(config), [])
    execute_and_record(Job(config, run, []))
    theirs, own = (torch.load(one.weights, weights_only=True)["state_dict"] for one in (source.run, run))
    frozen = {name.removeprefix("features."): value for name, value in own.items() if name.startswith("features.")}
    assert frozen.keys() == {name for name in theirs if not name.startswith("head.")}
    assert all(torch.equal(value, theirs[name]) for name, value in frozen.items())
    assert find_run(tmp_path, run.id).status() == "done"

    shutil.rmtree(tmp_path / folder_name(config) / "outcomes")
    stored = stored_parts(run, composed("mode=eval", f"run={run.id}", "size=smoke", "eval=[certify]"))
    execute_and_record(Job(stored, run, []))
    assert (run.read("result.json") or {})["metrics"]["certify/lipschitz"] > 0
    shutil.rmtree(source.run.folder)
    with pytest.raises(UserError, match=rf"^model.source: run {source.run.id} is not in .* any more"):
        execute_and_record(Job(stored, run, []))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_source_that_is_stopped_stops_the_command_and_goes_on(command_line, number):
    source = "source=[method=standard,size=full,fit.epochs=null,fit.steps=2000,fit.checkpoint_seconds=0.05]"
    process = command_line.start(*SMOKE, source)
    wait_for(lambda: list(command_line.runs.glob("standard-*/checkpoint.ckpt")), process)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    (parent,), (own,) = (list(command_line.runs.glob(name)) for name in ("standard-*", "transfer-*"))
    assert Run(parent).status() == "interrupted"
    assert not (own / "result.json").exists()
    again = command_line(*SMOKE, source)
    assert again.returncode == 0, again.stderr
    assert "resuming from step" in again.stderr
    assert (Run(parent).status(), Run(own).status()) == ("done", "done")


@pytest.mark.slow
def test_a_command_that_is_killed_ends_the_training_of_its_source(command_line):
    process = command_line.start(*SMOKE, "source=[method=standard,fit.epochs=null,fit.steps=100000,size=full]")
    found = wait_for(lambda: list(command_line.runs.glob("standard-*/result.json")), process)
    process.kill()
    process.communicate()
    parent = Run(found[0].parent)
    wait_for(lambda: not references.holder(parent))


@pytest.mark.slow
def test_two_processes_train_source_and_child_as_one_does(command_line, tmp_path):
    # SGD, as Adam makes of a gradient near 0, which is rounding, a step like any other
    source = "source=[method=standard,method.optimizer.name=sgd,method.optimizer.lr=0.05]"
    arguments = [*SMOKE, source, "accelerator.kind=cpu", "method.cached_copies=2", "dataset.augment.pad=1"]
    assert command_line(*arguments).returncode == 0
    several = command_line(*arguments, "accelerator=ddp", f"paths.runs={tmp_path / 'ddp'}")
    assert several.returncode == 0, several.stderr
    for one in command_line.runs.iterdir():
        first, second = (
            torch.load(runs / one.name / "weights.pt", weights_only=True)["state_dict"]
            for runs in (command_line.runs, tmp_path / "ddp")
        )
        for name, value in first.items():
            torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5)
