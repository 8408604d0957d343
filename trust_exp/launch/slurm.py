"""Job arrays on a SLURM cluster through submitit's executor: submitted, watched, judged by what they leave behind.

The queue is asked with squeue; sacct only says why a job died without a word, so that accounting is not needed.
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
from trust_exp.launch.sweep import end, explain, give_up, judge, modified, prepare, settle
from trust_exp.launch.sweep_job import OPEN, SweepJob
from trust_exp.runs import Run, write_json

TICK_SECONDS = 0.2
ACCOUNTING_TRIES = 5
STATES = {"PENDING": "waiting", "RUNNING": "running"}  # in between, such as COMPLETING, a job stays what it was
PASSED_ON = (
    *("partition", "account", "qos", "constraint", "exclude", "nodelist", "comment", "signal_delay_s"),
    *("cpus_per_task", "array_parallelism", "srun_args", "additional_parameters"),
)


def work_through(jobs: Sequence[SweepJob], options: Mapping[str, Any], board: Board) -> None:
    """Submit the jobs and watch them until each has ended; on Ctrl-C they stay in the queue.

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
    """The jobs in groups that have each run once only: two jobs on one run come one after the other."""
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
        self.gone: dict[SweepJob, int] = {}  # looks since the job has left the queue

    def run(self) -> None:
        """Submit what is not in the queue yet, as soon as what it builds on is trained, and watch all of it."""
        while self.open() and not self.requests.count:
            self.submit()
            self.look()
            self.rest()
        self.leave()

    def open(self) -> list[SweepJob]:
        """The jobs that have not ended."""
        return [job for job in self.jobs if job.state in OPEN]

    def submit(self) -> None:
        """Submit what can start, one array for each kind of resources; what an earlier sweep left is only watched."""
        for job in self.open():
            give_up(job, self.board)
        ready = [job for job in self.open() if job not in self.ids and job.is_ready]
        queue = in_queue() if ready else None
        fresh = []
        for job in ready:
            settle(job, self.board)  # a job of an earlier wave may have done it
            if job.state != "waiting":
                continue
            asked = Run(job.ask.parent).read(job.ask.name) or {}
            if queue is None and "slurm" in asked:
                raise UserError(f"squeue is silent; {job.name} may be in the queue as {asked['slurm']}; try again")
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
        """Submit jobs of the same resources as one array."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        for job in jobs:
            forget_exits(job.ask)
            job.ask.unlink(missing_ok=True)
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
                    submitted = [executor.submit(NodeJob(str(job.ask.absolute()), grace)) for job in jobs]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            for job in jobs:
                job.ask.unlink(missing_ok=True)
            queued = f" ({plural(len(self.ids), 'other job')} of the sweep stay in the queue)" if self.ids else ""
            raise UserError(f"SLURM refused the jobs: {reason_of(error)}{queued}") from error
        for job, its in zip(jobs, submitted, strict=True):
            self.ids[job] = its.job_id
            write_json(job.ask, {**(Run(job.ask.parent).read(job.ask.name) or {}), "slurm": its.job_id})
        self.board.note(f"submitted {plural(len(jobs), 'job')} as SLURM job {submitted[0].job_id.split('_')[0]}")

    def parameters(self, job: SweepJob) -> dict[str, Any]:
        """What submitit calls the options and the job's resources."""
        given = {name: self.options[name] for name in PASSED_ON if self.options[name] is not None}
        given["srun_args"] = ["--kill-on-bad-exit=1", *given["srun_args"]]
        if self.options["mem_gb"] is not None:
            given["mem"] = f"{int(self.options['mem_gb'] * 1024)}MB"
        # srun no longer inherits it from sbatch since SLURM 22.05
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
        """Nodes, tasks and GPUs that a job's accelerator asks for; a GPU for each device where there are any."""
        where = job.config["accelerator"]
        asked = {"nodes": where["nodes"], "ntasks_per_node": where["devices"]}
        if where["kind"] == "gpu" or (where["kind"] == "auto" and has_gpus(self.options["partition"])):
            asked["gpus_per_node"] = where["devices"]
        return asked

    def look(self) -> None:
        """Take note of what has started, ended, or left the queue without a word."""
        queue = in_queue()
        for job in [job for job in self.open() if job in self.ids]:
            exits = read_exits(job.ask)
            if any(ended["rank"] == 0 and ended["code"] == 0 for ended in exits):
                self.ended(job, exits)
            elif queue is None or self.ids[job] in queue:
                self.gone.pop(job, None)
                state = STATES.get(queue[self.ids[job]], job.state) if queue else job.state
                if state != job.state:
                    end(job, state, board=self.board)
            else:
                # its files may reach us a little later than the news that it left
                self.gone[job] = self.gone.get(job, 0) + 1
                if exits or self.gone[job] > 3:
                    self.ended(job, exits)

    def ended(self, job: SweepJob, exits: Sequence[Mapping[str, Any]]) -> None:
        """Judge a job that is over; every rank that failed by itself is named.

        Without exit files, as another command that watches the same jobs took them, the run's own word counts.
        """
        job.goes_on = job.goes_on or any(ended["restarts"] for ended in exits)
        bad = [ended for ended in exits if ended["code"]]
        guilty = [ended for ended in bad if ended["code"] not in STOPPED]
        own = job.result().get("status") if not exits and modified(job.run.result) != job.seen else None
        if (exits and not bad) or own == "done":
            judge(job, 0, self.board)
        elif own == "failed":
            judge(job, 1, self.board)
        elif len(guilty) == 1 and guilty[0]["rank"] == 0:
            judge(job, guilty[0]["code"], self.board, why=guilty[0]["why"])
        elif guilty:
            judge(job, 1, self.board, why="; ".join(f"rank {ended['rank']}: {words(job, ended)}" for ended in guilty))
        else:
            how = explain(bad[0]["code"], "") if bad else "ended without a result"
            judge(job, 1, self.board, why=f"{how}; SLURM says of job {self.ids[job]}: {fate(self.ids[job])}")
        forget_exits(job.ask)

    def rest(self) -> None:
        """Wait until the next look."""
        until = time.monotonic() + self.options["poll_s"]
        while self.open() and time.monotonic() < until and not self.requests.count:
            self.board.tick()
            time.sleep(TICK_SECONDS)

    def leave(self) -> None:
        """Stop watching; the jobs go on."""
        for job in self.open():
            queued = job in self.ids
            job.state = "stopped"
            job.reason = f"goes on as SLURM job {self.ids[job]}" if queued else "not started"
        if ids := sorted({name.split("_")[0] for name in self.ids.values()}):
            self.board.note(
                f"the jobs stay in the queue; the same command watches them; scancel {' '.join(ids)} ends them"
            )


@cache
def has_gpus(partition: str | None) -> bool:
    """Whether the partition's nodes offer GPUs."""
    told = output_of("sinfo", "--noheader", "--format=%G", *([f"--partition={partition}"] if partition else []))
    return told is not None and "gpu" in told


def in_queue() -> dict[str, str] | None:
    """The user's jobs that have not ended, id (``12`` or ``12_0``) -> state; None if SLURM does not answer."""
    told = output_of("squeue", "--me", "--noheader", "--array", "--format=%i %T")
    return None if told is None else dict(line.split(maxsplit=1) for line in told.splitlines() if " " in line)


def array_limit() -> int:
    """The most jobs that an array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", output_of("scontrol", "show", "config") or "")
    return max(1, int(found[1]) - 1) if found else 1000


def fate(job: str) -> str:
    """What SLURM's accounting says of a job that is gone; it may hear of the end a moment later than the queue."""
    array = job.partition("_")[0]
    for _ in range(ACCOUNTING_TRIES):
        told = output_of("sacct", "-nXP", f"--jobs={array}", "--format=JobID,State,ExitCode")
        if told is None:
            return "nothing, as there is no accounting"
        ends = {name: (state, code) for name, state, code in (line.split("|") for line in told.splitlines())}
        # jobs of an array that never started share a record such as 12_[3-7%2]
        together = next((end for name, end in ends.items() if name.startswith(f"{array}_[")), ("", ""))
        state, code = ends.get(job, together)
        if state and state not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"):
            return f"{state}, exit code {code}"
        time.sleep(1)
    return "nothing of its end"


def words(job: SweepJob, ended: Mapping[str, Any]) -> str:
    """What a rank said last."""
    told = job.result().get("error") if ended["rank"] == 0 else None
    return str(ended["why"] or told or explain(ended["code"], job.last_words(log_file(job.ask, ended["rank"]))))


def output_of(*command: str) -> str | None:
    """What a SLURM command prints, None if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def reason_of(error: Exception) -> str:
    """The line in which sbatch says what it does not like."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("sbatch:")] or lines or [type(error).__name__]
    return said[-1]
