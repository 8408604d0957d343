"""From a composed configuration to a job: what is done already is said at once, the rest goes to the engine.

Imports no torch, so that a run that is done costs half a second. A run on several processes of one machine is handed
to ``python -m trust_exp.jobs``: the processes that Lightning starts repeat that command, and never Hydra's.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trust_exp.config import check, digest, eval_id
from trust_exp.errors import UserError
from trust_exp.messages import RunFailed, exit_code_of
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
        """The chosen evals whose rows the run does not have yet; what attacks comes after what certifies."""
        done = (self.run.read("result.json") or {}).get("evals", {})
        again = self.config["force"] and self.config["mode"] == "eval"
        order = {"clean": 0, "certify": 1}
        chosen = sorted(self.config["eval"].items(), key=lambda item: order.get(item[0], 2))
        return {name: node for name, node in chosen if again or done.get(name, {}).get("id") != eval_id(node)}

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
    checked, folder, overrides = check(config), Path(hydra.runtime.output_dir), list(hydra.overrides.task)
    refuse_idle_overrides(overrides, checked["eval"])
    if checked["mode"] == "eval":
        job = Job(stored_parts(Run(folder), checked), Run(folder), [])
        if not job.run.weights.exists():
            raise UserError(
                f"run {job.run.id} has no weights yet (it is {job.run.status()}); train it to the end first"
            )
    else:
        job = Job(checked, open_run(checked, folder, overrides), overrides)
    if job.processes > 1 and "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
        return on_several_processes(job, replace=hydra.mode != RunMode.MULTIRUN)
    return carry_out(job)


def refuse_idle_overrides(overrides: Sequence[str], chosen: Mapping[str, Any]) -> None:
    """Raise UserError for a value of an eval that does not run: it would be ignored."""
    for text in overrides:
        parts = text.partition("=")[0].lstrip("+").split(".")
        if parts[0] == "eval" and len(parts) > 2 and parts[1] not in chosen:
            raise UserError(f"{text} changes nothing, as eval={parts[1]} is not chosen; there runs {', '.join(chosen)}")


def on_several_processes(job: Job, *, replace: bool) -> dict[str, float]:
    """Hand the job to ``python -m trust_exp.jobs``, in the place of this process or (in a sweep) below it."""
    ask = job.run.folder / f"job-{digest(job.config)}.json"
    write_json(ask, {"config": job.config, "overrides": list(job.overrides)})
    command = [sys.executable, "-m", "trust_exp.jobs", str(ask)]
    sys.stdout.flush()
    if replace:
        os.execv(sys.executable, command)
    code = subprocess.run(command).returncode
    if code:
        raise RunFailed(f"{job.run.folder.name} ended with exit code {code}")
    return dict((job.run.read("result.json") or {})["metrics"])


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("SLURM_PROCID", "0") == "0"


def what_is_left(job: Job) -> str:
    """What this command is going to do, in a few words."""
    status, evals = job.run.status(), ", ".join(job.pending())
    if status is None:
        return "starts"
    if job.run.weights.exists():
        return f"is trained; evals to run: {evals}"
    return f"was {'stopped' if status == 'running' else status}; it goes on with its training"


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
            say(f"{job.run.folder.name} {what_is_left(job)}")
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
    code = exit_code_of(lambda: carry_out(job), speak=is_first())
    if is_first():
        ask.unlink(missing_ok=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
