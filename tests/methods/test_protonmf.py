"""ProtoNMF on the embedded digits: the same logits as the network, whatever is asked of the prototypes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from trust_exp.data.batch import as_floats
from trust_exp.data.digits import Digits
from trust_exp.engine import execute_and_record
from trust_exp.errors import Interrupted, UserError
from trust_exp.identity import run_id
from trust_exp.job import Job
from trust_exp.methods.prototype.module import ProtoNmf
from trust_exp.models.prototypes import PrototypeModel, without
from trust_exp.networks import load_state, make_network
from trust_exp.results import experiments
from trust_exp.runs import Run, open_run

TABLES = [name for name in experiments.names() if name.startswith("protonmf")]
NETWORK = ["model=cifar_resnet20", "model.depth=8", "model.mean=null", "model.std=null"]
SMALL = ["method.compare=[1]", "method.steps=20"]
FEW = "eval.prototypes={pictures: 2, images: 20, deletion: 40}"


def run(config, folder: Path) -> Run:
    job = Job(config, open_run(config, folder, []), [])
    execute_and_record(job)
    return job.run


@pytest.fixture(scope="module")
def config(composed_in, source):
    return lambda *given: composed_in(
        source.folder.parent, "method=protonmf", "dataset=digits", f"source={source.folder}", *SMALL, FEW, *given
    )


@pytest.fixture(scope="module")
def made(config, source) -> Run:
    return run(config(), source.folder.parent / "run")


def model_of(made: Run, config) -> PrototypeModel:
    model = make_network(config, Digits("digits").info)
    load_state(model, made.weights)
    return model.eval()


def classifier_of(source: Run) -> nn.Module:
    network = make_network((source.read("config.json") or {})["config"], Digits("digits").info)
    load_state(network, source.weights)
    return network.eval()


@torch.no_grad()
def test_the_logits_are_those_of_the_network_on_every_test_image(made, config, source):
    network = classifier_of(source)
    model = model_of(made, config())
    images = as_floats(Digits("digits").arrays("test").images)
    tokens, logits = model.reader(images)
    torch.testing.assert_close(logits, network(images))
    torch.testing.assert_close(model(images), network(images), rtol=0, atol=1e-4)
    read = model.reader.pooled(tokens)
    for count in model.counts:
        parts = model.contributions(read, count)
        assert parts.shape == (len(images), 10, count + 2)
        torch.testing.assert_close(parts.sum(2), network(images), rtol=0, atol=1e-4)
        basis, _ = model.augmented(count)
        whole = torch.einsum("np,npd,bd->bn", model.prototypes(count).weights, basis, read) + model.reader.bias
        torch.testing.assert_close(whole, network(images), rtol=0, atol=1e-4)
        given = model.contributions(read, count, separate=False)
        torch.testing.assert_close(given.sum(2), network(images), rtol=0, atol=1e-4)
        assert given[..., -2].abs().max() == 0, "the prototypes took over the residual"


def test_the_prototypes_are_sorted_and_of_length_1(made, config):
    found = model_of(made, config()).prototypes()
    torch.testing.assert_close(found.basis.norm(dim=2), torch.ones(10, 3))
    assert (found.basis >= 0).all()
    assert (found.weights.diff(dim=1) <= 0).all()


def test_what_is_told(made):
    result = made.read("result.json") or {}
    values = result["metrics"]
    black_box = values["prototypes/black_box_accuracy"]
    assert values["clean/accuracy"] == black_box == values["prototypes/accuracy@3"] == values["prototypes/accuracy@1"]
    assert black_box > 0.5, "a network worth explaining"
    assert values["prototypes/largest_logit_gap"] < 1e-4
    assert values["prototypes/feature_error@3"] < values["prototypes/feature_error@1"]
    assert values["prototypes/head_error@3"] < values["prototypes/head_error@1"]
    for count in (1, 3):
        limit = values["prototypes/without_predicted_class_accuracy"]
        assert black_box <= values[f"prototypes/intervened_accuracy@{count}"] <= limit
    assert values["prototypes/deletion"] < values["prototypes/deletion_at_random"]
    columns = {name.partition("@")[0] for table in TABLES for name in experiments.read(table).columns}
    assert {name for name in columns if name.startswith("prototypes/")} <= {name.partition("@")[0] for name in values}
    assert {"prototypes/insertion", "prototypes/insertion_at_random"} <= set(values)
    assert result["facts"]["tokens"]["grid"] == [2, 2]
    names = {Path(figure).name for figure in result["figures"]}
    assert names == {
        *(f"prototypes_{label}{end}.png" for label in (0, 1) for end in ("", "_counts", "_augmented")),
        "prototypes_explained.png",
        "prototypes_intervened.png",
    }
    assert all((made.folder / figure).stat().st_size > 5000 for figure in result["figures"])


def test_the_eval_solves_for_any_classifier_what_the_method_does(made, composed_in, source, tmp_path):
    """Of the same options the same digits, but no copy of the network's weights."""
    shutil.copytree(source.folder, tmp_path / source.folder.name)
    options = "solve: {compare: [1], steps: 20}"
    common = ("method=standard", "dataset=digits", *NETWORK, "fit.epochs=2", "eval=[prototypes]")
    asked = composed_in(tmp_path, *common, FEW.replace("}", f", {options}}}"))
    run = Run(tmp_path / source.folder.name)
    execute_and_record(Job(asked, run, []))
    found, expected = ((one.read("result.json") or {})["metrics"] for one in (run, made))
    areas = {name for name in expected if "deletion" in name or "insertion" in name}  # each reads its own network
    for name in areas:
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-6), name
    assert areas
    assert found == expected, "the rows of clean accuracy too"


def test_what_explains_already_is_refused_options_and_what_is_no_sum_its_prototypes(composed, stored, source):
    common = ("dataset=digits", f"source={source.folder}")
    with pytest.raises(UserError, match=r"eval\.prototypes\.solve is for networks without prototypes; this one has"):
        composed("method=protonmf", *common, "eval=[prototypes]", "eval.prototypes.solve.prototypes=5")
    config = composed("method=protopnet", *common, "eval=[prototypes]")
    run = stored(config)
    with pytest.raises(UserError, match="the last layer of ProtoPNet is not linear"):
        execute_and_record(Job(config, run, []))
    assert run.status() == "done"


def test_runs_of_before_keep_their_ids_and_their_network(composed, tmp_path, made, config):
    (tmp_path / "w.pth").write_bytes(b"weights")
    given = ("method=protonmf", "dataset=digits", *(NETWORK[0], *NETWORK[2:]), f"checkpoint={tmp_path / 'w.pth'}")
    more = ("method.compare=[2]", "method.residual=energy", "method.restarts=3")
    assert run_id(composed(*given)) == "9d4eb7dcc6"
    assert run_id(composed(*given, *more)) == "ca338a8179"
    older = config()
    older["method"] = {key: value for key, value in older["method"].items() if key != "residual"}
    assert run_id(older) == run_id(config())
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(model_of(made, older)(images), model_of(made, config())(images))


@torch.no_grad()
def test_a_prototype_that_is_dropped_contributes_nothing(made, config):
    model = model_of(made, config())
    tokens, logits = model.reader(as_floats(Digits("digits").arrays("test").images[:5]))
    parts = model.contributions(model.reader.pooled(tokens))
    changed = without(parts, {3: [0, 2]})
    assert torch.equal(changed[:, [0, 1, 2, 4, 5, 6, 7, 8, 9]], parts[:, [0, 1, 2, 4, 5, 6, 7, 8, 9]])
    torch.testing.assert_close(changed[:, 3].sum(1), logits[:, 3] - parts[:, 3, 0] - parts[:, 3, 2], rtol=0, atol=1e-4)
    one = without(parts, {3: [0, 2]}, images=[1])
    assert torch.equal(one[1], changed[1])
    assert torch.equal(one[0], parts[0])
    places = model.places(tokens, 3)
    assert places.shape == (5, 3, 2, 2)
    assert (places >= 0).all()
    rest = model.prototypes().rest[3]
    torch.testing.assert_close(
        model.places_of_rest(tokens, 3).flatten(1), model.reader.patches(tokens) @ rest / rest.square().sum()
    )


@torch.no_grad()
def test_prototypes_that_a_user_drops(made, config, source, tmp_path):
    """By the contributions themselves; in two images alone, and in all."""
    model, data = model_of(made, config()), Digits("digits")
    arrays, index = data.arrays("test"), data.served("test")
    parts = model.contributions(model.reader.pooled(model.reader(as_floats(arrays.images))[0]), separate=False)
    before = parts.sum(2).argmax(1) == arrays.labels
    parts[:, 3, 0] = 0
    parts[:, 8, [0, 2]] = 0
    after = parts.sum(2).argmax(1) == arrays.labels
    assert (before != after).sum() > 5, "a case worth looking at"
    row = int((before & ~after).nonzero()[0])
    shutil.copytree(made.folder, tmp_path / "run")
    pictures = tmp_path / "run" / "figures" / "prototypes_intervened.png"
    oracle = pictures.read_bytes()
    for chosen, wrong, right in (
        ([], (before & ~after).float().mean(), (after & ~before).float().mean()),
        ([int(index[row])], 1 / len(before), 0),
    ):
        given = "eval.prototypes={pictures: 2, images: 9, deletion: 0, classes: ['7'], drop: ['3:1', '8:1', '8:3'],"
        asked = config(f"{given} drop_in: {chosen}}}", "method.compare=[1]", "dataset.eval_batch_size=50")
        execute_and_record(Job(asked, Run(tmp_path / "run"), []))
        values = (Run(tmp_path / "run").read("result.json") or {})["metrics"]
        assert values["prototypes/set_wrong"] == pytest.approx(float(wrong))
        assert values["prototypes/set_right"] == pytest.approx(float(right))
    assert pictures.read_bytes() != oracle
    assert (tmp_path / "run" / "figures" / "prototypes_7.png").exists()
    asked = config("eval.prototypes={pictures: 0, deletion: 40, splits: [train]}", "method.compare=[1]")
    execute_and_record(Job(asked, Run(tmp_path / "run"), []))
    result = Run(tmp_path / "run").read("result.json") or {}
    assert not result["figures"], "they answered another question"
    assert not pictures.exists()
    assert "prototypes/train_deletion" in result["metrics"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("drop: ['3:1'], drop_in: [999999]", "eval.prototypes.drop_in: there is no image 999999"),
        ("drop: ['3:4']", r"one of its prototypes, 1 to 3, such as 0:1; got '3:4'"),
        ("drop: ['3']", r"one of its prototypes, 1 to 3, such as 0:1; got '3'"),
        ("drop: ['x:1']", r"eval.prototypes.drop: the class 'x' does not exist"),
        ("classes: [x]", r"eval.prototypes.classes: the class 'x' does not exist"),
    ],
)
def test_what_cannot_be_dropped_is_one_sentence(made, config, tmp_path, given, message):
    shutil.copytree(made.folder, tmp_path / "run")
    with pytest.raises(UserError, match=message):
        execute_and_record(Job(config(f"eval.prototypes={{{given}}}"), Run(tmp_path / "run"), []))
    assert (Run(tmp_path / "run").read("result.json") or {})["status"] == "done", "what it has is as good as before"


@pytest.mark.slow
def test_two_processes_find_what_one_finds(made, source, command_line):
    given = ["method=protonmf", "dataset=digits", f"source={source.folder}", *SMALL, "eval=[clean]"]
    process = command_line(*given, "accelerator=ddp", "accelerator.kind=cpu")
    assert process.returncode == 0, process.stderr
    two = torch.load(command_line.folder() / "weights.pt", weights_only=True)["state_dict"]
    for name, value in torch.load(made.weights, weights_only=True)["state_dict"].items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    facts = command_line.result()["facts"]["prototypes"]["3"]
    assert facts == pytest.approx((made.read("result.json") or {})["facts"]["prototypes"]["3"], rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_with_the_classes_that_are_left(made, config, tmp_path, monkeypatch):
    asked, solve = [], ProtoNmf.solve

    def stopped(self, task):
        asked.append(task)
        if len(asked) == 3:
            raise Interrupted("SIGINT")
        return solve(self, task)

    again = config("fit.checkpoint_seconds=0")
    with monkeypatch.context() as patch:
        patch.setattr(ProtoNmf, "solve", stopped)
        with pytest.raises(Interrupted):
            run(again, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").glob("*.ckpt")] == ["checkpoint-0.ckpt"]
    monkeypatch.setattr(ProtoNmf, "solve", lambda self, task: asked.append(task) or solve(self, task))
    resumed = run(again, tmp_path / "run")
    assert not list(resumed.folder.glob("*.ckpt"))
    every = [list(range(at, min(10, at + len(asked[0])))) for at in range(0, 10, len(asked[0]))]
    assert asked[:3] == every[:3]
    assert asked[3:] == every[2:], "those before the stop are not asked again"
    for name, value in torch.load(made.weights, weights_only=True)["state_dict"].items():
        torch.testing.assert_close(torch.load(resumed.weights, weights_only=True)["state_dict"][name], value, msg=name)


@pytest.mark.slow
def test_a_run_that_was_stopped_after_its_last_class_is_finished(made, config, tmp_path, monkeypatch):
    def stopped(*_):
        raise Interrupted("SIGINT")

    again = config("fit.checkpoint_seconds=0")
    with monkeypatch.context() as patch:
        patch.setattr(ProtoNmf, "keep", stopped)
        with pytest.raises(Interrupted):
            run(again, tmp_path / "run")
    monkeypatch.setattr(ProtoNmf, "solve", stopped)
    resumed = run(again, tmp_path / "run")
    for name, value in torch.load(made.weights, weights_only=True)["state_dict"].items():
        torch.testing.assert_close(torch.load(resumed.weights, weights_only=True)["state_dict"][name], value, msg=name)


@pytest.mark.parametrize(
    "given",
    [
        ["method.by=semi_nmf"],
        ["method.by=k_means", "method.steps=200"],
        ["method.by=principal_directions", "method.steps=200"],
        ["method.by=random_features", "method.steps=200"],
        ["method.init=nndsvda", "method.stop=tenth"],
        ["method.restarts=3"],
    ],
)
def test_other_factorisations_leave_the_logits_as_they_are(config, tmp_path, given):
    values = (run(config(*given, "method.max_per_class=20", "eval.prototypes.pictures=0"), tmp_path / "run")).read(
        "result.json"
    ) or {}
    assert values["metrics"]["prototypes/largest_logit_gap"] < 1e-4
    stability = values["facts"]["prototypes"]["3"]["stability"]
    assert 0.5 < stability < 1 if "method.restarts=3" in given else stability == 1


def test_what_gives_no_prototypes_is_one_sentence(config, tmp_path, composed, source):
    rows = np.flatnonzero(Digits("digits").labels("train").numpy() != 4)
    np.savetxt(tmp_path / "chosen.txt", rows, "%d")
    with pytest.raises(UserError, match="class 4 of dataset=digits has no training image to make prototypes of"):
        run(config(f"dataset.index_file={tmp_path / 'chosen.txt'}"), tmp_path / "a")
    with pytest.raises(UserError, match=r"features of class 0 give no prototypes: the rank must be between 1 and 64"):
        run(config("method.prototypes=65"), tmp_path / "b")
    state = torch.load(source.weights, weights_only=True)["state_dict"]
    for name, value, message in (
        ("features.layer3.0.bn2.bias", float("nan"), r"w\.pt holds weights that are not finite"),
        ("features.layer3.0.bn2.bias", 3e38, "the network's logits are not finite"),
        ("features.layer3.0.bn2.bias", -1e9, "the matrix is zero"),
    ):
        torch.save({**state, name: torch.full_like(state[name], value)}, tmp_path / "w.pt")
        broken = composed("method=protonmf", "dataset=digits", *NETWORK, f"checkpoint={tmp_path / 'w.pt'}", *SMALL)
        with pytest.raises(UserError, match=message):
            run(broken, tmp_path / str(value))


def test_the_command_line_takes_a_checkpoint(command_line, source, tmp_path):
    given = ["method=protonmf", "dataset=digits", *SMALL, "eval=[clean]", "dataset.limit_train=100"]
    process = command_line.here(*given, *NETWORK, f"checkpoint={source.weights}")
    assert process.returncode == 0, process.stderr
    expected = json.loads(source.result.read_text())["metrics"]["clean/accuracy"]
    assert command_line.result()["metrics"]["clean/accuracy"] == expected
    process = command_line.here(*given, "model=conv_2c2f", f"checkpoint={source.weights}")
    assert process.returncode == 2
    assert "weights.pt belongs to another network: the network has no 'features.conv1.weight'" in process.stderr
