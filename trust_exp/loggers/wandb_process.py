"""``python -m trust_exp.loggers.wandb_process``: talks to Weights & Biases for one job; see ``wandb``.

It reads JSON lines: ``{"ask": ...}`` opens a W&B run, each ``{"curves": ...}`` is logged, and ``{"result": ...}`` (the
content of result.json) closes it. If the input ends without a result, the job was killed. Its output is shown to the
user; the line "end" means that W&B has everything. Imports no torch.
"""

import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from trust_exp.loggers.credentials import has_key

CODES = {"done": 0, "failed": 1, "interrupted": 130}
KILLED = 137  # 128 + SIGKILL, as a shell says
COLUMNS: list[str | int] = ["suite", "metric", "value", "unit", "n", "low", "high", "class", "how"]
SUMMARY = ("status", "error", "started", "ended", "steps", "samples_per_second", "peak_memory_mb")
PICTURES = (".png", ".jpg", ".jpeg")
NOT_UPLOADED = "not-uploaded"  # in the folder of an online run until all of it has arrived


class TooSlow(Exception):
    """An action exceeded its time limit."""


def main() -> None:
    """Log one job."""
    # Signals are for the job; this process ends after it. W&B's service inherits the setting.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    tell = private_output()
    try:
        serve(messages(), tell)
    except Exception as error:
        tell(f"W&B is not used: {reason(error)}")
    tell("end")
    with suppress(Exception):
        within(2, stop_service)
    os._exit(0)  # even if threads still hang


def private_output() -> Callable[[str], None]:
    """A function that writes to the job; redirects wandb's own output to stderr."""
    mine = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(text: str) -> None:
        with suppress(OSError):
            print(text, file=mine, flush=True)

    return tell


def messages() -> Iterator[dict[str, Any]]:
    """The job's messages, one per line."""
    for line in sys.stdin:
        yield json.loads(line)


def serve(given: Iterator[dict[str, Any]], tell: Callable[[str], None]) -> None:
    """Open a W&B run, log the messages, and close it."""
    quieten()
    ask = next(given)["ask"]
    session = Session(ask, tell)
    result: dict[str, Any] = {"status": "killed", "error": "its process was killed"}
    for message in given:
        if "curves" in message:
            session.run.log(message["curves"])
        else:
            result = message["result"]
    session.close(result)


def quieten() -> None:
    """Silence wandb's output and error reports, unless the user has set the variables."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")


class Session:
    """One open W&B run."""

    def __init__(self, ask: Mapping[str, Any], tell: Callable[[str], None]) -> None:
        self.ask, self.tell, self.patience = ask, tell, ask["patience"]
        # Tables wait here for their upload, so they belong in the run's folder, not in a cache of this machine.
        os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(Path(ask["folder"]) / "wandb" / "cache")
        why = why_offline(ask["mode"])
        if why is None:
            try:
                self.run = self._open("online")
                (self._folder() / NOT_UPLOADED).touch()
                tell(f"W&B: {self.run.url}")
                return
            except Exception as error:
                why = f"the server could not be reached: {reason(error)}"
                with suppress(Exception):  # the service keeps trying and holds the run's id
                    within(self.patience, stop_service)
        self.run = self._open("offline")
        tell(f"W&B: offline ({why}); trust-exp wandb sync {ask['id']} uploads the run")

    @property
    def seconds(self) -> float:
        """Time limit of an action; offline it allows for a slow machine writing its own files."""
        return float(self.ask["local_seconds"] if self.run.offline else self.patience)

    def _folder(self) -> Path:
        return Path(self.run.dir).parent

    def _open(self, mode: Literal["online", "offline"]) -> Any:
        import wandb

        config, parent = self.ask["config"], self.ask["parent"]
        seconds = self.patience if mode == "online" else self.ask["local_seconds"]
        run = wandb.init(
            dir=self.ask["folder"],
            project=self.ask["project"],
            entity=self.ask["entity"],
            id=self.ask["id"],
            name=Path(self.ask["folder"]).name,
            group=config.get("sweep"),
            job_type=config["mode"],
            tags=tags_of(config, self.ask["tags"]),
            config=dict(config),
            resume="allow",
            settings=wandb.Settings(mode=mode, **settings(seconds, parent, self.ask["system"])),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    def close(self, result: Mapping[str, Any]) -> None:
        """Log the result and end the W&B run in the state of the job."""
        self.run.summary.update(summary_of(result))
        try:
            if media := self._media(result):
                within(self.seconds, lambda: self.run.log(media))
        except Exception as error:
            self.tell(f"W&B did not take the table and the figures: {reason(error)}")
        status = result["status"]
        if status == "interrupted":
            self.run.mark_preempting()  # with an exit code that is not 0, W&B then shows the run as preempted
        folder = self._folder()
        try:
            within(self.seconds + 2, lambda: self.run.finish(exit_code=CODES.get(status, KILLED)))
            (folder / NOT_UPLOADED).unlink(missing_ok=True)
        except Exception as error:
            self.tell(
                f"W&B did not take everything ({reason(error)}); trust-exp wandb sync {self.ask['id']} uploads the rest"
            )

    def _media(self, result: Mapping[str, Any]) -> dict[str, Any]:
        import wandb

        folder = Path(self.ask["folder"])
        media: dict[str, Any] = {}
        if result.get("rows"):
            media["results"] = wandb.Table(columns=COLUMNS, data=table_of(result["rows"]))
        for name in result.get("figures", []):
            path = folder / name
            if path.suffix in PICTURES and path.exists():
                media[f"figures/{path.stem}"] = wandb.Image(str(path))
        if others := [name for name in result.get("figures", []) if Path(name).suffix not in PICTURES]:
            self.tell(f"W&B shows no {Path(others[0]).suffix} figures; figures=png makes some that it shows")
        return media


def why_offline(mode: str) -> str | None:
    """Why the run is logged offline; None if it is online."""
    asked = os.environ.get("WANDB_MODE") if mode == "auto" else mode
    if asked in ("offline", "disabled", "dryrun"):
        return "as requested"
    return None if has_key() else "there is no API key, wandb login stores one"


def settings(patience: float, parent: int, system: bool) -> dict[str, Any]:
    """W&B's settings: short timeouts, and no data beyond what the user chose."""
    return {
        "init_timeout": patience,
        "login_timeout": patience,
        "finish_timeout": patience,
        "finish_timeout_raises": True,
        "stop_fn": lambda: os.kill(parent, signal.SIGINT),  # W&B's stop button: the run ends at a safe point
        "console": "off",
        "silent": True,
        "save_code": False,
        "disable_code": True,
        "disable_git": True,
        "label_disable": True,
        "sagemaker_disable": True,
        "x_save_requirements": False,
        "x_disable_meta": True,
        "x_disable_machine_info": not system,
        "x_disable_stats": not system,
        "x_stats_pid": parent,
        "x_transaction_log_flush_interval": 1.0,
        "host": "",
    }


def tags_of(config: Mapping[str, Any], more: list[str]) -> list[str]:
    """Method, data set, size and the user's own tags."""
    return list(dict.fromkeys([config["method"]["name"], config["dataset"]["name"], config["size"], *more]))


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics, status and other facts of a result.json under their names there."""
    values = {key: result.get(key) for key in SUMMARY if key in result}
    seconds = {f"seconds/{name}": value for name, value in result.get("seconds", {}).items()}
    place = result.get("environment", {})
    where = {key: place[key] for key in ("commit", "device") if key in place}
    metrics = {name: value for name, value in result.get("metrics", {}).items() if number_or_none(value) is not None}
    return {**values, **seconds, **where, **metrics}


def table_of(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """The rows of a result.json as the rows of a table with ``COLUMNS``."""
    table = []
    for row in rows:
        low, high = row["interval"] or (None, None)
        which = row["detail"].get("class")
        how = json.dumps({key: value for key, value in row["detail"].items() if key != "class"}, default=str)
        kind = None if which is None else str(which)
        value = number_or_none(row["value"])
        table.append([row["suite"], row["metric"], value, row["unit"], row["n"], low, high, kind, how])
    return table


def number_or_none(value: float | None) -> float | None:
    """None for nan, which stands for nothing measured."""
    return None if value is None or math.isnan(value) else value


def within(seconds: float, action: Callable[[], Any]) -> None:
    """Run ``action`` in a thread, with a time limit.

    Raises:
        TooSlow: if it takes longer; it may still be running.
        Exception: any exception of ``action``.
    """
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TooSlow(f"no answer within {seconds:g} s")
    if raised:
        raise raised[0]


def stop_service() -> None:
    """Stop W&B's service process."""
    import wandb

    wandb.teardown()


def reason(error: BaseException) -> str:
    """An error message of at most 120 characters."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 120 else words[:117] + "..."


if __name__ == "__main__":
    main()
