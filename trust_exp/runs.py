"""A run's folder: found by id, locked while in use, its status, and what of it a new command may reuse.

A run lives in ``<runs>/<method>-<dataset>-<id>/``: ``config.json`` (checked configuration and the overrides that made
it), ``result.json``, ``checkpoint.ckpt`` while it trains, ``weights.pt`` when trained. Imports no torch.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hydra.errors import OverrideParseException

from trust_exp import durable
from trust_exp.config import RootConfig
from trust_exp.errors import UserError, listed
from trust_exp.identity import identity
from trust_exp.overrides import in_quotes, key_of
from trust_exp.parsing import parse_json
from trust_exp.schema import check_node
from trust_exp.stored import malformed

LEAST_FREE_BYTES = 50 * 2**20
LOCK_TRIES = 5
MEND = "repair it, or delete the folder to start anew"  # a file of a run that cannot be used
EARLIER = ".earlier"  # the folder of results that were set aside
TRAINED_PARTS = ("method", "model", "dataset", "fit", "seed", "size", "recipe", "recipe_for", "source", "checkpoint")


class Ambiguous(UserError):
    """A name that fits several runs."""


@dataclass(frozen=True)
class Run:
    """One run's folder and what lies in it."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name.rpartition("-")[2]

    @property
    def weights(self) -> Path:
        return self.folder / "weights.pt"

    @property
    def given(self) -> Path:
        """Marks a run that trains nothing: its network lies where its configuration says."""
        return self.folder / "given"

    @property
    def is_trained(self) -> bool:
        """Whether it has the network that it is to have."""
        return self.weights.exists() or self.given.exists()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.ckpt"

    @property
    def checkpoints(self) -> list[Path]:
        """Files of a run that has not finished: one of a training, one for each process of a solved method."""
        return list(self.folder.glob("checkpoint*.ckpt"))

    @property
    def result(self) -> Path:
        return self.folder / "result.json"

    @property
    def is_new(self) -> bool:
        """Whether nothing lies in its folder yet."""
        return not self.folder.is_dir() or not any(self.folder.iterdir())

    @property
    def has_begun(self) -> bool:
        """Whether it holds anything that took time: weights, a safe point, or the rows of an eval."""
        if self.weights.exists() or self.checkpoints:
            return True
        try:
            return bool((self.read("result.json") or {}).get("evals"))
        except UserError:  # it cannot be read, so nobody knows
            return True

    def read(self, name: str) -> dict[str, Any] | None:
        """The JSON object in one of the run's files, None if there is no such file.

        Raises:
            UserError: if the file is not whole.
        """
        path = self.folder / name
        try:
            value = parse_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); {MEND}") from None
        if not isinstance(value, dict):
            raise UserError(f"{path} holds no JSON object; {MEND}")
        if wrong := malformed(name, value):
            raise UserError(f"{path}: no run writes such {wrong[0]}; {MEND}")
        return value

    def configuration(self) -> dict[str, Any]:
        """What config.json holds: ``config``, its parts checked again, and the ``overrides`` that gave it.

        Raises:
            UserError: if there is none, or it is not what a run of these methods, models and data sets writes.
        """
        path = self.folder / "config.json"
        if (stored := self.read(path.name)) is None:
            raise UserError(f"{self.folder} holds no config.json, so it is not a run")
        for key in malformed(path.name, stored, ("overrides", "config")):
            raise UserError(f"{path} lacks {key}; {MEND}")
        if stored["config"].get("seed") is None:
            raise UserError(f"{path} lacks config.seed; {MEND}")
        try:
            for part in ("method", "model", "dataset"):
                stored["config"][part] = check_node(stored["config"].get(part), part)
            for override in stored["overrides"]:
                key_of(override)
        except (UserError, OverrideParseException) as error:
            raise UserError(f"{path} cannot be used: {error}") from error
        return stored

    def status(self) -> str | None:
        """running, done, failed or interrupted; None if the run never started."""
        result = self.read("result.json")
        return None if result is None else str(result.get("status"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` so that a reader sees the old file or the new one, never half of it."""
    replace_file(path, json.dumps(value, indent=1, allow_nan=True).encode())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole, see ``durable.put``."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_bytes(content)
        durable.put(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def check_out(out: Path, endings: Collection[str]) -> None:
    """Raise UserError unless a file that the user asks for has one of the endings and can be written."""
    if out.suffix.lower() not in endings:
        raise UserError(f"--out must end in {listed(endings)}; got {out}")
    if out.is_dir():
        raise _unwritable(out, errno.EISDIR)
    if not out.absolute().parent.is_dir():
        raise _unwritable(out, errno.ENOENT)
    if not os.access(out.absolute().parent, os.W_OK):
        raise _unwritable(out, errno.EACCES)


def write_out(out: Path, content: bytes) -> None:
    """Write a file that the user asked for, by rename.

    Raises:
        UserError: if that is not possible, with the reason.
    """
    try:
        replace_file(out, content)
    except OSError as error:
        raise _unwritable(out, error.errno) from None


def _unwritable(out: Path, number: int | None) -> UserError:
    return UserError(f"cannot write {out}: {os.strerror(number or errno.EIO)}; see --out")


def find_run(runs: str | Path, name: str) -> Run:
    """The run whose folder or id is ``name``, or whose id starts with it.

    Raises:
        Ambiguous: if there is more than one.
        UserError: if there is none.
    """
    folders = [path.parent for path in Path(runs).glob("*/config.json")]
    wanted = Path(name).name
    exact = [folder for folder in folders if wanted in (folder.name, Run(folder).id)]
    found = exact or [folder for folder in folders if len(wanted) >= 4 and Run(folder).id.startswith(wanted)]
    if not found:
        raise UserError(f"run={name}: there is no such run in {runs} (it holds {len(folders)} runs)")
    if len(found) > 1:
        raise Ambiguous(f"run={name} fits {len(found)} runs: {', '.join(sorted(folder.name for folder in found))}")
    return Run(found[0])


def check_room(folder: Path) -> None:
    """Make ``folder`` and say at once if a run could not write there.

    Raises:
        UserError: if the folder cannot be made or written, or its disk has less than 50 MB left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {os.strerror(error.errno or errno.EIO)}; see paths.runs") from None
    room = shutil.disk_usage(folder).free
    if room < LEAST_FREE_BYTES:
        raise UserError(f"only {room / 2**20:.0f} MB are free for {folder}; a run needs at least 50 MB; see paths.runs")


def open_run(checked: Mapping[str, Any], folder: Path, overrides: Sequence[str]) -> Run:
    """The run of a checked configuration, its folder made or, if it is there, shown to hold the same run.

    Raises:
        UserError: if the folder cannot be used or holds another configuration.
    """
    check_room(folder)
    run = Run(folder)
    stored = run.read("config.json")
    if stored is None:
        durable.sync(folder.parent)
        write_json(folder / "config.json", {"overrides": list(overrides), "config": checked})
    elif (before := identity(stored.get("config", {}), RootConfig)) != (now := identity(checked, RootConfig)):
        differ = sorted(key for key in now if before.get(key) != now[key])
        raise UserError(f"{folder} holds another run (they differ in {', '.join(differ)}); move it away or delete it")
    return run


@contextmanager
def lock(run: Run) -> Iterator[None]:
    """Hold the run for this process; the lock ends with the process, however that ends.

    Raises:
        UserError: if another process holds it.
    """
    with open(run.folder / ".lock", "a+", encoding="utf-8") as file:
        for tries_left in reversed(range(LOCK_TRIES)):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not tries_left:
                    raise UserError(f"run {run.id} is being run by {holder(run) or 'another process'}") from None
                time.sleep(0.1)  # it may be a look by is_locked only
        if not _is_still(file, run.folder / ".lock"):
            raise UserError(f"run {run.id} was deleted by another command, which was refused; try again")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether an open file is what lies at ``path``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_locked(run: Run) -> bool:
    """Whether some process holds the run."""
    return bool(holder(run))


def holder(run: Run) -> str:
    """The process that holds the run, in words; empty if none does."""
    try:
        with open(run.folder / ".lock", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:
        return ""
    return ""


def restart(run: Run) -> None:
    """Delete a run's results, but not its configuration."""
    for path in _results(run):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _results(run: Run) -> list[Path]:
    names = ("curves", "figures", "outcomes", "rankings", "solved", "wandb")
    files = (run.result, run.weights, run.given, *run.checkpoints, *(run.folder / name for name in names))
    return [path for path in files if path.exists()]


# --- what a refused command leaves: nothing -------------------------------------------------------------------------


def forget(run: Run) -> None:
    """Delete the folder of a run that has not begun; nothing if another process holds it."""
    with suppress(UserError, OSError), lock(run):
        if run.has_begun:
            return
        shutil.rmtree(run.folder, ignore_errors=True)
    with suppress(OSError):  # a network file system keeps an open file, such as the lock, until it is closed
        run.folder.rmdir()


def set_aside(run: Run) -> None:
    """Restart a run, but keep its results until the new training has begun: ``forget_earlier`` or ``put_back`` ends it.

    If an earlier restart was cut off before it had begun, the results from before that one stay.
    """
    aside = run.folder / EARLIER
    if aside.exists() and not run.has_begun:
        restart(run)
    else:
        forget_earlier(run)
        if found := _results(run):
            aside.mkdir()
            for path in found:
                path.rename(aside / path.name)


def forget_earlier(run: Run) -> None:
    """Delete the results that were set aside."""
    shutil.rmtree(run.folder / EARLIER, ignore_errors=True)


def put_back(run: Run) -> None:
    """Put the results that were set aside back in their place; nothing of that if the run has begun."""
    aside = run.folder / EARLIER
    if aside.exists() and not run.has_begun:
        restart(run)
        for path in list(aside.iterdir()):
            path.rename(run.folder / path.name)
    forget_earlier(run)


def with_stored_overrides(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments with those of the run that ``mode=eval run=<id>`` names put before them.

    The stored overrides make recipes and sizes tune the evals as they did when the run was trained; the run's own
    stored configuration still decides what is evaluated (``stored_parts``).

    Raises:
        UserError: if there is no such run, or an argument would change what was trained.
    """
    given = dict(text.split("=", 1) for text in arguments if "=" in text and not text.startswith("-"))
    if given.get("mode") != "eval" or "run" not in given:
        return list(arguments)
    for key in given:
        if key_of(f"{key}=").part in TRAINED_PARTS:
            raise UserError(f"mode=eval evaluates run={given['run']} as it was trained; leave out {key}={given[key]}")
    runs = given.get("paths.runs") or os.environ.get("TRUST_EXP_RUNS") or "multirun"
    own_place = []
    if "paths.runs" not in given and (Path(given["run"]).expanduser() / "config.json").is_file():
        runs = str(Path(given["run"]).expanduser().resolve().parent)
        own_place.append(f"paths.runs={in_quotes(runs)}")
    stored = find_run(runs, given["run"]).configuration()
    data = Path(stored["config"].get("paths", {}).get("data", ""))
    if "paths.data" not in given and "TRUST_EXP_DATA" not in os.environ and data.is_absolute() and data.is_dir():
        own_place.append(f"paths.data={in_quotes(str(data))}")  # a run knows where its data are
    keys = {key_of(f"{key}=") for key in given}
    stored_keys = {text: key_of(text) for text in stored["overrides"]}
    kept = [text for text, key in stored_keys.items() if key not in keys and key.part in (*TRAINED_PARTS, "task")]
    return [*own_place, *kept, *arguments]


def stored_parts(run: Run, checked: Mapping[str, Any]) -> dict[str, Any]:
    """``checked`` with all that decided the weights of ``run`` taken from the run itself."""
    stored = run.configuration()["config"]
    trained = {part: stored[part] for part in TRAINED_PARTS if part in stored}
    known = {**checked.get("references", {}), **stored.get("references", {})}
    return {**checked, "source": None, **trained, **({"references": known} if known else {})}
