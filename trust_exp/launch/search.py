"""What a sweeper that searches, such as Optuna, has found: said at the end of the sweep."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

FOUND = "optimization_results.yaml"  # as Hydra's sweepers call it
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class SaysWhatIsBest(Callback):
    """Hydra calls it; see ``hydra.callbacks`` in conf/config.yaml."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if config.hydra.sweeper._target_ == BASIC_SWEEPER or not (folder / FOUND).exists():
            return
        for line in best_of(folder, objectives_of(config)):
            print(line, flush=True)


def objectives_of(config: DictConfig) -> list[str]:
    """The metrics that a sweep optimises."""
    given = config.objective
    return [given] if isinstance(given, str) else [str(name) for name in given or ()]


def best_of(folder: Path, objectives: Sequence[str]) -> Iterator[str]:
    """Lines on the best trial, or on those of the Pareto front: value, overrides and run.

    Args:
        folder: of the sweep.
        objectives: the metrics, in the order of the values.
    """
    found: Any = OmegaConf.to_container(OmegaConf.load(folder / FOUND))
    if "solutions" not in found:
        yield f"best {' '.join(objectives)}: {found['best_value']:.6g} with {_told(found['best_params'], folder)}"
        return
    yield f"Pareto front of {', '.join(objectives)}: {len(found['solutions'])} of the trials"
    for trial in found["solutions"]:
        values = ", ".join(f"{value:.6g}" for value in trial["values"])
        yield f"  {values} with {_told(trial['params'], folder)}"


def _told(params: Mapping[str, Any], folder: Path) -> str:
    """A trial's overrides and, where the sweep's own record has it, its run."""
    overrides = [f"{key}={value}" for key, value in params.items()]
    jobs = [job for path in folder.glob("jobs-*.json") for job in json.loads(path.read_text(encoding="utf-8"))]
    runs = [job["run"] for job in jobs if set(overrides) <= set(job["overrides"])]
    return " ".join([*map(shlex.quote, overrides), *(f"({run})" for run in dict.fromkeys(runs))])
