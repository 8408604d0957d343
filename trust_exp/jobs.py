"""From a composed configuration to a job: what is done already is said at once, the rest goes to the engine.

Imports no torch, so that a run that is done costs half a second. A run on several processes of one machine is handed
to ``python -m trust_exp.jobs``: the processes that Lightning starts repeat that command, and never Hydra's.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from trust_exp.compose import Composer
from trust_exp.console import print_anywhere, say
from trust_exp.errors import Interrupted, UserError, unknown
from trust_exp.job import Job, is_first, job_of
from trust_exp.messages import RunFailed, exit_code_of
from trust_exp.recipes import recipe_line
from trust_exp.results.record import DRAWS
from trust_exp.results.table import print_result
from trust_exp.runs import (
    Run,
    forget,
    forget_earlier,
    holder,
    is_locked,
    lock,
    put_back,
    restart,
    set_aside,
    write_json,
)
from trust_exp.signals import handing_on

PR_SET_PDEATHSIG = 1  # of prctl(2)
REFUSED = 2  # the exit code of a mistake of the user


def start(config: DictConfig, composer: Composer) -> Any:
    """Carry out what Hydra composed; returns the objective, or all metrics.

    Raises:
        UserError: if the configuration or the run's folder cannot be used.
        RunFailed: if the run, or one that it needs, raised; result.json has the reason.
    """
    hydra = HydraConfig.get()
    run = Run(Path(hydra.runtime.output_dir))  # which Hydra has made
    new = run.is_new
    with nothing_left(run, new):
        job = job_of(config, list(hydra.overrides.task), composer)
        job.open()
        train_sources(job)
        if job.processes > 1 and "LOCAL_RANK" not in os.environ and "SLURM_NTASKS" not in os.environ:
            return objective_of(job.config, on_several_processes(job, new, replace=hydra.mode != RunMode.MULTIRUN))
        return objective_of(job.config, carry_out(job))


class SourceRefused(RunFailed):
    """A run that another one builds on was refused before its training."""


@contextmanager
def nothing_left(run: Run, new: bool) -> Iterator[None]:
    """Delete the folder that this command has made for a run (``new``) if the run is refused before it has begun."""
    try:
        yield
    except (UserError, SourceRefused):
        if new and is_first():
            forget(run)
        raise


@contextmanager
def anew(run: Run) -> Iterator[None]:
    """Start a run from scratch; if it is refused or stopped before it has begun, what it was before is put back."""
    set_aside(run)
    try:
        yield
    except BaseException as error:
        (put_back if isinstance(error, UserError | Interrupted | KeyboardInterrupt) else forget_earlier)(run)
        raise


def objective_of(config: Mapping[str, Any], metrics: Mapping[str, float]) -> Any:
    """The value that a sweeper such as Optuna gets from a run: its objective (one number or several), else all metrics.

    Raises:
        UserError: if the run has no such metric.
    """
    wanted = config["objective"]
    if not wanted:
        return dict(metrics)
    for name in wanted:
        if name not in metrics:
            raise unknown("the objective", name, metrics)
    return metrics[wanted[0]] if len(wanted) == 1 else tuple(metrics[name] for name in wanted)


def sources_of(job: Job) -> Sequence[Job]:
    """The runs that a job builds on and that overrides describe; none if the job has nothing to train.

    A run that is named by its id is trained already.
    """
    if job.config["mode"] == "eval" or (not job.config["force"] and job.is_done()):
        return ()
    return job.sources


def train_sources(job: Job) -> None:
    """Train those runs that a job builds on and that are not trained; each after those that it builds on itself.

    Raises:
        UserError: if another process is at one of them, or the data of a trained one have changed since.
        RunFailed: if one failed.
        Interrupted: if it was asked to stop; the same command goes on with it.
    """
    for source in sources_of(job):
        if source.run.is_trained:
            source.check_data()
        else:
            train_sources(source)
            train_first(source, job)


def train_first(source: Job, job: Job) -> None:
    """Train a run that a job builds on, in a process of its own; raises as ``train_sources``."""
    name = source.run.folder.name
    if not is_first() or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise UserError(f"{job.run.folder.name} needs {name}; train that first, by a command of its own")
    if by := holder(source.run):
        raise UserError(f"{job.run.folder.name} needs {name}, which is being run by {by}; wait until it is done")
    new = source.run.is_new
    source.open()
    say(f"{job.run.folder.name} needs {name}, which {what_is_left(source)}")
    write_json(source.job_file, {"config": source.config, "overrides": list(source.overrides)})
    command = [sys.executable, "-m", "trust_exp.jobs", str(source.job_file), "--parent", str(os.getpid()), "--mute"]
    sys.stdout.flush()
    with handing_on() as start_process:
        code = start_process(command, process_group=0).wait()
    if code == 130:
        raise Interrupted(f"{name} was asked to stop")
    if not source.run.is_trained:
        why = (source.run.read("result.json") or {}).get("error") or f"it ended with exit code {code}"
        if new and code == REFUSED:
            forget(source.run)
        failure = SourceRefused if code == REFUSED else RunFailed
        raise failure(f"{job.run.folder.name} needs {name}, which failed: {why}")


def on_several_processes(job: Job, new: bool, *, replace: bool) -> dict[str, float]:
    """Hand the job to ``python -m trust_exp.jobs``, in the place of this process or (in a sweep) below it."""
    write_json(job.job_file, {"config": job.config, "overrides": list(job.overrides), "new": new})
    command = [sys.executable, "-m", "trust_exp.jobs", str(job.job_file)]
    sys.stdout.flush()
    if replace:
        os.execv(sys.executable, command)
    code = subprocess.run(command).returncode
    if code:
        raise RunFailed(f"{job.run.folder.name} ended with exit code {code}")
    return dict((job.run.read("result.json") or {})["metrics"])


def what_is_left(job: Job) -> str:
    """A few words on what this command is going to do."""
    status, evals = job.run.status(), ", ".join(job.pending())
    if status is None:
        return "starts"
    if job.run.is_trained:
        return f"is trained; evals to run: {evals}"
    return f"was {'stopped' if status == 'running' else status}; it goes on with its training"


def carry_out(job: Job) -> dict[str, float]:
    """Train what is not trained, evaluate what is not evaluated, and print the result."""
    if not is_first():
        from trust_exp.engine import execute

        execute(job)
        return {}
    forced = job.config["force"] and job.config["mode"] == "train"
    with lock(job.run), anew(job.run) if forced else nullcontext():
        if not forced and drew_otherwise(job):
            say(f"{job.run.folder.name} was begun by a version that drew other random numbers; it starts anew")
            restart(job.run)
        if job.is_done():
            say(f"{job.run.folder.name} is done; force=true starts it anew")
            if job.config["fit"].get("watch") and "watched" not in (job.run.read("result.json") or {}):
                say("fit.watch was not given when it was trained, so there is nothing to look at")
        else:
            say(f"{job.run.folder.name} {what_is_left(job)}")
            if not job.config["recipe"] and not job.run.is_trained:
                say(f"recipe: {recipe_line(job.config)}")
            for name, why in job.config.get("left_out", {}).items():
                say(f"eval={name} is left out: {why.replace(f'eval={name} ', 'it ', 1)}")
            from trust_exp.engine import execute_and_record

            execute_and_record(job)
        forget_earlier(job.run)
        result = job.run.read("result.json") or {}
    print_result(result, job.run.folder)
    return dict(result["metrics"])


def drew_otherwise(job: Job) -> bool:
    """Whether a training was begun in another scheme of random numbers, in which it cannot go on.

    What is solved draws by keys of its own: it goes on.
    """
    begun = job.config["method"]["fit"] == "gradient" and not job.run.is_trained and job.run.checkpoint.exists()
    return begun and (job.run.read("result.json") or {}).get("draws", 1) != DRAWS


def main() -> None:
    """``python -m trust_exp.jobs <file> [--parent PID]``: a job, or one process of a job on several."""
    print_anywhere()
    parser = argparse.ArgumentParser(prog="python -m trust_exp.jobs")
    parser.add_argument("job", type=Path, help="the job, as a launcher wrote it")
    parser.add_argument("--parent", type=int, help="end when this process does")
    parser.add_argument("--mute", action="store_true", help="leave it to the parent to say what went wrong")
    given = parser.parse_args()
    if given.parent is not None:
        end_with(given.parent)
    run = Run(given.job.parent)

    def act() -> None:
        job, new = read_job(given.job)
        with nothing_left(run, new):
            carry_out(job)

    code = exit_code_of(act, speak=is_first() and not given.mute)
    # One that was stopped goes on with the same file when its cluster queues it again; another process that holds the
    # run may need the file for its further ranks.
    if is_first() and code != 130 and not is_locked(run):
        given.job.unlink(missing_ok=True)
    sys.exit(code)


def read_job(job_file: Path) -> tuple[Job, bool]:
    """The job that another process wrote, and whether the command that wrote it has made the run's folder.

    Raises:
        UserError: if the file is gone or not whole.
    """
    asked = Run(job_file.parent).read(job_file.name)
    if asked is None:
        raise UserError(f"{job_file} is gone: the job has ended, or its run was deleted")
    return Job(asked["config"], Run(job_file.parent), asked["overrides"]), asked.get("new", False)


def end_with(parent: int) -> None:
    """Get SIGTERM when the launcher's process ends, however that ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if "LOCAL_RANK" not in os.environ and os.getppid() != parent:
            sys.exit(130)


if __name__ == "__main__":
    main()
