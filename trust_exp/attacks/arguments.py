"""The arguments that attacks share: their types, defaults and checks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypedDict

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from trust_exp.attacks.ball import Ball, Domain, Norm
from trust_exp.attacks.mode import attack_mode


class Threat(TypedDict, total=False):
    """Keyword arguments of every attack; with a radius they make a :class:`Ball`.

    norm: "L2" or "Linf".
    domain: range of the data, to which points are clamped after the ball, (0, 1) if not given; None: no clamping.
    """

    norm: Norm
    domain: Domain


class ImageOptions(Threat, total=False):
    """Keyword arguments of the attacks in AutoAttack, whose random numbers belong to an image and not to a batch.

    norm: "Linf" if not given.
    seed: of the random numbers, 0 if not given.
    index: names of the images, [B], int64; equal names get equal numbers. None: their places in the batch.
    """

    seed: int
    index: Tensor | None


class Attacked(NamedTuple):
    """The checked arguments of an attack: copies of images and labels, and names on the CPU."""

    ball: Ball
    label: Int64[Tensor, " B"]
    names: Int64[Tensor, " B"]
    seed: int


@contextmanager
def under_attack(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float | Float[Tensor, " B"],
    *,
    norm: Norm = "Linf",
    domain: Domain = (0.0, 1.0),
    seed: int = 0,
    index: Int64[Tensor, " B"] | None = None,
) -> Iterator[Attacked]:
    """Put ``model`` into :func:`attack_mode`, for an attack that takes :class:`ImageOptions`.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_per_image("y", y, x, torch.int64)
    index = torch.arange(len(x)) if index is None else index.cpu()
    check_per_image("index", index, x, torch.int64)
    with attack_mode(model):
        yield Attacked(Ball.around(x, epsilon, norm=norm, domain=domain), y.clone(), index, seed)


def check_per_image(name: str, given: Tensor, x: Tensor, dtype: torch.dtype) -> None:
    """Raise ValueError unless ``given`` has one value of this type for each image of ``x``."""
    if given.shape != x.shape[:1] or given.dtype != dtype:
        wanted = str(dtype).removeprefix("torch.")
        raise ValueError(f"{name} must be {wanted} of shape [{len(x)}]; got {given.dtype} {list(given.shape)}")


def check_labels(y: Int64[Tensor, " B"], logits: Float[Tensor, "B N"]) -> None:
    """Raise ValueError unless every label ([B]) names one of the classes of the logits ([B, N])."""
    if len(y) and not (int(y.min()) >= 0 and int(y.max()) < logits.shape[1]):
        raise ValueError(f"y must be labels from 0 to {logits.shape[1] - 1}; got {int(y.min())} to {int(y.max())}")
