"""Random numbers that depend on a key alone, never on what was drawn before."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator seeded by ``key``, e.g. ``keyed_generator(seed, "augment", step)``.

    Equal keys give equal streams in every process and on every resume; different keys give independent ones.
    """
    return torch.Generator(device=device).manual_seed(_seed_of(key))


@contextmanager
def drawing_from(*key: int | str) -> Iterator[None]:
    """Have the global generators draw from ``key`` while the body runs; afterwards they go on as if it had not.

    For what takes no generator: initial weights, dropout, other people's code.
    """
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 (the one that others draw from)
    initialized = torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(list(range(torch.cuda.device_count())) if initialized else []):
            torch.manual_seed(_seed_of(key))  # of CUDA, too, if that starts within
            seed_globals(*key)
            yield
    finally:
        if not initialized:  # the seed may still wait for CUDA to start: put back what it would have used
            torch.cuda.manual_seed_all(torch.initial_seed())
        random.setstate(python)
        np.random.set_state(arrays)  # noqa: NPY002


def seed_globals(*key: int | str) -> None:
    """Seed the global generators of torch, numpy and Python by ``key``, in microseconds."""
    seed = _seed_of(key)
    # not torch.manual_seed, which takes 0.3 ms where CUDA is there but not in use
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def _seed_of(key: tuple[int | str, ...]) -> int:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
