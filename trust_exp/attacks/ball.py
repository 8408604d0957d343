"""The threat model: a norm ball around each image, and the geometry that depends on the norm."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from trust_exp.errors import UserError, check_choice

Norm = Literal["L2", "Linf"]
Domain = tuple[float, float] | None


TOLERANCE = 1e-6  # how far, relative to the radius, rounding may move a point that still counts as inside


def check_radius(key: str, epsilon: float, norm: Norm, domain: Domain, shape: Sequence[int]) -> None:
    """Raise UserError if the ball around any image holds all others: then the radius is meant in other units.

    Args:
        key: of the radius in the configuration.
        epsilon: the radius, in the units of the images.
        norm, domain: as of a ``Ball``; an unbounded domain is never covered.
        shape: of one image, (C, H, W) or (D,).
    """
    if domain is None:
        return
    diameter = (domain[1] - domain[0]) * (math.sqrt(math.prod(shape)) if norm == "L2" else 1)
    if epsilon > diameter:
        lowest, highest = (f"{limit:g}" for limit in domain)
        raise UserError(
            f"{key}={epsilon:g} covers all images in {norm}, as they are in [{lowest}, {highest}]; "
            f"for {epsilon:g} of 255 grey levels write {key}={epsilon:g}/255"
        )


@dataclass(frozen=True)
class Ball:
    """The points an attack may visit: one ball per image, clipped to the data's domain. Build it with :meth:`around`.

    Attributes:
        center: clean images, [B, ...], float32 or float64, inside the domain.
        radius: [B, 1, ...], in the units of ``center``; finite, >= 0.
        norm: "L2" or "Linf".
        domain: lowest and highest value of a pixel; None: unbounded.
    """

    center: Float[Tensor, "B *shape"]
    radius: Float[Tensor, "B *ones"]
    norm: Norm
    domain: Domain

    @classmethod
    def around(
        cls,
        x: Float[Tensor, "B *shape"],
        epsilon: float | Float[Tensor, " B"],
        *,
        norm: Norm = "L2",
        domain: Domain = (0.0, 1.0),
    ) -> "Ball":
        """Balls around a copy of ``x``, [B, ...], with one radius ``epsilon`` for all, or one per image ([B]).

        Raises:
            ValueError: if x is not a float batch inside the domain, or epsilon, norm or domain is out of range.
        """
        check_choice("norm", norm, get_args(Norm))
        if x.ndim < 2 or x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"x must be float32 or float64 of shape [B, ...]; got {x.dtype} {list(x.shape)}")
        _check_domain(x, domain)
        radius = _radii(x, epsilon).reshape(-1, *[1] * (x.ndim - 1))
        return cls(x.detach().clone(), radius, norm, domain)

    def __getitem__(self, rows: Int64[Tensor, " K"] | Bool[Tensor, " B"]) -> "Ball":
        """The balls of some images; ``rows``: [K] int64, or [B] bool."""
        return Ball(self.center[rows], self.radius[rows], self.norm, self.domain)

    def project(self, point: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *shape"]:
        """Pull ``point``, [B, ...], into ball and domain, so that ‖point − center‖ <= radius in exact arithmetic.

        For L2 the ball comes first and the domain second, as in Croce & Hein 2020: the result lies in both, but is not
        always the nearest such point. NaN stays NaN.
        """
        delta = point - self.center
        # A few ulps inwards, so that a norm computed elsewhere never exceeds epsilon by rounding.
        radius = self.radius * (1 - 4 * torch.finfo(point.dtype).eps)
        if self.norm == "Linf":
            delta = delta.clamp(-radius, radius)
        else:
            length = _length(delta)
            delta = delta * torch.where(length > radius, radius / length, 1.0)
        near = self.center + delta
        if self.domain is not None:
            near = near.clamp(*self.domain)
        # With a small radius the rounded sum can lie far outside the ball; one float back is inside again.
        overshoots = (near - self.center).abs() > delta.abs()
        return torch.where(overshoots, torch.nextafter(near, self.center), near)

    def contains(self, point: Float[Tensor, "B *shape"]) -> Bool[Tensor, " B"]:
        """Whether each point lies in ball (up to 1e-6 relative) and domain, [B] bool; False for NaN."""
        delta = point - self.center
        length = _peak(delta) if self.norm == "Linf" else _length(delta)
        inside = (length <= self.radius * (1 + TOLERANCE)).flatten()
        if self.domain is not None:
            low, high = self.domain
            inside = inside & ((point >= low) & (point <= high)).flatten(1).all(1)
        return inside

    def steepest(self, gradient: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *shape"]:
        """Unit-norm direction of steepest ascent for a linear function; zero where the gradient is 0 or NaN."""
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        return gradient.sign() if self.norm == "Linf" else _unit(gradient, _length(gradient))

    def sample(self, generator: torch.Generator) -> Float[Tensor, "B *shape"]:
        """Random point at distance ``radius``, clipped to the domain: Gaussian direction for L2, uniform for Linf.

        Drawn on the generator's device in float32, so a CPU generator gives the same points on every device.
        """
        draw = torch.randn if self.norm == "L2" else torch.rand
        noise = draw(self.center.shape, generator=generator, device=generator.device).to(self.center)
        if self.norm == "L2":
            noise = _unit(noise, _length(noise))
        else:
            noise = 2 * noise - 1
            noise = _unit(noise, _peak(noise))
        return self.project(self.center + self.radius * noise)

    def sample_inside(self, generator: torch.Generator) -> Float[Tensor, "B *shape"]:
        """Random point inside the ball, clipped to the domain; drawn as in :meth:`sample`.

        Uniform for Linf. For L2 a Gaussian direction and a distance uniform in [0, radius], the usual start of attacks
        in training: nearer to the centre than a point uniform in volume.
        """
        draw = torch.randn if self.norm == "L2" else torch.rand
        noise = draw(self.center.shape, generator=generator, device=generator.device).to(self.center)
        if self.norm == "L2":
            distance = torch.rand(self.radius.shape, generator=generator, device=generator.device).to(self.center)
            noise = distance * _unit(noise, _length(noise))
        else:
            noise = 2 * noise - 1
        return self.project(self.center + self.radius * noise)


def rowwise(
    mask: Bool[Tensor, " B"], there: Shaped[Tensor, "B *shape"], elsewhere: Shaped[Tensor, "B *shape"]
) -> Shaped[Tensor, "B *shape"]:
    """``torch.where`` with one bool per image: mask [B], the others [B, ...]."""
    return torch.where(mask.view(-1, *[1] * (there.ndim - 1)), there, elsewhere)


def _peak(v: Tensor) -> Tensor:
    return v.abs().amax(tuple(range(1, v.ndim)), keepdim=True)


def _length(v: Tensor) -> Tensor:
    # Scaled by the largest entry, as squares of float32 gradients below 1e-19 underflow.
    peak = _peak(v).clamp_min(torch.finfo(v.dtype).tiny)
    return peak * (v / peak).square().sum(tuple(range(1, v.ndim)), keepdim=True).sqrt()


def _unit(v: Tensor, length: Tensor) -> Tensor:
    return v / length.clamp_min(torch.finfo(v.dtype).tiny)


def _radii(x: Tensor, epsilon: float | Tensor) -> Tensor:
    radius = torch.as_tensor(epsilon, dtype=x.dtype, device=x.device).detach()
    if radius.ndim == 0:
        radius = radius.expand(len(x))
    if radius.shape != x.shape[:1]:
        raise ValueError(f"epsilon must be a number or of shape [{len(x)}]; got shape {list(radius.shape)}")
    invalid = radius[~(radius.isfinite() & (radius >= 0))]
    if len(invalid):
        raise ValueError(f"epsilon must be finite and at least 0; got {invalid[0].item()}")
    return radius


def _check_domain(x: Tensor, domain: Domain) -> None:
    low, high = (-torch.inf, torch.inf) if domain is None else domain
    if domain is not None and not -torch.inf < low < high < torch.inf:
        raise ValueError(f"domain must be None or two finite numbers, low < high; got {domain}")
    if not x.isfinite().all():
        raise ValueError("x must be finite; got NaN or inf")
    if not ((x >= low) & (x <= high)).all():
        raise ValueError(
            f"x has values in [{x.min():g}, {x.max():g}], outside domain {domain}; "
            "normalise inside the model, or give the data's own domain"
        )
