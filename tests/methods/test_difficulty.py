"""Rankings that an ordinary training writes: of the right numbers, through stops, on two processes, without a trace."""

import copy
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.waiting import PATIENCE, wait_for
from trust_exp import engine
from trust_exp.data import sources
from trust_exp.data.ranking import Ranking, check_fits, class_order, read_ranking
from trust_exp.data.sources.cifar import SUPER_CLASSES
from trust_exp.engine import Pipeline, execute_and_record
from trust_exp.errors import UserError
from trust_exp.job import Job
from trust_exp.messages import RunFailed
from trust_exp.methods.standard.difficulty import DifficultyWatch
from trust_exp.methods.standard.module import Standard
from trust_exp.runs import Run, open_run
from trust_exp.viz import difficulty, style

ALL = "method.difficulty=[entropy,svar,vog]"
RUN = (
    "method=standard",
    "dataset=digits",
    "dataset.limit_train=90",
    "dataset.batch_size=20",
    "dataset.eval_batch_size=32",
    "dataset.augment.pad=1",
    "size=smoke",
    "fit.steps=11",
    "eval=[]",
    "fit.checkpoint_seconds=0",
    "accelerator.kind=cpu",
)


def carry_out(composed, folder: Path, *overrides: str) -> Run:
    config = composed(*RUN, *overrides)
    job = Job(config, open_run(config, folder, []), [])
    execute_and_record(job)
    return job.run


def rankings(run: Run) -> dict[str, Ranking]:
    return {path.stem: read_ranking(path) for path in sorted((run.folder / "rankings").glob("*.npz"))}


def by_sample(ranking: Ranking) -> np.ndarray:
    found = np.full(ranking.dataset["samples"], np.nan)
    found[ranking.index] = ranking.score
    return found


def assert_same(one: Run, other: Run) -> None:
    first, second = rankings(one), rankings(other)
    assert first.keys() == second.keys()
    assert first
    for name in first:
        np.testing.assert_array_equal(first[name].index, second[name].index, name)
        np.testing.assert_array_equal(first[name].score, second[name].score, name)


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.weights, weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def uninterrupted(composed_in, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return carry_out(lambda *given: composed_in(folder, *given), folder / "run", ALL, "method.vog_snapshots=3")


# --- the numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_number_against_one_that_keeps_everything(composed, tmp_path, monkeypatch, uninterrupted):
    """All logits of all steps and the network at each step are stored, and the measures taken in float64 at the end."""
    seen, networks, served = [], {}, {}
    step = Standard.training_step

    def training_step(self, batch, number):
        networks[self.global_step] = copy.deepcopy(self.model)
        hook = self.model.register_forward_hook(lambda model, _, out: seen.append((model.training, out, batch)))
        loss = step(self, batch, number)
        hook.remove()
        served["data"], networks[-1] = self.trainer.datamodule, self.model
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Standard, "training_step", training_step)
        run = carry_out(composed, tmp_path / "run", ALL, "method.vog_snapshots=3")
    assert_same(run, uninterrupted)
    found = {name: by_sample(ranking) for name, ranking in rankings(run).items()}
    data = served["data"]

    entropies: dict[int, list[float]] = {}
    variances: dict[int, list[float]] = {}
    changed = 0
    for training, logits, batch in seen:
        assert training
        chances = logits.detach().double().softmax(1).numpy()
        for row, chance in enumerate(chances):
            index, label = int(batch.index[row]), int(batch.label[row])
            entropies.setdefault(index, []).append(-(chance * np.log(chance)).sum())
            sign = 1 if chance.argmax() == label else -1
            variances.setdefault(index, []).append(-sign * ((chance - chance.mean()) ** 2).mean())
            place = torch.tensor([(data.arrays("train").index == index).nonzero().item()])
            changed += not torch.equal(data.samples("train", place).image[0], batch.image[row])
    assert changed > len(seen), "the views are the augmented ones"
    assert len(seen) == 11
    assert max(map(len, entropies.values())) > 1
    for name, stored in (("entropy", entropies), ("svar", variances)):
        assert set(np.flatnonzero(~np.isnan(found[name]))) == set(stored)
        means = np.array([np.mean(stored[index]) for index in sorted(stored)])
        np.testing.assert_allclose(found[name][sorted(stored)], means, rtol=1e-5, atol=1e-7)

    batch = data.samples("train", torch.arange(data.size("train")))
    stack = []
    for number in (4, 7, -1):  # 11 / 3 and 22 / 3 rounded, and the end
        network = networks[number].double().eval()
        image = batch.image.double().requires_grad_()
        picked = sum(network(image)[row, label] for row, label in enumerate(batch.label.tolist()))
        stack.append(torch.autograd.grad(picked, image)[0].mean(1).numpy())
    slow = np.std(np.stack(stack), 0).mean((1, 2))
    np.testing.assert_allclose(found["vog"][batch.index], slow, rtol=1e-3)
    assert int((~np.isnan(found["vog"])).sum()) == 90, "VoG is of all that is served, met or not"


def test_vog_per_class_is_the_standardised_score(composed, tmp_path, uninterrupted):
    more = ("method.difficulty=vog", "method.vog_per_class=true", "method.vog_snapshots=3")
    run = carry_out(composed, tmp_path / "run", *more)
    raw, found = by_sample(rankings(uninterrupted)["vog"]), by_sample(rankings(run)["vog"])
    labels = engine.build(composed(*RUN)["dataset"], name="digits", root="unused").labels("train").numpy()
    for number in range(10):
        own = (labels == number) & ~np.isnan(raw)
        np.testing.assert_allclose(found[own], (raw[own] - raw[own].mean()) / raw[own].std(), rtol=1e-6)


def test_the_run_is_the_same_with_and_without(composed, tmp_path, uninterrupted):
    plain = carry_out(composed, tmp_path / "plain")
    assert not (plain.folder / "rankings").exists()
    first, second = weights(plain), weights(uninterrupted)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_what_a_ranking_says_of_its_origin(composed, uninterrupted):
    data = engine.build(composed(*RUN)["dataset"], name="digits", root="unused")
    for name, ranking in rankings(uninterrupted).items():
        assert (ranking.measure, ranking.run) == (name, uninterrupted.id)
        check_fits(ranking, data.sample_facts())
        result = uninterrupted.read("result.json") or {}
        told = result["facts"]["difficulty"][name]
        order = class_order(ranking, data.labels("train").numpy(), data.info.classes, np.arange(10))
        assert [int(digit) for digit in told["classes"]] == order.tolist()
        assert told["samples"] == len(ranking.index)
        assert f"figures/difficulty_{name}.png" in result["figures"]
        assert (uninterrupted.folder / f"figures/difficulty_{name}.png").stat().st_size > 5000
    assert not (uninterrupted.folder / "rankings" / "snapshots").exists(), "weights on the way are not kept"


def test_samples_that_were_never_met_are_left_out_and_told(composed, tmp_path, capsys):
    run = carry_out(composed, tmp_path / "run", "method.difficulty=entropy", "fit.steps=2", "figures=pdf")
    assert (run.read("result.json") or {})["figures"] == ["figures/difficulty_entropy.pdf"]
    assert (run.folder / "figures" / "difficulty_entropy.pdf").read_bytes().startswith(b"%PDF")
    assert len(rankings(run)["entropy"].index) == 40
    assert "rankings/entropy.npz leaves out 50 training samples" in capsys.readouterr().err


# --- stops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stop", [2, 4, 5, 8], ids=["within an epoch", "at an epoch's end", "after a snapshot", "later"]
)
def test_a_training_that_is_stopped_ends_with_the_same_rankings(composed, tmp_path, monkeypatch, uninterrupted, stop):
    step = Standard.training_step
    with monkeypatch.context() as patch:
        patch.setattr(Standard, "training_step", lambda self, *b: 1 / (self.global_step != stop) * step(self, *b))
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            carry_out(composed, tmp_path / "run", ALL, "method.vog_snapshots=3")
    assert (tmp_path / "run" / "checkpoint.ckpt").exists()
    run = carry_out(composed, tmp_path / "run", ALL, "method.vog_snapshots=3")
    assert_same(run, uninterrupted)


@pytest.mark.parametrize("place", [(DifficultyWatch, "conclude"), (Pipeline, "_keep")], ids=["before", "within"])
def test_a_stop_after_the_last_step_loses_nothing(composed, tmp_path, monkeypatch, uninterrupted, place):
    with monkeypatch.context() as patch:
        patch.setattr(*place, lambda *_: 1 / 0)
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            carry_out(composed, tmp_path / "run", ALL, "method.vog_snapshots=3")
    assert_same(carry_out(composed, tmp_path / "run", ALL, "method.vog_snapshots=3"), uninterrupted)


def test_weights_on_the_way_that_are_gone_are_named(composed, tmp_path, monkeypatch):
    given = (ALL, "method.vog_snapshots=3")
    with monkeypatch.context() as patch:
        patch.setattr(DifficultyWatch, "conclude", lambda *_: 1 / 0)
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            carry_out(composed, tmp_path / "run", *given)
    (tmp_path / "run" / "rankings" / "snapshots" / "4.pt").unlink()
    with pytest.raises(UserError, match=r"snapshots/4.pt is missing, and vog needs it; force=true restarts the run"):
        carry_out(composed, tmp_path / "run", *given)


# --- several processes ---------------------------------------------------------------------------------------------

TWO = (*RUN, "method.optimizer.name=sgd", "method.optimizer.lr=0.05", "method.difficulty=[entropy,svar,vog]")


@pytest.mark.slow
def test_two_processes_give_the_ranking_of_one(command_line, composed, tmp_path):
    one = carry_out(composed, tmp_path / "one", *TWO[len(RUN) :])
    process = command_line(*TWO, "accelerator=ddp", "accelerator.kind=cpu")
    assert process.returncode == 0, process.stderr
    two = Run(command_line.folder())
    for name, ranking in rankings(one).items():
        found, expected = by_sample(rankings(two)[name]), by_sample(ranking)
        assert (np.isnan(found) == np.isnan(expected)).all(), "all processes' samples are there"
        difference = np.abs(found - expected)[~np.isnan(found)]
        # the gradients of two processes are added in another order; a ReLU that flips changes one sample's gradient
        assert (difference < 1e-4 * np.nanmax(np.abs(expected))).mean() > 0.97, name


@pytest.mark.slow
def test_two_processes_that_are_stopped_end_with_the_same_rankings(command_line_in, tmp_path):
    given = (*RUN, ALL, "accelerator=ddp", "accelerator.kind=cpu", "fit.steps=400")
    whole, stopped = command_line_in(tmp_path / "whole"), command_line_in(tmp_path / "stopped")
    assert whole(*given).returncode == 0
    process = stopped.start(*given)
    wait_for(lambda: list((tmp_path / "stopped").glob("*/checkpoint.ckpt")), process)
    process.terminate()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert not (stopped.folder() / "weights.pt").exists(), "the run was over before it was stopped"
    assert "resuming from step" in stopped(*given).stderr
    assert_same(Run(whole.folder()), Run(stopped.folder()))


# --- what is asked for ---------------------------------------------------------------------------------------------


def test_the_order_of_the_measures_means_nothing_and_old_runs_keep_their_id(composed):
    from trust_exp.identity import run_id

    assert run_id(composed(*RUN, "method.difficulty=[vog,entropy]")) == run_id(
        composed(*RUN, "method.difficulty=[entropy,vog,entropy]")
    )
    plain = composed(*RUN)
    before = {key: value for key, value in plain["method"].items() if not key.startswith(("difficulty", "vog"))}
    assert run_id(plain) == run_id({**plain, "method": before})
    assert run_id(plain) != run_id(composed(*RUN, "method.difficulty=entropy"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("method.difficulty=entrpy", "method.difficulty must be one of entropy, svar, vog; got 'entrpy'; did you mean"),
        ("method.vog_snapshots=1", "method.vog_snapshots must be at least 2; got 1"),
        ("method.vog_snapshots=5", r"have no effect without vog in method.difficulty; got method.difficulty=\[\]"),
        ("method.vog_per_class=true", "have no effect without vog"),
    ],
)
def test_what_means_nothing_is_refused(composed, given, sentence):
    with pytest.raises(UserError, match=sentence):
        composed(*RUN, given)


# --- the figure ----------------------------------------------------------------------------------------------------


def test_the_figure_shows_the_mean_of_each_class_the_hardest_first(tmp_path, monkeypatch):
    seen = []

    @contextmanager
    def axes(path, **size):
        with style.axes(path, **size) as plot:
            yield plot
            seen.append(plot)

    monkeypatch.setattr(difficulty, "axes", axes)
    score, labels = np.array([1.0, 3.0, 7.0, 5.0, 5.0]), np.array([0, 0, 2, 2, 3])
    path = difficulty.draw_difficulty(tmp_path / "d.png", score, labels, ("a", "none", "c", "d"), "entropy")
    assert path.stat().st_size > 5000
    (plot,) = seen
    assert [text.get_text() for text in plot.get_xticklabels()] == ["c", "d", "a"]
    assert plot.lines[-1].get_ydata().tolist() == [6.0, 5.0, 2.0]
    halves = plot.collections[1].get_segments()
    assert [tuple(half[:, 1]) for half in halves] == [(5.5, 6.5), (5.0, 5.0), (1.5, 2.5)]


# --- the thesis' orders of classes ----------------------------------------------------------------------------------

PRINTED = json.loads((Path(__file__).parents[1] / "metrics" / "class_orders.json").read_text())


@pytest.mark.parametrize("name", ["cifar100", "imagenet200"])
def test_the_orders_are_those_that_the_thesis_prints(shared_data, name):
    text = (shared_data.parent / "papers" / "losch_thesis.txt").read_text()
    figure = {"cifar100": "Figure A.1:", "imagenet200": "Figure A.2:"}[name]
    before = " ".join(text[: text.index(figure + (" CIFAR-100" if name == "cifar100" else " ImageNet-200"))].split())
    order = PRINTED[name]["order"]
    assert before.endswith(", ".join(order)), "every class of the figure, in its order"
    assert len(order) == len(set(order)) == {"cifar100": 90, "imagenet200": 175}[name]


@pytest.fixture(scope="module")
def cifar(shared_data, tmp_path_factory) -> Path:
    """A data folder with the shared samples of CIFAR-10 and CIFAR-100."""
    layout, root = tmp_path_factory.mktemp("layouts"), tmp_path_factory.mktemp("data")
    script = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, script, "--to", layout, "cifar10", "cifar100"], check=True, capture_output=True)
    for name in ("cifar10", "cifar100"):
        sources.import_dataset(name, layout / name, root)
    return root


def spearman(order: list[str], printed: list[str]) -> float:
    """Rank correlation of two orders of the same names."""
    n = len(printed)
    return 1 - 6 * sum((order.index(name) - printed.index(name)) ** 2 for name in printed) / (n * (n * n - 1))


def class_order_of(composed, folder: Path, root: Path, name: str) -> dict[str, list[str]]:
    """Train a small network on the shared samples on the views of the recipe; of each measure the classes."""
    given = (f"dataset={name}", "model=conv_2c2f", "fit.epochs=30", "eval=[]", f"paths.data={root}")
    more = (
        "method.optimizer.name=adamw",
        "method.optimizer.lr=1e-3",
        "accelerator.kind=cpu",
        "method.difficulty=[entropy,svar]",
    )
    config = composed("method=standard", *given, *more)
    job = Job(config, open_run(config, folder, []), [])
    execute_and_record(job)
    told = (job.run.read("result.json") or {})["facts"]["difficulty"]
    return {measure: list(found["classes"]) for measure, found in told.items()}


@pytest.mark.slow
def test_a_small_network_finds_the_thesis_order_of_cifar10(composed, cifar, tmp_path):
    printed = PRINTED["cifar10"]["order"]
    found = class_order_of(composed, tmp_path / "run", cifar, "cifar10")
    for measure, order in found.items():
        print(f"{measure}: Spearman {spearman(order, printed):.3f}, {order}")
    # 8,000 of 50,000 images, four layers, 30 of 201 epochs
    assert spearman(found["entropy"], printed) > 0.6
    assert found["entropy"][0] == "cat"


ANIMALS = (
    "aquatic_mammals",
    "fish",
    "insects",
    "large_carnivores",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
)


def animals_first(order: list[str]) -> float:
    """How often an animal comes before a class that is none."""
    animals = {name for group in ANIMALS for name in SUPER_CLASSES[group].fine}
    places = {kind: [i for i, name in enumerate(order) if (name in animals) == kind] for kind in (True, False)}
    return float(np.mean([[one < other for other in places[False]] for one in places[True]]))


def test_the_thesis_finds_animals_hardest_among_cifar100():
    assert animals_first(PRINTED["cifar100"]["order"]) == pytest.approx(0.866, abs=5e-4)


@pytest.mark.slow
def test_a_small_network_finds_animals_hardest_among_cifar100(composed, cifar, tmp_path):
    printed = PRINTED["cifar100"]["order"]
    order = class_order_of(composed, tmp_path / "run", cifar, "cifar100")["entropy"]
    listed = [name for name in order if name in printed]
    print(f"entropy: Spearman {spearman(listed, printed):.3f}, animals first {animals_first(order):.3f}, {order}")
    # 4,000 of 50,000 images, four layers, 30 of 201 epochs
    assert spearman(listed, printed) > 0.3
    assert animals_first(order) > 0.65
