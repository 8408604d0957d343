"""Second derivatives of latents with respect to a layer: where the encoder bends (Abukmeil et al. 2022, sec. 2.2).

The Hessian of one latent with respect to the F values of a layer has F x F entries. Each function keeps one number for
each value of the layer:

    row sums    H 1 = grad(grad(z) . 1)     one double backward, also for a weighted sum of latents
    diagonal    diag(H) = E[v * H v]        estimated with random signs v (Hutchinson), or exact: F products

The samples of a batch must not depend on each other: no batch normalisation in training mode between the layer and the
latents. If everything between them is linear in pieces, as ReLU is, the result is exactly 0.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

Latents = Float[Tensor, "b d"]
Layer = Float[Tensor, "b *f"]
Tail = Callable[[Tensor], Tensor]  # from the layer [B, ...] to the latents [B, d]


def row_sums(tail: Tail, layer: Layer, weights: Float[Tensor, "r d"] | None = None) -> Float[Tensor, "b r *f"]:
    """Row sums of the Hessians of weighted sums of latents; they can be differentiated again.

    Args:
        weights: of the latents in each sum; None: one sum of all of them. They may be learned: the result is linear in
            them, so R sums cost R double backwards, however many latents there are.
    """
    return row_sums_and_more(lambda values: (tail(values), ()), layer, weights)[0]


def row_sums_and_more(
    tail: Callable[[Tensor], tuple[Tensor, Any]], layer: Layer, weights: Float[Tensor, "r d"] | None = None
) -> tuple[Float[Tensor, "b r *f"], Any]:
    """The same for a tail that gives tensors besides the latents, and these tensors; also under ``torch.func.vmap``."""

    def total(values: Tensor, own: Tensor | None) -> tuple[Tensor, Any]:
        latents, more = tail(values)
        return (latents if own is None else latents * own).sum(), more

    def slope_sum(values: Tensor, own: Tensor | None) -> tuple[Tensor, Any]:
        slope, more = grad(total, has_aux=True)(values, own)
        return slope.sum(), more

    found = [grad(slope_sum, has_aux=True)(layer, own) for own in ([None] if weights is None else weights)]
    return torch.stack([sums for sums, _ in found], dim=1), found[0][1]


def row_sums_of_each(tail: Tail, layer: Layer) -> Float[Tensor, "b d *f"]:
    """Row sums of the Hessian of each latent.

    The product of the Jacobian with a vector of ones is a forward derivative, so all latents share it; what is left is
    one backward for each latent, which are taken together.
    """

    def along_ones(values: Tensor) -> Tensor:
        found: Tensor = jvp(tail, (values,), (torch.ones_like(values),))[1]
        return found

    slopes, back, *_ = vjp(along_ones, layer)
    each = torch.eye(slopes.shape[1], dtype=layer.dtype, device=layer.device)
    (found,) = vmap(back)(each[:, None, :].expand(-1, len(layer), -1))
    return found.movedim(0, 1)


def diagonal_estimate(tail: Tail, layer: Layer, draws: int, generator: torch.Generator) -> Layer:
    """Unbiased estimate of the diagonal of the Hessian of the sum of latents (Hutchinson 1990).

    Args:
        draws: of random signs; the variance falls with their number.
        generator: they are drawn from it, on the CPU.
    """
    product = _hessian_product(tail, layer)
    total = torch.zeros_like(layer)
    for _ in range(draws):
        signs = torch.randint(0, 2, layer.shape, generator=generator).to(layer) * 2 - 1
        total = total + signs * product(signs)
    return total / draws


def diagonal(tail: Tail, layer: Layer) -> Layer:
    """The diagonal of the Hessian of the sum of latents: one product for each value of the layer, for small ones."""
    product = _hessian_product(tail, layer)
    found = torch.zeros_like(layer).flatten(1)
    for place in range(found.shape[1]):
        one = torch.zeros_like(found)
        one[:, place] = 1
        found[:, place] = product(one.view_as(layer)).flatten(1)[:, place]
    return found.view_as(layer)


def _hessian_product(tail: Tail, layer: Tensor) -> Callable[[Tensor], Tensor]:
    """Multiplies the Hessian of the sum of latents with a vector [B, ...]."""

    def total(values: Tensor) -> Tensor:
        return tail(values).sum()

    _, back, *_ = vjp(grad(total), layer)
    return lambda vector: back(vector)[0]
