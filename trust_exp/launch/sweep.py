"""What all launchers share: composing the jobs of a sweep, judging how each ended, and what the sweeper gets back."""

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from trust_exp.compose import Composer
from trust_exp.errors import Interrupted, UserError
from trust_exp.job import Job, job_of
from trust_exp.jobs import objective_of, sources_of
from trust_exp.launch.board import Board, plural, print_summary
from trust_exp.messages import RunFailed
from trust_exp.results.record import Record
from trust_exp.runs import check_room, is_locked, lock, restart, with_stored_overrides, write_json
from trust_exp.schema import check_options

OPEN = ("waiting", "running")
GOOD = ("done", "resumed", "skipped")
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
HEADING = "--- "  # begins the part of a log that a launcher writes


@dataclass(eq=False)
class Task:
    """One job of a sweep and how it fares."""

    number: int
    label: str  # the overrides in which it differs from the other jobs
    job: Job
    state: str = "waiting"  # then running; at the end done, resumed, skipped, failed or stopped
    reason: str = ""
    tries: int = 0
    seconds: float = 0.0
    goes_on: bool = False  # whether it started from a checkpoint
    seen: int = field(default=0, repr=False)  # when result.json was last written before this try
    needs: list["Task"] = field(default_factory=list, repr=False)  # tasks whose runs this one builds on

    @property
    def name(self) -> str:
        return self.job.run.folder.name

    @property
    def ask(self) -> Path:
        """What ``python -m trust_exp.jobs`` reads."""
        return self.job.ask

    @property
    def log(self) -> Path:
        return self.job.run.folder / "log.txt"

    @property
    def is_ready(self) -> bool:
        """Whether the runs that it builds on are trained; their evals may go on."""
        return all(task.state in GOOD or task.job.run.is_trained for task in self.needs)

    @property
    def lost(self) -> "Task | None":
        """A task that it builds on and that has ended without weights."""
        ended = (task for task in self.needs if task.state not in (*OPEN, *GOOD))
        return next((task for task in ended if not task.job.run.is_trained), None)

    def result(self) -> dict[str, Any]:
        """Its result.json; empty if there is none or it is not whole."""
        with suppress(UserError):
            return self.job.run.read("result.json") or {}
        return {}

    def last_words(self, log: Path | None = None) -> str:
        """The last line that it wrote."""
        try:
            with open(log or self.log, "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


WorkThrough: TypeAlias = Callable[[Sequence[Task], Mapping[str, Any], Board], None]


class Outcome(JobReturn):
    """What a sweeper gets of a job; raises what is wrong with the sweep without a word of its own."""

    @property
    def return_value(self) -> Any:
        if self.status != JobStatus.COMPLETED:
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


def launch(
    work_through: WorkThrough,
    options: Mapping[str, Any],
    config: DictConfig,
    loader: ConfigLoader,
    job_overrides: Sequence[Sequence[str]],
    first: int,
) -> list[JobReturn]:
    """Carry out the jobs of one batch of a sweep and print how they ended.

    Raises:
        UserError: for a mistake in any job's configuration, before anything is started.
        Interrupted: if it was asked to stop; the same command goes on.
    """
    if config.hydra.sweeper._target_ != BASIC_SWEEPER and not config.objective:
        raise UserError("a sweeper that searches needs to know for what: objective=<metric>, as in clean/accuracy")
    checked = check_options(OmegaConf.to_container(OmegaConf.create(dict(options))), "hydra.launcher")
    folder = Path(config.hydra.sweep.dir)
    jobs = compose(config, loader, job_overrides, first, folder.name)
    sources = add_sources(jobs)
    tasks = [*jobs, *sources]
    check_room(folder)
    began = time.monotonic()
    try:
        with Board(tasks, folder) as board:
            for task in tasks:
                settle(task, board)
            work_through([task for task in (*sources, *jobs) if task.state == "waiting"], checked, board)
    finally:
        if any(task.state != "waiting" for task in tasks):
            print_summary(tasks, time.monotonic() - began)
            keep(tasks, folder)
    if any(task.state == "stopped" for task in tasks):
        raise Interrupted("the sweep was asked to stop")
    return [outcome(task, tasks) for task in jobs]


def compose(
    config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int, sweep: str
) -> list[Task]:
    """The checked jobs of a batch."""
    if not job_overrides:
        raise UserError("the sweep has no jobs: a range or a list in it is empty")
    shared = set.intersection(*map(set, job_overrides))
    tasks, composer = [], Composer()
    for number, given in enumerate(job_overrides, first + 1):
        overrides = with_stored_overrides(list(given))
        composed = loader.load_sweep_config(config, overrides)
        job = job_of(composed, overrides, composer)
        job = replace(job, config={**job.config, "sweep": job.config["sweep"] or sweep})
        tasks.append(Task(number, " ".join(text for text in given if text not in shared), job))
    return tasks


def add_sources(jobs: Sequence[Task]) -> list[Task]:
    """Tasks for the runs that jobs build on and that are not trained, each once, those that others build on first.

    A run that is a job of the sweep itself gets no second task.
    """
    tasks = {task.job.run.folder: task for task in reversed(jobs)}
    added: list[Task] = []

    def add(task: Task) -> None:
        for source in sources_of(task.job):
            other = tasks.get(source.run.folder)
            if source.run.is_trained and not (other and other.job.config["force"]):
                continue
            if other is None:
                job = replace(source, config={**source.config, "sweep": task.job.config["sweep"]})
                other = tasks[source.run.folder] = Task(0, "", job)
                add(other)
                added.append(other)
                other.number = jobs[-1].number + len(added)
            task.needs.append(other)

    for task in jobs:
        with suppress(UserError):  # a folder that cannot be used: settle says so
            add(task)
    for source in added:
        of = [str(task.number) for task in (*jobs, *added) if source in task.needs]
        source.label = f"source of {', '.join(of)}" if len(of) < 4 else f"source of {plural(len(of), 'job')}"
    return added


def settle(task: Task, board: Board) -> None:
    """Make a task ready to start; one that is done is skipped, one whose folder cannot be used has failed."""
    try:
        task.job.open()
        if task.job.is_done() and not task.job.config["force"]:
            end(task, "skipped", board=board)
            return
        if task.job.config["force"] and task.job.config["mode"] == "train":
            with lock(task.job.run):
                restart(task.job.run)
            task.job = replace(task.job, config={**task.job.config, "force": False})
    except UserError as error:
        end(task, "failed", str(error), board)


def prepare(task: Task) -> None:
    """Before each try: write what the job's process reads, and remember what was there."""
    run = task.job.run
    task.tries += 1
    task.goes_on = task.goes_on or run.checkpoint.exists()
    task.seen = modified(run.result)
    if not task.ask.exists():
        write_json(task.ask, {"config": task.job.config, "overrides": list(task.job.overrides)})


def give_up(task: Task, board: Board) -> None:
    """End a task that builds on one that has failed."""
    lost = task.lost
    if lost is not None:
        task.seen = modified(task.job.run.result)
        reason = f"it builds on {lost.name}, which {lost.state}: {lost.reason}"
        write_failure(task, reason)
        end(task, "failed", reason, board)


def modified(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 if there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def judge(task: Task, code: int, board: Board, *, log: Path | None = None, why: str = "") -> None:
    """End a task whose process ended with ``code``; ``why`` is said where the process could not say it itself."""
    result = task.result()
    news = modified(task.job.run.result) != task.seen
    told = result.get("error") if result.get("status") == "failed" and news else ""
    reason = why or told or explain(code, task.last_words(log))
    if not task.job.run.folder.is_dir():
        reason = "its folder was deleted"
    if (code == 0 and result.get("status") == "done") or (not told and write_failure(task, reason) == "done"):
        end(task, "resumed" if task.goes_on else "done", board=board)
    else:
        end(task, "failed", reason, board)


def explain(code: int, last_words: str) -> str:
    """Why a process ended, from its exit code (negative: the signal that killed it) and the last line of its log."""
    if code < 0:
        hint = " (out of memory, perhaps)" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    if code == 130:
        return "asked to stop from outside"
    said = "" if last_words.startswith(HEADING) else last_words.removeprefix("error: ")
    return said or f"ended with exit code {code}"


def write_failure(task: Task, reason: str) -> str:
    """Say in result.json what the process could not; returns the run's status then.

    A run that ended well meanwhile (its process died after its last word, or another one did the run) stays done. Where
    the file cannot be written the summary alone says the reason.
    """
    with suppress(UserError, OSError), lock(task.job.run):
        if modified(task.job.run.result) != task.seen and task.job.is_done():
            return "done"
        if task.job.run.status() == "done":  # before; only an eval failed
            return "failed"
        Record(task.job.run, task.job.config).write(status="failed", error=reason)
    return "failed"


def end(task: Task, state: str, reason: str = "", board: Board | None = None) -> None:
    """Note how a task ended."""
    task.state, task.reason = state, reason
    if state not in OPEN and not is_locked(task.job.run):  # else it is the file of the process that holds the run
        with suppress(OSError):
            task.ask.unlink(missing_ok=True)
    if board is not None:
        board.changed(task)


def keep(tasks: Sequence[Task], folder: Path) -> None:
    """Write the sweep's own record beside the multirun.yaml of Hydra."""
    jobs = [
        {
            "run": task.name,
            "overrides": list(task.job.overrides),
            "state": task.state,
            "reason": task.reason,
            "seconds": round(task.seconds, 1),
            "tries": task.tries,
        }
        for task in tasks
    ]
    write_json(folder / f"jobs-{tasks[0].number}.json", jobs)


def outcome(task: Task, tasks: Sequence[Task]) -> JobReturn:
    """What the sweeper gets: the metrics, or the job's objective; for a failed job the sentence on the whole sweep."""
    returned = Outcome(overrides=task.job.overrides, task_name=task.name)
    if task.state in GOOD:
        returned.status = JobStatus.COMPLETED
        returned.return_value = objective_of(task.job.config, task.result()["metrics"])
    else:
        failed = sum(other.state not in GOOD for other in tasks)
        returned.status = JobStatus.FAILED
        returned.return_value = RunFailed(
            f"{failed} of {plural(len(tasks), 'job')} failed; the same command runs just "
            f"{'it' if failed == 1 else 'them'} again"
        )
    return returned
