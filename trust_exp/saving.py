"""Files that a reader finds whole, whenever it looks, and whether weights are fit to be saved."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trust_exp import durable


def save_whole(value: Any, path: Path) -> None:
    """``torch.save`` as a whole, into a folder that is made; see ``durable.put``."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.sync(path.parent.parent)
    part = path.with_suffix(".part")
    torch.save(value, part)
    durable.put(part, path)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether no tensor holds a nan or an infinity."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor.is_floating_point())
