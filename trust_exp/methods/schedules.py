"""The learning rate over a training: the factor of ``lr`` at an optimiser step, which depends on the step alone.

Imports no torch. ``progress`` is the part of the way that has been gone, in [0, 1]; ``end`` is the factor at its end.
"""

import math
from collections.abc import Mapping
from typing import Any


def polynomial(start: float, end: float, power: float, progress: float) -> float:
    """Value at ``progress`` of the way from ``start`` to ``end``: v_T + (v_0 - v_T)(1 - t/T)^power.

    Source: Losch 2024, Eq. B.14.
    """
    return end + (start - end) * (1 - progress) ** power


def cosine(end: float, progress: float) -> float:
    """Half a period of a cosine, from 1 to ``end``.

    Source: Loshchilov & Hutter 2017, Eq. 5, without restarts.
    """
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2


def exponential(end: float, progress: float) -> float:
    """From 1 to ``end`` > 0, smaller by the same factor at each step."""
    return float(end**progress)


def triangular(end: float, peak: float, progress: float) -> float:
    """One cycle: linear from ``end`` up to 1 at ``peak`` in (0, 1], and linear down to ``end``.

    Source: Smith 2017; Wong et al. 2020 with end 0 and peak 1/2.
    """
    part = progress / peak if progress <= peak else (1 - progress) / (1 - peak)
    return end + (1 - end) * part


def lr_factor(options: Mapping[str, Any], step: int, total: int) -> float:
    """The factor of every learning rate at an optimiser step.

    Warm-up is linear over its W steps, (t + 1) / (W + 1), so that no step is lost at 0. What follows it goes its whole
    way over the steps that are left; milestones are fractions of the whole training.

    Args:
        options: the values of ``OptimizerConfig``.
        step: in [0, total).
        total: optimiser steps of the training.
    """
    warm = round(options["warmup"] * total)
    if step < warm:
        return (step + 1) / (warm + 1)
    schedule, end = options["schedule"], options["end"]
    if schedule == "steps":
        passed = sum(step >= round(point * total) for point in options["milestones"])
        return float(options["gamma"] ** passed)
    progress = min(1.0, (step - warm) / max(1, total - warm))
    if schedule == "polynomial":
        return polynomial(1.0, end, options["power"], progress)
    if schedule == "cosine":
        return cosine(end, progress)
    if schedule == "exponential":
        return exponential(end, progress)
    return triangular(end, options["peak"], progress)
