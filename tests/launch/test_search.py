"""What is said in the end of a sweep that searches."""

import json

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from tests.conftest import sweep_loader
from trust_exp.launch.search import BASIC_SWEEPER, FOUND, SaysWhatIsBest

ONE = """
name: optuna
best_params: {method.optimizer.lr: 0.01741344207469065, method: gloro}
best_value: 0.9333333333333333
"""
FRONT = """
name: optuna
solutions:
- params: {method.epsilon: 0.5, dataset.augment: "{pad: 4}"}
  values: [0.95, 3.25]
- params: {method.epsilon: 0.25}
  values: [0.9, 1.5]
"""


@pytest.fixture
def end_of(tmp_path, capsys):
    """What is printed in the end of a sweep that left some results, and whose jobs had some overrides."""

    def end(results: str | None, objective, *jobs: tuple[str, list[str]], sweeper: str = "optuna") -> list[str]:
        if results is not None:
            (tmp_path / FOUND).write_text(results)
        for number, (run, overrides) in enumerate(jobs, 1):
            (tmp_path / f"jobs-{number}.json").write_text(json.dumps([{"run": run, "overrides": overrides}]))
        config = {"objective": objective, "hydra": {"sweep": {"dir": str(tmp_path)}, "sweeper": {"_target_": sweeper}}}
        SaysWhatIsBest().on_multirun_end(OmegaConf.create(config))
        return capsys.readouterr().out.splitlines()

    return end


def test_a_study_ends_with_its_best_value_and_the_overrides_that_gave_it(end_of):
    lr = "method.optimizer.lr=0.01741344207469065"
    jobs = [("cll-digits-1", [lr, "method=cll", "seed=0"]), ("gloro-digits-2", [lr, "method=gloro", "seed=0"])]
    (said,) = end_of(ONE, "clean/accuracy", *jobs)
    assert said == f"best clean/accuracy: 0.933333 with {lr} method=gloro (gloro-digits-2)"


def test_a_study_of_several_objectives_ends_with_its_pareto_front(end_of):
    said = end_of(FRONT, ["clean/accuracy", "certify/lipschitz"], ("cll-digits-1", ["method.epsilon=0.25", "seed=0"]))
    assert said == [
        "Pareto front of clean/accuracy, certify/lipschitz: 2 of the trials",
        "  0.95, 3.25 with method.epsilon=0.5 'dataset.augment={pad: 4}'",
        "  0.9, 1.5 with method.epsilon=0.25 (cll-digits-1)",
    ]


@pytest.mark.parametrize("given", [(None, "optuna"), (ONE, BASIC_SWEEPER)], ids=["without results", "no search"])
def test_any_other_sweep_ends_without_a_word(end_of, given):
    results, sweeper = given
    assert end_of(results, "clean/accuracy", sweeper=sweeper) == []


def test_hydra_calls_it():
    _, config = sweep_loader()
    (callback,) = (instantiate(node) for node in config.hydra.callbacks.values())
    assert isinstance(callback, SaysWhatIsBest)
