"""A network that is given: nothing is trained or copied, and every eval can be asked of it."""

import shutil
import subprocess
import sys

import pytest
import torch

from trust_exp.data import sources
from trust_exp.engine import execute_and_record
from trust_exp.errors import UserError
from trust_exp.job import Job
from trust_exp.runs import Run, open_run

RESNET = ("model=cifar_resnet20", "model.depth=8", "model.mean=null", "model.std=null")
GIVEN = ("method=given", "dataset=digits", "dataset.limit_train=200")


@pytest.fixture
def file(source, tmp_path):
    """A file of trained weights."""
    return shutil.copy(source.weights, tmp_path / "weights.pth")


def carry_out(config, folder) -> Run:
    run = open_run(config, folder, [])
    execute_and_record(Job(config, run, []))
    return run


def accuracy(run: Run) -> float:
    return float((run.read("result.json") or {})["metrics"]["clean/accuracy"])


def test_a_file_is_evaluated_and_not_copied(composed, source, file, tmp_path):
    run = carry_out(composed(*GIVEN, *RESNET, f"checkpoint={file}", "eval=[clean]"), tmp_path / "run")
    assert accuracy(run) == accuracy(source)
    result = run.read("result.json") or {}
    assert result["status"] == "done"
    assert (result["steps"], result["classes"], result["input_shape"]) == (0, 10, [1, 8, 8])
    assert not list(run.folder.rglob("*.pt*")) or {path.parent.name for path in run.folder.rglob("*.pt")} == {
        "outcomes"
    }


def test_a_run_is_evaluated_and_not_copied(composed_in, source, tmp_path):
    config = composed_in(source.folder.parent, *GIVEN, f"source={source.folder}", "eval=[clean]")
    run = carry_out(config, tmp_path / "run")
    assert accuracy(run) == accuracy(source)
    assert not run.weights.exists()


def test_the_command_line(command_line, file):
    given = (*GIVEN, *RESNET, f"checkpoint={file}", "eval=[clean]")
    process = command_line.here(*given)
    assert process.returncode in (0, None), process.stderr
    before = command_line.result()
    assert "is done; force=true starts it anew" in command_line.here(*given).stderr
    assert command_line.result() == before
    few = ("eval.prototypes={pictures: 0, deletion: 0, solve: {compare: [1], steps: 5}}",)
    process = command_line.here("mode=eval", f"run={before['run_id']}", "eval=[prototypes]", *few)
    assert process.returncode in (0, None), process.stderr
    found = command_line.result()["metrics"]
    assert found["prototypes/black_box_accuracy"] == found["clean/accuracy"] == before["metrics"]["clean/accuracy"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((*RESNET, "checkpoint=nowhere.pth"), "nowhere.pth"),
        (
            RESNET,
            "method=given needs trained weights: source=<a run>, checkpoint=<a file of weights> or model.pretrained",
        ),
        (("model=conv_2c2f", "checkpoint={file}"), "belongs to another network"),
        (
            (*RESNET, "checkpoint={file}", "fit.epochs=3"),
            "fit.epochs=3 changes nothing, as method=given trains nothing",
        ),
        (("checkpoint={file}",), "model=trained needs the run to take the network from"),
    ],
)
def test_what_is_not_given_is_one_sentence(command_line, file, more, message):
    process = command_line.here(*GIVEN, "eval=[clean]", *(text.format(file=file) for text in more))
    assert process.returncode == 2
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def test_a_file_that_has_changed_is_refused(composed, file, tmp_path):
    config = composed(*GIVEN, *RESNET, f"checkpoint={file}", "eval=[clean]")
    run = carry_out(config, tmp_path / "run")
    state = torch.load(file, weights_only=True)["state_dict"]
    torch.save({name: value + 1 for name, value in state.items()}, file)
    again = composed(*GIVEN, *RESNET, f"checkpoint={file}", "eval=[prototypes]")
    with pytest.raises(UserError, match=r"weights\.pth is another one than when the run began"):
        execute_and_record(Job({**again, "references": config["references"]}, run, []))
    assert run.status() == "done"


def test_weights_that_are_not_finite_are_refused(composed, file, tmp_path):
    state = torch.load(file, weights_only=True)["state_dict"]
    torch.save({name: value * torch.nan if value.is_floating_point() else value for name, value in state.items()}, file)
    with pytest.raises(UserError, match=r"weights\.pth holds weights that are not finite"):
        carry_out(composed(*GIVEN, *RESNET, f"checkpoint={file}", "eval=[clean]"), tmp_path / "run")


def test_a_network_of_timm_from_a_file(composed, tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_resnet", in_chans=1, num_classes=10).state_dict(), tmp_path / "w.pth")
    network = ("model=timm", "model.name=test_resnet", f"checkpoint={tmp_path / 'w.pth'}")
    run = carry_out(composed(*GIVEN, *network, "dataset.limit_test=20", "eval=[clean]"), tmp_path / "run")
    assert 0 <= accuracy(run) <= 1


@pytest.mark.slow
def test_the_published_resnet_has_its_accuracy_whatever_is_asked_of_it(shared_data, command_line_in, tmp_path):
    """91.60 % of the 2,000 test images of CIFAR-10 that lie in shared/data, on one process and on two."""
    script = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, script, "--to", tmp_path / "laid", "cifar10"], check=True)
    sources.import_dataset("cifar10", tmp_path / "laid" / "cifar10", tmp_path / "data")
    file = shared_data / "weights" / "cifar10_resnet20-12fca82f.th"
    given = ("method=given", "dataset=cifar10", "model=cifar_resnet20", f"checkpoint={file}")
    evals = ("eval=[clean,autoattack,prototypes]", "eval.autoattack.version=fast", "eval.autoattack.samples=16")
    found = []
    for name, more in (("one", ("accelerator=cpu",)), ("two", ("accelerator=ddp", "accelerator.kind=cpu"))):
        command_line = command_line_in(tmp_path / name)
        process = command_line(*given, *evals, f"paths.data={tmp_path / 'data'}", *more)
        assert process.returncode == 0, process.stderr
        found.append(command_line.result()["metrics"])
        assert not list(command_line.folder().glob("weights.pt"))
    one, two = found
    assert one["clean/accuracy"] == one["prototypes/accuracy@3"] == pytest.approx(0.9160)
    assert 0 <= one["autoattack/accuracy"] < one["clean/accuracy"]
    assert {name: f"{value:.4g}" for name, value in one.items() if name != "prototypes/largest_logit_gap"} == {
        name: f"{value:.4g}" for name, value in two.items() if name != "prototypes/largest_logit_gap"
    }
