"""ProtoPNet on the embedded digits: prototypes are patches of training images, and stay it."""

import os
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st

from trust_exp.build import build, target_of
from trust_exp.data.batch import as_floats
from trust_exp.data.digits import Digits
from trust_exp.engine import execute_and_record
from trust_exp.errors import Interrupted, UserError
from trust_exp.explain.patches import log_similarity
from trust_exp.job import Job
from trust_exp.methods.prototype.core import (
    closest_of_class,
    cluster_cost,
    connection_to_others,
    separation_cost,
    stage_at,
)
from trust_exp.methods.prototype.protopnet import ProtoPNetTraining
from trust_exp.models.protopnet import ProtoPNet, cycle_file
from trust_exp.models.tokens import TokenReader
from trust_exp.models.trained import trained_network
from trust_exp.networks import load_source
from trust_exp.references import at_paths
from trust_exp.results import experiments
from trust_exp.runs import Run, open_run

SMALL = ["method.per_class=3", "method.width=16", "dataset.limit_train=300", "dataset.batch_size=50"]
STAGES = ["method.warm=1", "method.joint=2", "method.last=1", "method.cycles=2", "fit.epochs=7"]  # of 6 steps each
FASTER = ["method.optimizer.lr=3e-3", "method.lr_last=1e-2"]
FEW = "eval.patches={pictures: 2, deletion: 40}"


def plain_network(config, info):
    """The trained network behind a configuration, before the method changes it."""
    node = at_paths(config, "model")
    source = load_source(Path(node["source"]), node["network"], info)
    return trained_network(info.shape, len(info.classes), source)


def run(config, folder: Path) -> Run:
    job = Job(config, open_run(config, folder, []), [])
    execute_and_record(job)
    return job.run


@pytest.fixture(scope="module")
def config(composed_in, source):
    runs = source.folder.parent
    usual = ["method=protopnet", "dataset=digits", f"source={source.folder}", *SMALL, *STAGES, *FASTER]
    return lambda *given: composed_in(runs, *usual, "fit.log_every=1", *(given or [FEW]))


@pytest.fixture(scope="module")
def made(config, tmp_path_factory) -> Run:
    return run(config(), tmp_path_factory.mktemp("run"))


def model_of(made: Run, config) -> ProtoPNet:
    data = Digits("digits")
    plain = plain_network(config, data.info)
    model = target_of(config["method"]).network(plain, data.info, config["method"])
    model.load_state_dict(torch.load(made.weights, weights_only=True)["state_dict"])
    return model.eval()


# --- the maths ------------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_formulas():
    draw = torch.Generator().manual_seed(0)
    distance, label = torch.rand(7, 6, generator=draw), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    classes, weight = torch.tensor([0, 0, 1, 1, 2, 2]), torch.randn(3, 6, generator=draw)
    own = label[:, None] == classes
    mine = [min(float(distance[b, p]) for p in range(6) if classes[p] == label[b]) for b in range(7)]
    other = [min(float(distance[b, p]) for p in range(6) if classes[p] != label[b]) for b in range(7)]
    far = sum(abs(float(weight[n, p])) for n in range(3) for p in range(6) if classes[p] != n)
    assert float(cluster_cost(distance, own)) == pytest.approx(sum(mine) / 7)
    assert float(separation_cost(distance, own)) == pytest.approx(sum(other) / 7)
    assert float(connection_to_others(weight, classes == torch.arange(3)[:, None])) == pytest.approx(far, rel=1e-5)


def test_the_published_schedule_is_cut_at_whole_epochs():
    per_epoch = 75
    parts = [stage_at(step, 95 * per_epoch, 5, 10, 20, 3) for step in range(95 * per_epoch)]
    epochs = [{stage.part for stage in parts[epoch * per_epoch : (epoch + 1) * per_epoch]} for epoch in range(95)]
    assert epochs == [{"warm"}] * 5 + ([{"joint"}] * 10 + [{"last"}] * 20) * 3
    assert [parts[epoch * per_epoch].joint for epoch in (4, 5, 9, 10, 15, 34, 35, 44, 45)] == [
        *(0, 0, 4, 5, 10, 10, 10, 19, 20)
    ]


@drawn(st.integers(1, 300), st.integers(0, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 4))
def test_a_training_of_any_length_passes_its_stages_in_order(steps, warm, joint, last, cycles):
    stages = [stage_at(step, steps, warm, joint, last, cycles) for step in range(steps)]
    assert all(one.joint <= other.joint <= cycles * joint for one, other in pairwise(stages))
    whole = warm + cycles * (joint + last)
    for part, length in (("warm", warm), ("joint", cycles * joint), ("last", cycles * last)):
        assert abs(sum(stage.part == part for stage in stages) - length * steps / whole) <= cycles


# --- a run ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_prototypes_are_the_patches_they_say_they_are(made, config):
    """Also after the last layer was trained: nothing may have moved what the network sees in them."""
    model = model_of(made, config())
    images = as_floats(Digits("digits").arrays("train").images)
    labels = Digits("digits").labels("train")
    assert (model.source[:, 0] >= 0).all()
    for prototype, label, (index, place) in zip(model.prototypes, model.label, model.source.tolist(), strict=True):
        assert labels[index] == label
        torch.testing.assert_close(model.features(images[index : index + 1])[0, place], prototype, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_closest_patch_of_the_class_is_found(made, config):
    model = model_of(made, config())
    model.prototypes.copy_(torch.rand(model.prototypes.shape, generator=torch.Generator().manual_seed(0)))
    data = Digits("digits", limit_train=200)
    arrays, served = data.arrays("train"), data.served("train")
    features = model.features(as_floats(arrays.images))
    found = closest_of_class(*model.closest(features), features, arrays.labels, served, model.label)
    for number, label in enumerate(model.label):
        rows = (arrays.labels == label).nonzero().squeeze(1)
        distance = (features[rows] - model.prototypes[number]).square().sum(-1)
        row, place = divmod(int(distance.argmin()), distance.shape[1])
        assert found.source[number].tolist() == [int(served[rows[row]]), place]
        torch.testing.assert_close(found.feature[number], features[rows[row], place])


def test_what_is_told(made):
    result = made.read("result.json") or {}
    values = result["metrics"]
    assert values["clean/accuracy"] > 0.5
    tables = [experiments.read(name) for name in experiments.names() if name.startswith("protonmf")]
    columns = {name.partition("@")[0] for table in tables for name in table.columns}
    assert {name for name in columns if name.startswith("patches/")} <= {name.partition("@")[0] for name in values}
    assert values["patches/accuracy@2"] == values["clean/accuracy"]
    for cycle in (1, 2):
        assert 0.1 < values[f"patches/distinct@{cycle}"] <= 1
        assert values[f"patches/nmf_feature_error@{cycle}"] < values[f"patches/feature_error@{cycle}"]
        assert values[f"patches/nmf_similarity@{cycle}"] < values[f"patches/similarity@{cycle}"] <= 1
    assert values["patches/persistence@2"] < 1
    assert {"patches/accuracy_own_only@1", "patches/deletion", "patches/insertion_at_random"} <= set(values)
    assert "patches/persistence@1" not in values
    assert [Path(figure).name for figure in result["figures"]] == ["patches_0.png", "patches_1.png"]
    assert all((made.folder / figure).stat().st_size > 5000 for figure in result["figures"])


class Watch(L.Callback):
    """Which parameters change in each step."""

    def __init__(self):
        self.changed = []

    def on_train_batch_start(self, trainer, method, *_):
        self.before = {name: value.clone() for name, value in method.model.named_parameters()}

    def on_train_batch_end(self, trainer, method, *_):
        parts = {
            name.split(".")[0] for name, now in method.model.named_parameters() if not now.equal(self.before[name])
        }
        self.changed.append(" ".join(sorted(parts)))


def test_each_stage_changes_its_own_weights(config, quiet_trainer):
    chosen = config()
    L.seed_everything(0, verbose=False)
    data = Digits("digits", limit_train=300, batch_size=50)
    plain = plain_network(chosen, data.info)
    network = target_of(chosen["method"]).network(plain, data.info, chosen["method"])
    method = build(at_paths(chosen, "method"), model=network, info=data.info, log_every=1)
    watch = Watch()
    quiet_trainer(max_epochs=7, callbacks=[watch]).fit(method, datamodule=data)
    cycle = ["add_on prototypes reader"] * 12 + ["last prototypes"] + ["last"] * 5  # they become patches at its start
    assert watch.changed == ["add_on prototypes"] * 6 + cycle * 2


@pytest.mark.slow
@torch.no_grad()
def test_prototypes_of_two_processes_are_patches_as_well(config, source, command_line):
    given = ["method=protopnet", "dataset=digits", f"source={source.folder}", *SMALL, *STAGES, *FASTER, "eval=[clean]"]
    process = command_line(*given, "accelerator=ddp", "accelerator.kind=cpu")
    assert process.returncode == 0, process.stderr
    model = model_of(Run(command_line.folder()), config())
    images = as_floats(Digits("digits").arrays("train").images)
    assert len(set((model.source[:, 0] % 2).tolist())) == 2, "images of both processes"
    for prototype, (index, place) in zip(model.prototypes, model.source.tolist(), strict=True):
        torch.testing.assert_close(model.features(images[index : index + 1])[0, place], prototype, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_nothing_had_happened(made, config, tmp_path, monkeypatch):
    """Stopped just before its prototypes become patches, and just after."""
    training_step, seen = ProtoPNetTraining.training_step, []

    def stopped(self, batch, number):
        if self.global_step in (17, 18) and self.global_step not in seen:
            seen.append(self.global_step)
            os.kill(os.getpid(), signal.SIGINT)
        return training_step(self, batch, number)

    monkeypatch.setattr(ProtoPNetTraining, "training_step", stopped)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(config(), tmp_path / "run")
    resumed = run(config(), tmp_path / "run")
    assert seen == [17, 18]
    for name, value in torch.load(made.weights, weights_only=True)["state_dict"].items():
        assert torch.equal(torch.load(resumed.weights, weights_only=True)["state_dict"][name], value), name
    cycles = [torch.load(cycle_file(one.folder, 1), weights_only=True) for one in (made, resumed)]
    assert cycles[0].keys() == cycles[1].keys()
    assert all(torch.equal(value, cycles[1][name]) for name, value in cycles[0].items())


@torch.no_grad()
def test_the_last_layer_is_in_float32_under_any_precision(config):
    """Of many classes the logits share far more than they differ in."""
    data = Digits("digits")
    plain = plain_network(config(), data.info)
    model = ProtoPNet(TokenReader(plain, data.info.shape), 200, 16).eval()
    images = as_floats(data.arrays("test").images[:20])
    with torch.autocast("cpu", torch.bfloat16):
        distance = model.closest(model.features(images)).distance
        logits = model.logits(distance)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model.last(log_similarity(distance)))


def test_a_cycle_that_is_gone_is_one_sentence(made, config, tmp_path):
    shutil.copytree(made.folder, tmp_path / "run")
    cycle_file(tmp_path / "run", 1).unlink()
    job = Job(config("eval.patches={pictures: 0, deletion: 0}"), Run(tmp_path / "run"), [])
    with pytest.raises(UserError, match=r"cycles/1.pt is gone; eval=patches compares it"):
        execute_and_record(job)
    cycle_file(tmp_path / "run", 1).write_bytes(cycle_file(made.folder, 1).read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cycles/1.pt cannot be read as weights"):
        execute_and_record(job)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["method.optimizer.milestones=[0.5]"], "method.optimizer.milestones has no effect here"),
        (["method.optimizer.schedule=cosine"], "method.optimizer.schedule has no effect here: method.decay_every sets"),
        (["eval=[prototypes]"], "the last layer of ProtoPNet is not linear"),
        (["fit.epochs=1"], "2 cycles of ProtoPNet take 7 optimiser steps at least; this training has 6"),
        (["method.last=0"], "method.last must be at least 1"),
    ],
)
def test_what_cannot_be_is_one_sentence(config, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        run(config(*given), tmp_path / "run")


def test_a_network_without_places_is_refused(composed):
    data = Digits("digits")
    plain = build(at_paths(composed("dataset=digits", "model=conv_2c2f"), "model"), shape=data.info.shape, classes=10)
    with pytest.raises(UserError, match="need a network that keeps places up to its head"):
        ProtoPNet(TokenReader(plain, data.info.shape), 3, 16)
    with pytest.raises(UserError, match="model=trained needs the run to take the network from: source="):
        composed("method=protopnet", "dataset=digits")
