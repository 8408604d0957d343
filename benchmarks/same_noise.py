"""The official AutoAttack fed with the random numbers that ``trust_exp.attacks`` gives each image.

The library draws for a whole batch, so that an image's numbers depend on the others. With :func:`same_noise` the two
can be held against each other image by image; nothing but the source of the numbers is changed.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pyautoattack.autopgd_base
import pyautoattack.fab_base
import pyautoattack.square
import torch
from torch import Tensor

from trust_exp.attacks.noise import image_noise
from trust_exp.rng import keyed_generator

QUERIES = 5000


@contextmanager
def same_noise(x: Tensor, seed: int = 0) -> Iterator[None]:
    """While it lasts, the library draws for the image ``x[i]`` what the package draws for index i and this seed."""
    images = {image.numpy().tobytes(): place for place, image in enumerate(x.cpu())}
    with ExitStack() as stack:
        for module, name, source in (
            (
                pyautoattack.autopgd_base,
                "APGDAttack_targeted",
                _Starts("apgd-t", 1),
            ),  # before the class it inherits from
            (pyautoattack.autopgd_base, "APGDAttack", _Starts("apgd-ce", 0)),
            (pyautoattack.fab_base, "FABAttack", _Starts("fab", 0)),
            (pyautoattack.square, "SquareAttack", _Windows()),
        ):
            source.images, source.seed = images, seed
            stack.enter_context(source.installed(module, getattr(module, name)))
        yield


class _Source:
    """Stands for ``torch`` in a module of the library while one of its attacks runs."""

    images: dict[bytes, int]
    seed: int

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def places(self, x: Tensor) -> Tensor:
        return torch.tensor([self.images[image.cpu().numpy().tobytes()] for image in x])

    @contextmanager
    def installed(self, module: Any, attack: Any) -> Iterator[None]:
        perturb, run = attack.perturb, attack.attack_single_run

        def watched_perturb(this: Any, *args: Any, **kwargs: Any) -> Tensor:
            self.run = -1
            result: Tensor = perturb(this, *args, **kwargs)
            return result

        def watched_run(this: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.run += 1
            self.begin(this, x)
            with patch.object(module, "torch", self):
                return run(this, x, *args, **kwargs)

        with patch.object(attack, "perturb", watched_perturb), patch.object(attack, "attack_single_run", watched_run):
            yield

    def begin(self, attack: Any, x: Tensor) -> None:
        raise NotImplementedError


class _Starts(_Source):
    """Random starts of APGD and FAB, one draw a run."""

    def __init__(self, name: str, first: int) -> None:
        self.name, self.first = name, first

    def begin(self, attack: Any, x: Tensor) -> None:
        self.rows = self.places(x)

    def rand(self, shape: Any) -> Tensor:
        return image_noise(torch.rand, shape[1:], self.rows, self.seed, self.name, *self._number())

    def randn(self, shape: Any) -> Tensor:
        return image_noise(torch.randn, shape[1:], self.rows, self.seed, self.name, *self._number())

    def _number(self) -> tuple[int, ...]:
        return (self.run + self.first,)


class _Windows(_Source):
    """Windows of Square, the same for all images, and the images' own signs."""

    def begin(self, attack: Any, x: Tensor) -> None:
        _, channels, height, width = x.shape
        self.rows, self.left, self.x = self.places(x), torch.arange(len(x)), x
        self.drawn = 0
        generator = keyed_generator(self.seed, "square")
        if attack.norm == "Linf":
            self.own = image_noise(torch.rand, (channels, 1, width), self.rows, self.seed, "square")
            self.shared = iter(torch.rand(QUERIES, 2 + channels, generator=generator).flatten())
            return
        tiles = (height // (height // 5)) * (width // (height // 5))
        turned = torch.rand(tiles, generator=generator)
        self.shared = iter(torch.cat((turned, torch.rand(QUERIES, 5, generator=generator).flatten())))
        self.own = image_noise(torch.rand, (tiles + QUERIES, channels), self.rows, self.seed, "square")
        self.own = self.own[..., None, None]

    @contextmanager
    def installed(self, module: Any, attack: Any) -> Iterator[None]:
        check_shape = attack.check_shape

        def watched_check(this: Any, x: Tensor) -> Tensor:
            result: Tensor = check_shape(this, x)
            if len(result) < len(self.left):  # images only leave: an equal number means the same images
                self._keep(result)
            return result

        with super().installed(module, attack), patch.object(attack, "check_shape", watched_check):
            yield

    def _keep(self, x: Tensor) -> None:
        known = {int(place): row for row, place in enumerate(self.rows)}
        self.left = torch.tensor([known[int(place)] for place in self.places(x)], dtype=torch.int64)

    def rand(self, shape: Any) -> Tensor:
        if len(shape) == 4:
            if self.own.ndim == 4:
                return self.own
            self.drawn += 1
            return self.own[self.left, self.drawn - 1]
        count = torch.Size(shape).numel()
        return torch.stack([next(self.shared) for _ in range(count)]).view(*shape)
