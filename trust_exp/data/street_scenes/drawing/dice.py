"""Random choices that depend on a key alone."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Random numbers of one key, made from Philox' raw words: numpy keeps their stream over its versions."""

    def __init__(self, *key: int | str) -> None:
        digest = hashlib.sha256(repr(key).encode()).digest()
        self._bits = np.random.Philox(key=int.from_bytes(digest[:16], "little"))
        self._next: Iterator[float] = iter(())

    def array(self, n: int) -> np.ndarray:
        """Uniform in [0, 1), float64 [n]."""
        return (self._bits.random_raw(n) >> np.uint64(11)) * 2.0**-53

    def bytes(self, n: int) -> np.ndarray:
        """Uniform uint8 [n]."""
        return self._bits.random_raw(-(-n // 8)).astype("<u8").view(np.uint8)[:n]

    def random(self) -> float:
        """Uniform in [0, 1)."""
        for value in self._next:
            return value
        self._next = iter(self.array(512).tolist())
        return next(self._next)

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self.random()

    def between(self, bounds: tuple[float, float]) -> float:
        """Uniform in [bounds[0], bounds[1])."""
        return self.uniform(*bounds)

    def whole(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int((high - low + 1) * self.random())

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random() < probability

    def sign(self) -> int:
        """-1 or 1."""
        return 1 if self.random() < 0.5 else -1

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all alike."""
        return choices[int(len(choices) * self.random())]

    def weigh(self, weights: Mapping[T, float]) -> T:
        """One of the keys, with probability proportional to its weight."""
        at = self.random() * sum(weights.values())
        choices = iter(weights.items())
        choice, weight = next(choices)
        while at >= weight:
            at -= weight
            choice, weight = next(choices, (choice, at + 1))  # the sum may be a last bit too large
        return choice

    def shuffled(self, n: int) -> list[int]:
        """0..n-1 in random order."""
        keys = self.array(n).tolist()
        return sorted(range(n), key=keys.__getitem__)
