"""Two moons with uniform noise (Losch 2024, sec. 4.3.2 and B.2)."""

import math
from typing import Any

import torch

from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.module import ArrayDataModule
from trust_exp.rng import keyed_generator


class TwoMoons(ArrayDataModule):
    """Points on scikit-learn's two half circles, each moved uniformly within a disc; half of them in each class.

    The half circles are 0.5 apart, so with a noise radius of 0.1 the classes are at least 0.3 apart: the thesis' true
    margin, 2 epsilon = 0.3.
    """

    def __init__(
        self,
        name: str = "two_moons",
        *,
        points: int = 2000,
        test_points: int = 20000,
        noise_radius: float = 0.1,
        **common: Any,
    ) -> None:
        super().__init__(name, **common)
        self.points: dict[Split, int] = {"train": points, "test": test_points}
        self.noise_radius = noise_radius

    def describe(self) -> DatasetInfo:
        return DatasetInfo("two_moons", ("upper moon", "lower moon"), (2,), None)

    def load(self, split: Split) -> Arrays:
        return two_moons(self.points[split], self.noise_radius, keyed_generator("two_moons", split))


def two_moons(points: int, noise_radius: float, generator: torch.Generator) -> Arrays:
    """Two half circles with noise uniform in area: float32 [N, 2], labels 0 (upper) and 1 (lower).

    Source: Losch 2024, sec. 4.3.2; the curves are ``sklearn.datasets.make_moons`` without noise.
    """
    from sklearn.datasets import make_moons

    curve, label = make_moons(points, shuffle=False, noise=None)
    u, turn = torch.rand(2, points, generator=generator, dtype=torch.float64)
    radius, angle = noise_radius * u.sqrt(), 2 * math.pi * turn
    noise = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    # In random order, so that the first points are a fair sample: make_moons follows the curves, class by class.
    order = torch.randperm(points, generator=generator)
    return Arrays((torch.from_numpy(curve) + noise).float()[order], torch.from_numpy(label).long()[order])
