"""Prototypes of any classifier, solved by the eval that asks for them."""

import pytest
import torch
from torch import nn

from trust_exp import engine
from trust_exp.engine import execute_and_record
from trust_exp.errors import Interrupted, UserError
from trust_exp.identity import eval_id
from trust_exp.job import Job
from trust_exp.models.prototype_options import PrototypeOptions
from trust_exp.models.prototype_solver import PrototypeSolver
from trust_exp.runs import Run, restart

RESNET = ("model=cifar_resnet20", "model.depth=8", "model.mean=null", "model.std=null")
FLAT = ("model=conv_2c2f",)
SMALL = ("dataset.limit_train=200", "dataset.limit_test=60", "eval.prototypes.deletion=20")
FEW = ("eval.prototypes.solve.compare=[1]", "eval.prototypes.solve.steps=10")


@pytest.fixture
def asked(composed, stored):
    """Asks a run with random weights for its prototypes; the run afterwards."""

    def ask(*more: str, network: tuple[str, ...] = RESNET, pictures: int = 1) -> Run:
        common = ("method=standard", "dataset=digits", *network, *SMALL, "eval=[clean,prototypes]")
        config = composed(*common, f"eval.prototypes.pictures={pictures}", *more)
        run = ask.run if hasattr(ask, "run") else stored(config)
        ask.run = run
        execute_and_record(Job(config, run, []))
        return run

    return ask


def values(run: Run) -> dict[str, float]:
    found: dict[str, float] = (run.read("result.json") or {})["metrics"]
    return found


def test_prototypes_are_solved_on_the_way_and_the_weights_stay_as_they_are(asked):
    run = asked(*FEW)
    before = run.weights.read_bytes()
    found = values(run)
    assert found["prototypes/accuracy@3"] == found["prototypes/black_box_accuracy"] == found["clean/accuracy"]
    assert found["prototypes/largest_logit_gap"] < 1e-4
    assert found["prototypes/feature_error@3"] < found["prototypes/feature_error@1"]
    assert {"prototypes/deletion", "prototypes/head_error@1", "prototypes/similarity@3"} <= found.keys()
    assert (run.folder / "figures" / "prototypes_0.png").exists()
    (kept,) = (run.folder / "solved").iterdir()
    content = torch.load(kept, weights_only=True)["found"]
    shapes = {tuple(value.shape) for counts in content.values() for parts, _ in counts.values() for value in parts}
    assert shapes == {(1, 3, 64), (1, 1, 64), (1, 3), (1, 1), (1, 64)}, "no weights of the network"
    asked(*FEW, "eval.prototypes.images=5")
    assert run.weights.read_bytes() == before


def test_what_was_solved_is_used_again_for_the_same_options_alone(asked, monkeypatch):
    solved, solve = [], PrototypeSolver.solve
    monkeypatch.setattr(PrototypeSolver, "solve", lambda self, task: solved.extend(task) or solve(self, task))
    first = values(asked(*FEW, pictures=0))
    assert solved == list(range(10))
    other_pictures = values(asked(*FEW))
    assert solved == list(range(10)), "nothing is solved again"
    assert other_pictures == first
    asked(*FEW, "eval.prototypes.solve.restarts=2")
    assert len(solved) == 20
    files = sorted((asked.run.folder / "solved").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert values(asked(*FEW, pictures=0)) == first, "what is damaged is solved again"
    assert len(solved) == 30
    restart(asked.run)
    assert not (asked.run.folder / "solved").exists()


def test_a_network_without_places_has_no_pictures(asked):
    run = asked(*FEW, network=FLAT)
    found = values(run)
    assert found["prototypes/largest_logit_gap"] < 1e-4
    assert "prototypes/deletion" not in found
    assert not (run.folder / "figures").exists()


def test_prototypes_on_other_data_are_of_their_training_images(asked):
    own = ("dataset@eval.prototypes.data=digits", "eval.prototypes.data.limit_test=30")
    run = asked(*FEW, *own, "eval.prototypes.data.limit_train=100", pictures=0)
    other = values(run)
    asked(*FEW, pictures=0)
    assert len(list((run.folder / "solved").iterdir())) == 2
    assert other["prototypes@digits/feature_error@3"] < values(run)["prototypes/feature_error@3"], "fewer images"


def test_a_network_that_has_no_linear_head_is_one_sentence_and_its_run_stays_done(asked, monkeypatch):
    make = engine.make_network
    monkeypatch.setattr(engine, "load_state", lambda *_: None)
    monkeypatch.setattr(
        engine, "make_network", lambda *given, **more: nn.Sequential(make(*given, **more), nn.Softmax(1))
    )
    with pytest.raises(UserError, match="is not linear, so its decision is not a sum over prototypes"):
        asked(*FEW)
    assert asked.run.status() == "done"


def test_an_eval_that_was_interrupted_starts_again(asked, monkeypatch):
    def stopped(self, task):
        if 9 in task:
            raise Interrupted("SIGINT")
        return solve(self, task)

    solve = PrototypeSolver.solve
    with monkeypatch.context() as patch:
        patch.setattr(PrototypeSolver, "solve", stopped)
        with pytest.raises(Interrupted):
            asked(*FEW, pictures=0)
    assert not (asked.run.folder / "solved").exists()
    assert values(asked(*FEW, pictures=0))["prototypes/largest_logit_gap"] < 1e-4


def test_options_of_its_own_are_another_question(composed):
    common = ("method=standard", "dataset=digits", "eval=[prototypes]")
    usual, five = (
        composed(*common, *more)["eval"]["prototypes"] for more in ([], ["eval.prototypes.solve.prototypes=5"])
    )
    assert eval_id(usual) == "95b7b10d68", "that of evals of before there were options"
    assert eval_id({key: value for key, value in usual.items() if key != "solve"}) == "95b7b10d68"
    assert eval_id(five) != eval_id(usual)
    assert PrototypeOptions(**five["solve"]).counts == [5, 1, 10], "each number once"
    with pytest.raises(UserError, match=r"eval\.prototypes\.solve\.by must be one of nmf, .*; got 'nm'"):
        composed(*common, "eval.prototypes.solve.by=nm")


@pytest.mark.slow
def test_two_processes_find_what_one_finds(composed_in, stored, command_line):
    common = (
        "method=standard",
        "dataset=digits",
        *RESNET,
        *SMALL,
        "eval=[clean,prototypes]",
        "eval.prototypes.pictures=0",
    )
    run = stored(composed_in(command_line.runs, *common))
    given = ("mode=eval", f"run={run.id}", "eval=[prototypes]", *SMALL[2:], "eval.prototypes.pictures=0", *FEW)
    found = []
    for more in (("accelerator=cpu",), ("accelerator=ddp", "accelerator.kind=cpu")):
        process = command_line(*given, *more)
        assert process.returncode == 0, process.stderr
        (kept,) = (run.folder / "solved").iterdir()
        found.append((values(run), torch.load(kept, weights_only=True)["found"]))
        restart(run)
        run = stored(composed_in(command_line.runs, *common))
    (one, parts), (two, others) = found
    assert one == pytest.approx(two, rel=1e-5, abs=1e-6)
    assert parts.keys() == others.keys() == set(range(10))
