"""Job arrays on a SLURM cluster through submitit's executor: submit, watch, and read the files that jobs leave.

squeue gives the state of jobs. sacct only explains why a job died without a result, so accounting is optional.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from trust_exp.errors import UserError
from trust_exp.launch.board import Board, plural
from trust_exp.launch.node import STOPPED, NodeJob, forget_exits, log_file, read_exits
from trust_exp.launch.process import StopRequests, handling_signals
from trust_exp.launch.sweep import end, give_up, judge, make_ready, modified, prepare, why_ended
from trust_exp.launch.sweep_job import OPEN, SweepJob
from trust_exp.runs import Run, write_json

TICK_SECONDS = 0.2
ACCOUNTING_TRIES = 5
USUAL_REASONS = ("", "None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit")  # its turn comes
STATES = {"PENDING": "waiting", "RUNNING": "running"}  # in other states, such as COMPLETING, a job keeps its state
PASSED_ON = (
    *("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment", "signal_delay_s"),
    *("cpus_per_task", "array_parallelism", "srun_args", "additional_parameters"),
)


def work_through(jobs: Sequence[SweepJob], options: Mapping[str, Any], board: Board) -> None:
    """Submit the jobs and watch them until each has ended; Ctrl-C leaves them in the queue.

    Raises:
        UserError: if there is no SLURM here or it refuses the jobs.
    """
    for program in ("sbatch", "squeue", "srun"):
        if shutil.which(program) is None:
            raise UserError(f"hydra/launcher=slurm needs {program}, which is not on the PATH; see trust-exp doctor")
    requests = StopRequests()
    with handling_signals(requests):
        for wave in waves(jobs):
            Cluster(wave, options, board, requests).run()


def waves(jobs: Sequence[SweepJob]) -> Iterator[list[SweepJob]]:
    """Split the jobs into groups without duplicate runs: two jobs on one run are submitted one after the other."""
    left = list(jobs)
    while left:
        first = {job.run.folder: job for job in reversed(left)}
        yield [job for job in left if first[job.run.folder] is job]
        left = [job for job in left if first[job.run.folder] is not job]


class Cluster:
    """Jobs in SLURM's queue."""

    def __init__(
        self, jobs: Sequence[SweepJob], options: Mapping[str, Any], board: Board, requests: StopRequests
    ) -> None:
        self.jobs, self.options, self.board, self.requests = jobs, options, board, requests
        self.ids: dict[SweepJob, str] = {}
        self.gone: dict[SweepJob, int] = {}  # how many queries ago the job left the queue
        self.said: set[str] = set()  # why jobs wait, each reason once

    def run(self) -> None:
        """Submit jobs as soon as their sources are trained, and watch them until they end."""
        while self.open() and not self.requests.count:
            self.submit()
            self.look()
            self.rest()
        self.leave()

    def open(self) -> list[SweepJob]:
        """The jobs that have not ended."""
        return [job for job in self.jobs if job.state in OPEN]

    def submit(self) -> None:
        """Submit the jobs that can start, one array per kind of resources, except those that are already queued."""
        for job in self.open():
            give_up(job, self.board)
        ready = [job for job in self.open() if job not in self.ids and job.is_ready]
        queue = in_queue() if ready else None
        fresh = []
        for job in ready:
            make_ready(job, self.board)  # a job of an earlier wave may have done it
            if job.state != "waiting":
                continue
            asked = Run(job.job_file.parent).read(job.job_file.name) or {}
            if queue is None and "slurm" in asked:
                raise UserError(f"squeue does not answer, and {job.name} may be queued as {asked['slurm']}; try again")
            if queue and asked.get("slurm") in queue:
                self.ids[job], job.seen = asked["slurm"], modified(job.run.result)
                self.board.note(f"{job.name} is in the queue as {asked['slurm']}")
            else:
                fresh.append(job)
        arrays: dict[str, list[SweepJob]] = {}
        for job in fresh:
            arrays.setdefault(str(self.resources(job)), []).append(job)
        limit = array_limit()
        for alike in arrays.values():
            for at in range(0, len(alike), limit):
                self.submit_array(alike[at : at + limit])

    def submit_array(self, jobs: Sequence[SweepJob]) -> None:
        """Submit jobs with the same resources as one array."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        for job in jobs:
            forget_exits(job.job_file)
            job.job_file.unlink(missing_ok=True)
            prepare(job)
        folder = self.board.folder / "slurm"
        where = {name: value for name, value in os.environ.items() if name == "SLURM_CONF"}
        grace = max(5.0, self.options["signal_delay_s"] - 15.0)
        try:
            with submitit.helpers.clean_env():  # or jobs submitted from within a job would inherit from it
                os.environ.update(where)
                executor = submitit.SlurmExecutor(folder, max_num_timeout=self.options["max_num_timeout"])
                executor.update_parameters(**self.parameters(jobs[0]))
                with executor.batch():
                    submitted = [executor.submit(NodeJob(str(job.job_file.absolute()), grace)) for job in jobs]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            for job in jobs:
                job.job_file.unlink(missing_ok=True)
            queued = f" ({plural(len(self.ids), 'other job')} of the sweep stay in the queue)" if self.ids else ""
            raise UserError(f"SLURM refused the jobs: {reason_of(error)}{queued}") from error
        for job, its in zip(jobs, submitted, strict=True):
            self.ids[job] = its.job_id
            write_json(job.job_file, {**(Run(job.job_file.parent).read(job.job_file.name) or {}), "slurm": its.job_id})
        self.board.note(f"submitted {plural(len(jobs), 'job')} as SLURM job {submitted[0].job_id.split('_')[0]}")

    def parameters(self, job: SweepJob) -> dict[str, Any]:
        """The options and the job's resources under submitit's names."""
        given = {name: self.options[name] for name in PASSED_ON if self.options[name] is not None}
        given["srun_args"] = ["--kill-on-bad-exit=1", *given["srun_args"]]
        if self.options["mem_gb"] is not None:
            given["mem"] = f"{int(self.options['mem_gb'] * 1024)}MB"
        # since SLURM 22.05 srun does not inherit it from sbatch
        setup = ["export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK", *self.options["setup"]]
        return {
            **given,
            **self.resources(job),
            "job_name": "trust_exp",
            "time": self.options["timeout_min"],
            "stderr_to_stdout": True,
            "setup": setup,
        }

    def resources(self, job: SweepJob) -> dict[str, int]:
        """Nodes, tasks and GPUs for a job's accelerator; one GPU per device if the partition has GPUs."""
        where = job.config["accelerator"]
        asked = {"nodes": where["nodes"], "ntasks_per_node": where["devices"]}
        if where["kind"] == "gpu" or (where["kind"] == "auto" and has_gpus(self.options["partition"])):
            asked["gpus_per_node"] = where["devices"]
        return asked

    def look(self) -> None:
        """Update the state of jobs that have started, ended, or left the queue."""
        queue = in_queue()
        for job in [job for job in self.open() if job in self.ids]:
            exits = read_exits(job.job_file)
            if any(ended["rank"] == 0 and ended["code"] == 0 for ended in exits):
                self.ended(job, exits)
            elif queue is None or self.ids[job] in queue:
                self.gone.pop(job, None)
                if queue:
                    self.queued(job, *queue[self.ids[job]])
            else:
                # on a network file system its files may appear a little after it left the queue
                self.gone[job] = self.gone.get(job, 0) + 1
                if exits or self.gone[job] > 3:
                    self.ended(job, exits)

    def queued(self, job: SweepJob, state: str, reason: str) -> None:
        """Set the state of a job in the queue, and say once why it waits if it is not simply its turn."""
        if STATES.get(state, job.state) != job.state:
            end(job, STATES[state], board=self.board)
        if state == "PENDING" and reason not in (*USUAL_REASONS, *self.said):
            self.said.add(reason)
            self.board.note(f"SLURM does not start job {self.ids[job]}: {reason}; scontrol show job {self.ids[job]}")

    def ended(self, job: SweepJob, exits: Sequence[Mapping[str, Any]]) -> None:
        """Set the state of an ended job; the reason names each rank that failed by itself.

        If another command that watches the job took the exit files, the run's result.json decides.
        """
        job.goes_on = job.goes_on or any(ended["restarts"] for ended in exits)
        bad = [ended for ended in exits if ended["code"]]
        failed = [ended for ended in bad if ended["code"] not in STOPPED]
        own = job.result().get("status") if not exits and modified(job.run.result) != job.seen else None
        if (exits and not bad) or own == "done":
            judge(job, 0, self.board)
        elif own == "failed":
            judge(job, 1, self.board)
        elif len(failed) == 1 and failed[0]["rank"] == 0:
            judge(job, failed[0]["code"], self.board, why=failed[0]["why"])
        elif failed:
            judge(
                job,
                1,
                self.board,
                why="; ".join(f"rank {ended['rank']}: {reason_of_rank(job, ended)}" for ended in failed),
            )
        else:
            how = why_ended(bad[0]["code"], "") if bad else "ended without a result"
            judge(job, 1, self.board, why=f"{how}; SLURM says of job {self.ids[job]}: {fate(self.ids[job])}")
        forget_exits(job.job_file)

    def rest(self) -> None:
        """Wait until the next query."""
        until = time.monotonic() + self.options["poll_s"]
        while self.open() and time.monotonic() < until and not self.requests.count:
            self.board.tick()
            time.sleep(TICK_SECONDS)

    def leave(self) -> None:
        """Stop watching; the jobs stay in the queue."""
        left = [self.ids[job] for job in self.open() if job in self.ids]
        for job in self.open():
            job.state = "stopped"
            job.reason = f"goes on as SLURM job {self.ids[job]}" if job in self.ids else "not started"
        if ids := sorted({name.split("_")[0] for name in left}):
            self.board.note(
                f"the jobs stay in the queue; the same command watches them; scancel {' '.join(ids)} ends them"
            )


@cache
def has_gpus(partition: str | None) -> bool:
    """Whether the partition's nodes have GPUs."""
    answer = output_of("sinfo", "--noheader", "--format=%G", *([f"--partition={partition}"] if partition else []))
    return answer is not None and "gpu" in answer


def in_queue() -> dict[str, tuple[str, str]] | None:
    """The user's unfinished jobs: id (``12`` or ``12_0``) -> state, and why it waits; None if SLURM does not answer."""
    answer = output_of("squeue", "--me", "--noheader", "--array", "--format=%i|%T|%r")
    if answer is None:
        return None
    lines = (line.split("|", 2) for line in answer.splitlines() if line.count("|") >= 2)
    return {name.strip(): (state.strip(), reason.strip()) for name, state, reason in lines}


def array_limit() -> int:
    """The maximum number of jobs in an array."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", output_of("scontrol", "show", "config") or "")
    return max(1, int(found[1]) - 1) if found else 1000


def fate(job: str) -> str:
    """State and exit code of an ended job from SLURM's accounting, which may lag behind the queue."""
    array = job.partition("_")[0]
    for _ in range(ACCOUNTING_TRIES):
        answer = output_of("sacct", "-nXP", f"--jobs={array}", "--format=JobID,State,ExitCode")
        if answer is None:
            return "nothing, as there is no accounting"
        ends = {name: (state, code) for name, state, code in (line.split("|") for line in answer.splitlines())}
        # jobs of an array that never started share a record such as 12_[3-7%2]
        together = next((end for name, end in ends.items() if name.startswith(f"{array}_[")), ("", ""))
        state, code = ends.get(job, together)
        if state and state not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"):
            return f"{state}, exit code {code}"
        time.sleep(1)
    return "nothing about its end"


def reason_of_rank(job: SweepJob, ended: Mapping[str, Any]) -> str:
    """The reason why a rank failed."""
    error = job.result().get("error") if ended["rank"] == 0 else None
    return str(ended["why"] or error or why_ended(ended["code"], job.last_words(log_file(job.job_file, ended["rank"]))))


def output_of(*command: str) -> str | None:
    """The output of a SLURM command, None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def reason_of(error: Exception) -> str:
    """The line of an error message in which sbatch gives the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("sbatch:")] or lines or [type(error).__name__]
    return said[-1]
