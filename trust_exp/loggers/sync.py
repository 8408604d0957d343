"""Uploads what W&B runs have left on disk, by ``wandb sync``: run after run and part after part, in their order."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from trust_exp.loggers.wandb_process import NOT_UPLOADED


def parts_to_upload(folder: Path) -> list[Path]:
    """The folders of W&B in a run's folder that still are to be uploaded, oldest first; a job makes one."""
    parts = [path.parent for path in folder.glob("wandb/*run-*/*.wandb") if not is_uploaded(path.parent)]
    waiting = [part for part in parts if part.name.startswith("offline-") or (part / NOT_UPLOADED).exists()]
    return sorted({part.resolve() for part in waiting}, key=lambda part: part.name.removeprefix("offline-"))


def is_uploaded(part: Path) -> bool:
    """Whether ``wandb sync`` has marked a part as uploaded."""
    return any(part.glob("*.wandb.synced"))


def upload(parts: Sequence[Path], seconds: float) -> str | None:
    """Upload the parts of one run; returns what went wrong, None if nothing did.

    Args:
        parts: as ``parts_to_upload`` gives them; ``wandb sync`` appends the later ones to the first.
        seconds: when to give up.
    """
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *map(str, parts)]
    environment = {"WANDB_ERROR_REPORTING": "false", **os.environ}
    try:
        told = subprocess.run(
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
    return complaint(told.stdout) if lacking else None


def complaint(text: str) -> str:
    """What wandb says about a failure: its line with an error, else its last one."""
    lines = [line.removeprefix("wandb: ").strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return next(iter([*errors, *reversed(lines)]), "wandb said nothing")
