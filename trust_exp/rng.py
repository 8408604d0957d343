"""Random generators that depend on a key alone, never on what ran before."""

import hashlib

import torch


def keyed_generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator seeded by ``key``, e.g. ``keyed_generator(seed, "augment", step)``.

    Equal keys give equal streams in every process and on every resume; different keys give independent ones.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
