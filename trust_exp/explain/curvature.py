"""Second derivatives of latents with respect to a layer: where the encoder bends (Abukmeil et al. 2022, sec. 2.2).

The Hessian of one latent with respect to the F values of a layer has F x F entries. Each function keeps one number for
each value of the layer:

    row sums    H 1 = grad(grad(z) . 1)     one double backward, also for a weighted sum of latents
    diagonal    diag(H) = E[v * H v]        estimated with random signs v (Hutchinson), or exact: F products

The samples of a batch must not depend on each other: no batch normalisation in training mode between the layer and the
latents. If everything between them is linear in pieces, as ReLU is, the result is exactly 0.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "b d"]
Layer = Float[Tensor, "b *f"]
Tail = Callable[[Tensor], Tensor]  # from the layer [B, ...] to the latents [B, d]


def row_sums(
    latents: Latents, layer: Layer, weights: Float[Tensor, "r d"] | None = None, *, create_graph: bool = False
) -> Float[Tensor, "b r *f"]:
    """Row sums of the Hessians of weighted sums of latents.

    Args:
        latents: computed from ``layer``, with gradients.
        layer: as it was used to compute them.
        weights: of the latents in each sum; None: one sum of all of them. They may be learned: the result is linear in
            them, so R sums cost R double backwards, however many latents there are.
        create_graph: the result is differentiated again, in training.

    Raises:
        ValueError: if the latents do not depend on the layer.
    """
    weights = latents.new_ones(1, latents.shape[1]) if weights is None else weights
    found = []
    for number, own in enumerate(weights):
        keep = create_graph or number + 1 < len(weights)
        first = _slope((latents * own).sum(), layer, of_latents=True)
        found.append(_slope(first.sum(), layer, keep=keep, create_graph=create_graph))
    return torch.stack(found, dim=1)


def row_sums_of_each(tail: Tail, layer: Layer) -> Float[Tensor, "b d *f"]:
    """Row sums of the Hessian of each latent.

    The product of the Jacobian with a vector of ones is a forward derivative, so all latents share it; what is left is
    one backward for each latent, which are taken together.
    """
    with torch.enable_grad():
        layer = layer.detach().requires_grad_()
        along_ones = torch.func.jvp(tail, (layer,), (torch.ones_like(layer),))[1]
        each = torch.eye(along_ones.shape[1], dtype=layer.dtype, device=layer.device)
        cotangents = each[:, None, :].expand(-1, len(layer), -1)
        found = _slope(along_ones, layer, cotangents, keep=False, create_graph=False)
    return found.movedim(0, 1)


def diagonal_estimate(
    latents: Latents, layer: Layer, draws: int, generator: torch.Generator, *, create_graph: bool = False
) -> Layer:
    """Unbiased estimate of the diagonal of the Hessian of the sum of latents (Hutchinson 1990).

    Args:
        draws: of random signs; the variance falls with their number.
        generator: they are drawn from it, on the CPU.

    Raises:
        ValueError: as ``row_sums``.
    """
    first = _slope(latents.sum(), layer, of_latents=True)
    total = torch.zeros_like(layer)
    for number in range(draws):
        signs = torch.randint(0, 2, layer.shape, generator=generator).to(layer) * 2 - 1
        keep = create_graph or number + 1 < draws
        total = total + signs * _slope((first * signs).sum(), layer, keep=keep, create_graph=create_graph)
    return total / draws


def diagonal(latents: Latents, layer: Layer) -> Layer:
    """The diagonal of the Hessian of the sum of latents: one product for each value of the layer, for small ones.

    Raises:
        ValueError: as ``row_sums``.
    """
    first = _slope(latents.sum(), layer, of_latents=True).flatten(1)
    found = torch.zeros_like(layer).flatten(1)
    for place in range(first.shape[1]):
        second = _slope(first[:, place].sum(), layer, keep=True).flatten(1)
        found[:, place] = second[:, place]
    return found.view_as(layer)


def _slope(
    value: Tensor,
    layer: Tensor,
    cotangents: Tensor | None = None,
    *,
    of_latents: bool = False,
    keep: bool = True,
    create_graph: bool = True,
) -> Tensor:
    """The gradient of ``value`` with respect to the layer: [B, ...], or for each of N ``cotangents`` [N, B, ...]."""
    slope = None
    if value.requires_grad:
        (slope,) = torch.autograd.grad(
            value,
            layer,
            cotangents,
            retain_graph=keep or create_graph,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=cotangents is not None,
        )
    if slope is None and of_latents:
        raise ValueError("the latents do not depend on the layer")
    if slope is None:  # a linear function of the layer
        return layer.new_zeros(layer.shape if cotangents is None else (len(cotangents), *layer.shape))
    found: Tensor = slope
    return found
