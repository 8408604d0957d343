"""Second derivatives of latents with respect to a layer: where the encoder bends (Abukmeil et al. 2022, sec. 2.2).

The Hessian of one latent with respect to the F values of a layer has F x F entries. Each function keeps one number for
each value of the layer:

    row sums    H 1 = grad(grad(z) . 1)     one double backward, also for a weighted sum of latents
    diagonal    diag(H) = E[v * H v]        estimated with random signs v (Hutchinson), or exact: F products

The samples of a batch must not depend on each other: no batch normalisation in training mode between the layer and the
latents. If everything between them is linear in pieces, as ReLU is, the result is exactly 0.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap
from torch.nn import functional as F

from trust_exp.explain.activations import bent

Latents = Float[Tensor, "b d"]
Layer = Float[Tensor, "b *f"]
Tail = Callable[[Tensor], Tensor]  # from the layer [B, ...] to the latents [B, d]


def row_sums(tail: Tail, layer: Layer, weights: Float[Tensor, "r d"] | None = None) -> Float[Tensor, "b r *f"]:
    """Row sums of the Hessians of weighted sums of latents; they can be differentiated again.

    Args:
        weights: of the latents in each sum; None: one sum of all of them. They may be learned: the result is linear in
            them, so R sums cost R double backwards, however many latents there are.
    """

    def total(values: Tensor, own: Tensor | None) -> Tensor:
        latents = tail(values)
        return (latents if own is None else latents * own).sum()

    def slope_sum(values: Tensor, own: Tensor | None) -> Tensor:
        found: Tensor = grad(total)(values, own).sum()
        return found

    return torch.stack([grad(slope_sum)(layer, own) for own in ([None] if weights is None else weights)], dim=1)


def row_sums_of_chain(
    chain: Sequence[nn.Conv2d | nn.Linear], activation: str, head: Tail, layer: Float[Tensor, "b f h w"]
) -> tuple[Float[Tensor, "b f h w"], Tensor]:
    """Row sums of the Hessian of the sum of latents, faster, where all between is linear layers and one activation.

    A forward derivative along ones and the backward pass of both, written out, with ``bent`` in the place of every
    activation: a third of the memory traffic of automatic differentiation, which matters more than the products.

    Args:
        chain: the layers after ``layer``, each followed by the activation; convolutions, then dense ones.
        activation: a key of ``BENDS``.
        head: maps the last hidden layer [B, H] to the latents, which may be weighted.

    Returns:
        the row sums, and the last hidden layer.
    """
    hidden, along = layer, torch.ones_like(layer[:1])  # the same for all images, until an activation
    passed = []
    for linear in chain:
        inputs = hidden.shape
        if isinstance(linear, nn.Linear):
            hidden, along = hidden.flatten(1), along.flatten(1)
        moved = _without_bias(linear, along)
        hidden, slope, curvature = bent(linear(hidden), activation)
        passed.append((linear, inputs, slope, curvature * moved))
        along = slope * moved

    def total(values: Tensor) -> Tensor:
        return head(values).sum()

    down, bending, *_ = jvp(grad(total), (hidden,), (along,))
    for linear, inputs, slope, change in reversed(passed):
        bending = _transposed(linear, slope * bending + change * down, inputs)
        if linear is not chain[0]:
            down = _transposed(linear, slope * down, inputs)
    return bending, hidden


def _without_bias(linear: nn.Conv2d | nn.Linear, values: Tensor) -> Tensor:
    if isinstance(linear, nn.Linear):
        return F.linear(values, linear.weight)
    return F.conv2d(values, linear.weight, None, linear.stride, linear.padding, linear.dilation, linear.groups)


def _transposed(linear: nn.Conv2d | nn.Linear, values: Tensor, inputs: Sequence[int]) -> Tensor:
    """The transpose of a linear layer that takes inputs of that shape."""
    if isinstance(linear, nn.Linear):
        return F.linear(values, linear.weight.mT).view(len(values), *inputs[1:])
    stride, padding, size = linear.stride, tuple(map(int, linear.padding)), linear.kernel_size
    lost = [
        inputs[2 + axis] - ((values.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis] + size[axis])
        for axis in (0, 1)
    ]
    return F.conv_transpose2d(values, linear.weight, None, stride, padding, lost, linear.groups)


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
