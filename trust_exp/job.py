"""A job: what one command does to one run. Imports no torch."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from trust_exp.check import leave_out_evals, refuse_idle_overrides
from trust_exp.compose import Composer
from trust_exp.contract import in_order
from trust_exp.data.unchanged import change_in
from trust_exp.errors import UserError
from trust_exp.identity import digest, eval_id, eval_name, folder_name
from trust_exp.overrides import key_of
from trust_exp.references import described_in
from trust_exp.runs import TRAINED_PARTS, Run, open_run, stored_parts


@dataclass(frozen=True)
class Job:
    """A checked configuration, the run that it is or evaluates, and the overrides that made it.

    ``sources`` are the jobs of the runs that it builds on and that overrides describe.
    """

    config: dict[str, Any]
    run: Run
    overrides: Sequence[str]
    sources: "tuple[Job, ...]" = ()

    @property
    def processes(self) -> int:
        return int(self.config["accelerator"]["devices"] * self.config["accelerator"]["nodes"])

    @property
    def command(self) -> list[str]:
        """The words after ``python`` that a person can repeat, wherever the job was started from."""
        stored = (*TRAINED_PARTS, "task") if self.config["mode"] == "eval" else ()  # put there by with_stored_overrides
        return ["run.py", *(text for text in self.overrides if key_of(text).part not in stored)]

    @property
    def job_file(self) -> Path:
        """The file that hands the job to another process; the same for the same job in another sweep."""
        return self.run.folder / f"job-{digest({**self.config, 'sweep': None})}.json"

    def open(self) -> None:
        """Make the run's folder, or show that what lies in it is this run.

        Raises:
            UserError: if the folder cannot be used, holds another run, or has no weights to evaluate.
        """
        if self.config["mode"] == "train":
            open_run(self.config, self.run.folder, self.overrides)
        elif not self.run.is_trained:
            raise UserError(
                f"run {self.run.id} has no weights yet (it is {self.run.status()}); train it to the end first"
            )

    def pending(self) -> dict[str, Any]:
        """The chosen evals whose rows the run does not have yet, those first whose outcomes others can use."""
        done = (self.run.read("result.json") or {}).get("evals", {})
        again = self.config["force"] and self.config["mode"] == "eval"
        return {
            name: node
            for name, node in in_order(self.config["eval"]).items()
            if again or done.get(eval_name(name, node), {}).get("id") != eval_id(node)
        }

    def is_done(self) -> bool:
        """Whether there is nothing left to do.

        Raises:
            UserError: if the numbers are there, but of data that have changed since.
        """
        done = self.run.status() == "done" and self.run.is_trained and not self.pending()
        if done:
            self.check_data()
        return done

    def check_data(self) -> None:
        """Raise UserError, naming a file, if the data that the run has seen are no longer what they were."""
        result = self.run.read("result.json") or {}
        seen = {"dataset": result.get("data"), **result.get("further_data", {})}
        for key, facts in seen.items():
            node: Any = self.config
            for part in key.split("."):
                node = node.get(part) if isinstance(node, Mapping) else None
            if not facts or not node:
                continue
            if change := change_in(node, facts, self.config["paths"]["data"]):
                name, again = self.run.folder.name, "force=true starts anew"
                if key.startswith("eval."):
                    again = f"mode=eval run={self.run.id} force=true evaluates again"
                raise UserError(f"{change} since the numbers of {name} were measured; {again}")


def job_of(config: DictConfig, overrides: Sequence[str], composer: Composer) -> Job:
    """The job that a composed configuration describes; nothing is written yet.

    Raises:
        UserError: if the configuration cannot be used.
    """
    checked = composer.check(config)
    run = Run(Path(checked["paths"]["runs"]) / composer.run_name(config))
    if checked["mode"] == "eval":
        checked = leave_out_evals(stored_parts(run, checked), composer.describe)  # by the model that was trained
    refuse_idle_overrides(overrides, checked)
    return Job(checked, run, overrides, described_jobs(checked, run.folder.parent, composer))


def described_jobs(checked: Mapping[str, Any], runs: Path, composer: Composer) -> tuple[Job, ...]:
    """The jobs of the runs that the overrides of a checked configuration describe, with those that they build on."""
    if checked["mode"] == "eval":
        return ()
    return tuple(
        Job(
            found.config,
            Run(runs / folder_name(found.config)),
            found.overrides,
            described_jobs(found.config, runs, composer),
        )
        for found in described_in(checked, composer.describe)
    )


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("SLURM_PROCID", "0") == "0"
