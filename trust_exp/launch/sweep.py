"""The part that all launchers share: compose the jobs, decide how each ended, return results to the sweeper."""

import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf

from trust_exp.compose import Composer
from trust_exp.errors import Interrupted, UserError
from trust_exp.job import job_of
from trust_exp.jobs import REFUSED, objective_of, sources_of
from trust_exp.launch.board import Board, plural, print_summary
from trust_exp.launch.search import BASIC_SWEEPER
from trust_exp.launch.sweep_job import GOOD, OPEN, SweepJob
from trust_exp.messages import RunFailed
from trust_exp.results.record import Record
from trust_exp.runs import check_room, is_locked, lock, set_aside, with_stored_overrides, write_json
from trust_exp.schema import check_options

OF_HYDRA = "multirun.yaml"  # what Hydra writes before any job is composed
HEADING = "--- "  # begins a line that a launcher writes to a log


WorkThrough: TypeAlias = Callable[[Sequence[SweepJob], Mapping[str, Any], Board], None]


class JobAnswer(JobReturn):
    """A job's result for the sweeper; raises the sweep's error unchanged, where Hydra would wrap it."""

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
    """Run the jobs of one batch of a sweep and print the summary.

    Raises:
        UserError: if any job's configuration is invalid; then nothing is started, and nothing is left.
        Interrupted: if the sweep was stopped; the same command continues it.
    """
    folder = Path(config.hydra.sweep.dir)
    try:
        return _launch(work_through, options, config, loader, job_overrides, first, folder)
    except UserError:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= {OF_HYDRA}:
            shutil.rmtree(folder)
            with suppress(OSError):  # there are other sweeps
                folder.parent.rmdir()
        raise


def _launch(
    work_through: WorkThrough,
    options: Mapping[str, Any],
    config: DictConfig,
    loader: ConfigLoader,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    folder: Path,
) -> list[JobReturn]:
    if config.hydra.sweeper._target_ != BASIC_SWEEPER and not config.objective:
        raise UserError("a sweeper that searches needs objective=<metric>, such as objective=clean/accuracy")
    checked = check_options(OmegaConf.to_container(OmegaConf.create(dict(options))), "hydra.launcher")
    jobs = compose(config, loader, job_overrides, first, folder.name)
    sources = add_sources(jobs)
    every = [*jobs, *sources]
    check_room(folder)
    began = time.monotonic()
    try:
        with Board(every, folder) as board:
            for job in every:
                make_ready(job, board)
            work_through([job for job in (*sources, *jobs) if job.state == "waiting"], checked, board)
    finally:
        for job in every:
            job.tidy()
        if any(job.state != "waiting" for job in every):
            print_summary(every, time.monotonic() - began)
            keep(every, folder)
    if any(job.state == "stopped" for job in every):
        raise Interrupted("the sweep was stopped")
    return [outcome(job, every) for job in jobs]


def compose(
    config: DictConfig, loader: ConfigLoader, job_overrides: Sequence[Sequence[str]], first: int, sweep: str
) -> list[SweepJob]:
    """Compose and check the jobs of a batch."""
    if not job_overrides:
        raise UserError("the sweep has no jobs: one of its ranges or lists is empty")
    shared = set.intersection(*map(set, job_overrides))
    jobs, composer = [], Composer()
    for number, given in enumerate(job_overrides, first + 1):
        overrides = with_stored_overrides(list(given))
        composed = loader.load_sweep_config(config, overrides)
        spec = job_of(composed, overrides, composer)
        spec = replace(spec, config={**spec.config, "sweep": spec.config["sweep"] or sweep})
        jobs.append(SweepJob(number, " ".join(text for text in given if text not in shared), spec))
    return jobs


def add_sources(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """Jobs for the untrained runs that ``jobs`` build on, each once, those that others build on first.

    A run that is a job of the sweep itself gets no second one.
    """
    by_folder = {job.run.folder: job for job in reversed(jobs)}
    added: list[SweepJob] = []

    def add(job: SweepJob) -> None:
        for source in sources_of(job.spec):
            other = by_folder.get(source.run.folder)
            if source.run.is_trained and not (other and other.config["force"]):
                continue
            if other is None:
                spec = replace(source, config={**source.config, "sweep": job.config["sweep"]})
                other = by_folder[source.run.folder] = SweepJob(0, "", spec)
                add(other)
                added.append(other)
                other.number = jobs[-1].number + len(added)
            job.needs.append(other)

    for job in jobs:
        with suppress(UserError):  # the folder cannot be used; make_ready reports it
            add(job)
    for source in added:
        of = [str(job.number) for job in (*jobs, *added) if source in job.needs]
        source.label = f"source of {', '.join(of)}" if len(of) < 4 else f"source of {plural(len(of), 'job')}"
    return added


def make_ready(job: SweepJob, board: Board) -> None:
    """Prepare a job's folder; a job that is done is skipped, one whose folder cannot be used fails."""
    try:
        job.new = job.new or job.run.is_new
        job.spec.open()
        if not job.config["force"] and job.spec.is_done():
            end(job, "skipped", board=board)
            return
        if job.config["force"] and job.config["mode"] == "train":
            with lock(job.run):
                set_aside(job.run)
            job.anew = True
            job.spec = replace(job.spec, config={**job.config, "force": False})
    except UserError as error:
        end(job, "failed", str(error), board)


def prepare(job: SweepJob) -> None:
    """Before each try, write the file that the job's process reads, and note the state of the run."""
    run = job.run
    job.tries += 1
    job.goes_on = job.goes_on or run.checkpoint.exists()
    job.seen = modified(run.result)
    if not job.job_file.exists():
        write_json(job.job_file, {"config": job.config, "overrides": list(job.spec.overrides)})


def give_up(job: SweepJob, board: Board) -> None:
    """Fail a job whose source has failed."""
    lost = job.lost
    if lost is not None:
        job.seen = modified(job.run.result)
        job.refused = lost.refused
        reason = f"it builds on {lost.name}, which {lost.state}: {lost.reason}"
        write_failure(job, reason)
        end(job, "failed", reason, board)


def modified(path: Path) -> int:
    """Modification time of a file in nanoseconds; 0 if it does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def judge(job: SweepJob, code: int, board: Board, *, log: Path | None = None, why: str = "") -> None:
    """Set the final state of a job whose process ended with ``code``; ``why`` is the launcher's own reason."""
    result = job.result()
    is_new = modified(job.run.result) != job.seen
    recorded = result.get("error") if result.get("status") == "failed" and is_new else ""
    reason = why or recorded or why_ended(code, job.last_words(log))
    if not job.run.folder.is_dir():
        reason = "its folder was deleted"
    if (code == 0 and result.get("status") == "done") or (not recorded and write_failure(job, reason) == "done"):
        end(job, "resumed" if job.goes_on else "done", board=board)
    else:
        job.refused = code == REFUSED
        end(job, "failed", reason, board)


def why_ended(code: int, last_words: str) -> str:
    """Why a process ended, from its exit code (negative: the signal that killed it) and the last line of its log."""
    if code < 0:
        hint = " (out of memory, perhaps)" if code == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-code).name}{hint}"
    if code == 130:
        return "stopped by a signal"
    said = "" if last_words.startswith(HEADING) else last_words.removeprefix("error: ")
    return said or f"ended with exit code {code}"


def write_failure(job: SweepJob, reason: str) -> str:
    """Record a failure in result.json that the process could not record itself; returns the run's status.

    A run that is done (its process died after writing the result, or another process did the run) stays done. If the
    file cannot be written, only the summary gives the reason.
    """
    with suppress(UserError, OSError), lock(job.run):
        if modified(job.run.result) != job.seen and job.spec.is_done():
            return "done"
        if job.run.status() == "done":  # before; only an eval failed
            return "failed"
        Record(job.run, job.config).write(status="failed", error=reason)
    return "failed"


def end(job: SweepJob, state: str, reason: str = "", board: Board | None = None) -> None:
    """Set the state of a job, and delete its file when it has ended."""
    job.state, job.reason = state, reason
    if state not in OPEN and not is_locked(job.run):  # a process that holds the run still needs the file
        with suppress(OSError):
            job.job_file.unlink(missing_ok=True)
    if board is not None:
        board.changed(job)


def keep(jobs: Sequence[SweepJob], folder: Path) -> None:
    """Write the sweep's record next to Hydra's multirun.yaml."""
    ended = [
        {
            "run": job.name,
            "overrides": list(job.spec.overrides),
            "state": job.state,
            "reason": job.reason,
            "seconds": round(job.seconds, 1),
            "tries": job.tries,
        }
        for job in jobs
    ]
    write_json(folder / f"jobs-{jobs[0].number}.json", ended)


def outcome(job: SweepJob, jobs: Sequence[SweepJob]) -> JobReturn:
    """A job's result for the sweeper: its objective or all metrics; if it failed, the error of the whole sweep."""
    returned = JobAnswer(overrides=job.spec.overrides, task_name=job.name)
    if job.state in GOOD:
        returned.status = JobStatus.COMPLETED
        returned.return_value = objective_of(job.config, job.result()["metrics"])
    else:
        failed = sum(other.state not in GOOD for other in jobs)
        returned.status = JobStatus.FAILED
        returned.return_value = RunFailed(
            f"{failed} of {plural(len(jobs), 'job')} failed; the same command runs just "
            f"{'it' if failed == 1 else 'them'} again"
        )
    return returned
