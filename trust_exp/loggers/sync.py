"""Upload of offline W&B runs by ``wandb sync``, one run after another, the parts of a run in order."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trust_exp.loggers.wandb_process import NOT_UPLOADED


def parts_to_upload(folder: Path) -> list[Path]:
    """The W&B folders of a run that are not uploaded yet, oldest first; each job makes one."""
    parts = [path.parent for path in folder.glob("wandb/*run-*/*.wandb") if not is_uploaded(path.parent)]
    waiting = [part for part in parts if part.name.startswith("offline-") or (part / NOT_UPLOADED).exists()]
    return sorted({part.resolve() for part in waiting}, key=lambda part: part.name.removeprefix("offline-"))


def is_uploaded(part: Path) -> bool:
    """Whether ``wandb sync`` has marked a part as uploaded."""
    return any(part.glob("*.wandb.synced"))


def upload(parts: Sequence[Path], seconds: float) -> str | None:
    """Upload the parts of one run; returns the error, or None.

    Args:
        parts: as ``parts_to_upload`` gives them; ``wandb sync`` appends the later ones to the first.
        seconds: time limit.
    """
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, parts)]
    environment = {"WANDB_ERROR_REPORTING": "false", **os.environ}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:g} s"
    lacking = [part for part in parts if not is_uploaded(part)]
    for part in parts:
        if part not in lacking:
            (part / NOT_UPLOADED).unlink(missing_ok=True)
    return complaint(done.stdout) if lacking else None


def complaint(text: str) -> str:
    """The error in wandb's output: the first line with the word error, else the last line."""
    lines = [line.removeprefix("wandb: ").strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return next(iter([*errors, *reversed(lines)]), "wandb said nothing")
