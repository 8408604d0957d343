"""Files that a reader finds whole, whenever it looks, and whether weights are fit to be saved."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save_whole(value: Any, path: Path) -> None:
    """``torch.save`` by rename, into a folder that is made: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(value, part)
    os.replace(part, path)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds a nan or an infinity."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())
