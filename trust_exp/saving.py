"""Files that a reader finds whole, whenever it looks."""

import os
from pathlib import Path
from typing import Any

import torch


def save_whole(value: Any, path: Path) -> None:
    """``torch.save`` by rename, into a folder that is made: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(value, part)
    os.replace(part, path)
