"""From a composed configuration to a job: what is done already is said at once, the rest goes to the engine.

Imports no torch, so that a run that is done costs half a second. A run on several processes of one machine is handed
to ``python -m trust_exp.jobs``: the processes that Lightning starts repeat that command, and never Hydra's.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from trust_exp.config import check, digest, eval_id
from trust_exp.errors import UserError
from trust_exp.messages import exit_code_of
from trust_exp.results.table import print_result, say
from trust_exp.runs import Run, lock, open_run, restart, stored_parts, write_json


@dataclass(frozen=True)
class Job:
    """A checked configuration, the run that it is or evaluates, and the overrides that made it."""

    config: dict[str, Any]
    run: Run
    overrides: Sequence[str]

    @property
    def processes(self) -> int:
        return int(self.config["accelerator"]["devices"] * self.config["accelerator"]["nodes"])

    def pending(self) -> dict[str, Any]:
        """The chosen evals whose rows the run does not have yet."""
        done = (self.run.read("result.json") or {}).get("evals", {})
        return {name: node for name, node in self.config["eval"].items() if done.get(name) != eval_id(node)}

    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return self.run.status() == "done" and self.run.weights.exists() and not self.pending()


def start(config: DictConfig) -> dict[str, float]:
    """Carry out what Hydra composed; returns the metrics.

    Raises:
        UserError: if the configuration or the run's folder cannot be used.
        RunFailed: if the run raised; result.json has the reason.
    """
    hydra = HydraConfig.get()
    checked, folder = check(config), Path(hydra.runtime.output_dir)
    if checked["mode"] == "eval":
        job = Job(stored_parts(Run(folder), checked), Run(folder), [])
        if not job.run.weights.exists():
            raise UserError(
                f"run {job.run.id} is {job.run.status() or 'not started'}, not trained: nothing to evaluate"
            )
    else:
        overrides = list(hydra.overrides.task)
        job = Job(checked, open_run(checked, folder, overrides), overrides)
    if job.processes > 1 and "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
        become_processes(job)
    return carry_out(job)


def become_processes(job: Job) -> None:
    """Replace this process by the first of the several that the job asks for."""
    ask = job.run.folder / f"job-{digest(job.config)}.json"
    write_json(ask, {"config": job.config, "overrides": list(job.overrides)})
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "trust_exp.jobs", str(ask)])


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("SLURM_PROCID", "0") == "0"


def carry_out(job: Job) -> dict[str, float]:
    """Train what is not trained, evaluate what is not evaluated, and print the result."""
    if not is_first():
        from trust_exp.engine import execute

        execute(job)
        return {}
    with lock(job.run):
        if job.config["force"] and job.config["mode"] == "train":
            restart(job.run)
        if job.is_done():
            say(f"{job.run.folder.name} is done; force=true starts it anew")
        else:
            status = job.run.status()
            say(f"{job.run.folder.name} {f'is {status}; only what is missing is done' if status else 'starts'}")
            from trust_exp.engine import execute_and_record

            execute_and_record(job)
        result = job.run.read("result.json") or {}
    print_result(result, job.run.folder)
    return dict(result["metrics"])


def main() -> None:
    """``python -m trust_exp.jobs <file>``: one process of a job on several."""
    ask = Path(sys.argv[1])
    asked = json.loads(ask.read_text())
    job = Job(asked["config"], Run(ask.parent), asked["overrides"])
    sys.exit(exit_code_of(lambda: carry_out(job)))


if __name__ == "__main__":
    main()
