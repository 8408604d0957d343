"""Spectral norms of linear and convolution layers: estimates for training, upper bounds for certification."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor, nn

from trust_exp.rng import keyed_generator

Layer = nn.Linear | nn.Conv2d

# Relative allowance for rounding of products, sines and eigenvalues in float64; larger for large Gram matrices.
ROUNDING = 1e-9

# Linear layers up to this width are padded and stacked: a call costs more than multiplying zeros.
SMALL = 64

# Up to this smaller side and this many entries (128 MiB) a convolution is written out as a matrix with an exact norm.
DENSE_SIDE, DENSE_ENTRIES = 1024, 2**24

# Complex numbers of a convolution's symbol held in memory at once (64 MiB).
CHUNK = 2**22


# Keeps the vector of a zero operator, where a plain power step would divide by zero. It changes no eigenvector and is
# far below the square of any norm from 1e-15 on.
SHIFT = 1e-36


class PowerIteration(nn.Module):
    """Spectral norms of many layers by power iteration, with one persistent vector per layer; estimates from below.

    In training mode each call takes ``iterations`` steps from the vectors of the last call; in eval mode it evaluates
    the norms at the stored vectors. Layers of one shape run as one batched operation, and so do all small linear
    layers. The vectors are buffers, so a resumed run continues exactly. The layers themselves are not registered.

    Args:
        layers: pairs of an ``nn.Linear`` or zero-padded ``nn.Conv2d`` and the shape of its input without the batch.
        iterations: steps per call, at least 0.
        through_iterations: also differentiate through the steps; else the vectors are constants, which gives the
            exact gradient ``u v^T`` once they have converged.

    Raises:
        ValueError: for a convolution that is not padded with zeros.

    Source: Losch 2024, App. B.2.
    """

    def __init__(
        self,
        layers: Sequence[tuple[Layer, tuple[int, ...]]],
        iterations: int = 1,
        through_iterations: bool = False,
    ) -> None:
        super().__init__()
        self.iterations = iterations
        self.through_iterations = through_iterations
        members: dict[Any, list[int]] = {}
        for place, (layer, shape) in enumerate(layers):
            members.setdefault(_group_key(layer, shape), []).append(place)
        self._places = list(members.values())
        self.groups = nn.ModuleList(_group([layers[p] for p in places], places) for places in self._places)

    def forward(self) -> list[Float[Tensor, ""]]:
        """Norms in the order of the layers: scalars in the weights' dtype, at least float32, differentiable."""
        return self.run(self.iterations if self.training else 0)

    def run(self, steps: int) -> list[Float[Tensor, ""]]:
        """Norms after ``steps`` steps, in either mode."""
        return self._collect([group(steps, self.through_iterations) for group in self.groups])

    def converged(self, tolerance: float = 1e-12, max_steps: int = 10_000) -> list[Float64[Tensor, ""]]:
        """Norms in float64, iterated until their relative change is within ``tolerance``; leaves the vectors alone."""
        return self._collect([cast(_Group, group).converged(tolerance, max_steps) for group in self.groups])

    def _collect(self, sigmas: Sequence[Tensor]) -> list[Tensor]:
        norms: dict[int, Tensor] = {}
        for places, sigma in zip(self._places, sigmas, strict=True):
            norms.update(zip(places, sigma.unbind(), strict=True))
        return [norms[place] for place in range(len(norms))]


def spectral_norm_bound(layer: Layer, input_shape: tuple[int, ...]) -> float:
    """Upper bound on the spectral norm of a linear layer (exact up to rounding) or of a zero-padded convolution.

    A convolution with stride s equals one without stride on s x s times the channels. With zero padding it is a part of
    the same convolution on a torus so large that nothing wraps around. That one is diagonal in Fourier space: the bound
    is the largest singular value over its frequencies. On small inputs it is a few per cent too high, but there the
    convolution's matrix is small and its norm is computed instead. In float64, with an allowance for rounding.

    Args:
        layer: ``nn.Linear``, or ``nn.Conv2d`` with any stride, zero padding, dilation and groups.
        input_shape: the input's shape without the batch: (..., features) or (channels, height, width).

    Returns:
        a value >= the norm; inf if a weight is not finite.

    Raises:
        ValueError: for a convolution that is not padded with zeros.

    Source: Sedghi 2019 for the torus; Losch 2024, App. B.2 certifies with the power iteration's lower estimate.
    """
    weight = layer.weight.detach().double()
    if not weight.isfinite().all():
        return math.inf
    if isinstance(layer, nn.Linear):
        return _largest_singular_value(weight)
    if (matrix := _dense(layer, weight, input_shape)) is not None:
        return _largest_singular_value(matrix)
    return max(_largest_singular_value(symbol) for symbol in _symbols(layer, weight, input_shape))


class _Group(nn.Module):
    """Layers that share one batched operator; ``state`` [layers, inputs] has one unit vector per layer."""

    state: Tensor

    def __init__(self, layers: Sequence[Layer], sizes: Sequence[int], places: Sequence[int]) -> None:
        super().__init__()
        self.layers = tuple(layers)  # in a tuple, so that their parameters are not registered here
        state = torch.zeros(len(layers), max(sizes))
        for row, size, place in zip(state, sizes, places, strict=True):
            row[:size] = torch.randn(size, generator=keyed_generator("power iteration", place))
        self.register_buffer("state", F.normalize(state).to(layers[0].weight.device))

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The weights of all layers as one tensor."""
        raise NotImplementedError

    def image(self, weight: Tensor, vector: Tensor) -> Tensor:
        """Apply every layer, without bias, to its vector: [layers, inputs] to [layers, outputs]."""
        raise NotImplementedError

    def adjoint(self, weight: Tensor, vector: Tensor) -> Tensor:
        """Apply the transposes: [layers, outputs] to [layers, inputs]."""
        raise NotImplementedError

    def step(self, weight: Tensor, vector: Tensor) -> Tensor:
        moved = torch.add(self.adjoint(weight, self.image(weight, vector)), vector, alpha=SHIFT)
        moved = moved / torch.linalg.vector_norm(moved.detach(), math.inf, dim=1, keepdim=True)  # squares stay in range
        return moved / torch.linalg.vector_norm(moved, dim=1, keepdim=True)

    def forward(self, steps: int, through_iterations: bool) -> Tensor:
        dtype = torch.promote_types(self.layers[0].weight.dtype, torch.float32)
        with torch.autocast(self.state.device.type, enabled=False):
            weight = self.weight(dtype)
            vector = self.state.to(dtype, copy=True)  # the graph may hold it when the state moves on
            with torch.set_grad_enabled(through_iterations and torch.is_grad_enabled()):
                for _ in range(steps):
                    vector = self.step(weight, vector)
            if steps:
                self.state.copy_(vector.detach())
            return torch.linalg.vector_norm(self.image(weight, vector), dim=1)

    @torch.no_grad()
    def converged(self, tolerance: float, max_steps: int) -> Tensor:
        weight = self.weight(torch.float64)
        vector = self.state.double()
        sigma = vector.new_zeros(len(self.layers))
        for _ in range(max_steps):
            vector = self.step(weight, vector)
            last, sigma = sigma, torch.linalg.vector_norm(self.image(weight, vector), dim=1)
            if ((sigma - last).abs() <= tolerance * sigma).all():
                break
        return sigma


class _Linears(_Group):
    """Linear layers as one batched matrix product, padded with zeros, which do not change singular values."""

    index: Tensor

    def __init__(self, layers: Sequence[nn.Linear], places: Sequence[int]) -> None:
        super().__init__(layers, [layer.in_features for layer in layers], places)
        rows = max(layer.out_features for layer in layers)
        columns = max(layer.in_features for layer in layers)
        self.shape = (len(layers), rows, columns)
        cells = torch.arange(math.prod(self.shape)).view(self.shape)
        used = [cell[: lin.out_features, : lin.in_features] for cell, lin in zip(cells, layers, strict=True)]
        index = torch.cat([cell.flatten() for cell in used]).to(self.state.device)
        self.register_buffer("index", index, persistent=False)

    def weight(self, dtype: torch.dtype) -> Tensor:
        if len(self.layers) == 1:  # often the largest layer of a network, and a stack would copy it
            return self.layers[0].weight.to(dtype).unsqueeze(0)
        flat = torch.cat([layer.weight.flatten() for layer in self.layers]).to(dtype)
        if flat.numel() < math.prod(self.shape):
            flat = flat.new_zeros(math.prod(self.shape)).index_copy(0, self.index, flat)
        return flat.view(self.shape)

    def image(self, weight: Tensor, vector: Tensor) -> Tensor:
        # Vectors as rows: on a CPU bmm is up to ten times slower with them as columns.
        return torch.bmm(vector.unsqueeze(1), weight.mT).squeeze(1)

    def adjoint(self, weight: Tensor, vector: Tensor) -> Tensor:
        return torch.bmm(vector.unsqueeze(1), weight).squeeze(1)


class _Convolutions(_Group):
    """Equal convolutions on inputs of equal size, as one grouped convolution of one image."""

    def __init__(self, layers: Sequence[nn.Conv2d], places: Sequence[int], input_shape: tuple[int, ...]) -> None:
        super().__init__(layers, [math.prod(input_shape)] * len(layers), places)
        conv = layers[0]
        self.rows, self.columns = _axes(conv, input_shape)
        self.stride, self.dilation = conv.stride, conv.dilation
        self.padding = (self.rows.before, self.columns.before)
        self.groups = len(layers) * conv.groups

    def weight(self, dtype: torch.dtype) -> Tensor:
        return torch.cat([layer.weight for layer in self.layers]).to(dtype)

    def image(self, weight: Tensor, vector: Tensor) -> Tensor:
        maps = vector.view(1, -1, self.rows.size, self.columns.size)
        # padding="same" with an even kernel pads one more at the end; conv2d itself pads both ends alike.
        uneven = (self.columns.after - self.columns.before, self.rows.after - self.rows.before)
        if any(uneven):
            maps = F.pad(maps, (0, uneven[0], 0, uneven[1]))
        maps = F.conv2d(maps, weight, None, self.stride, self.padding, self.dilation, self.groups)
        return maps.reshape(len(self.layers), -1)

    def adjoint(self, weight: Tensor, vector: Tensor) -> Tensor:
        maps = vector.view(1, -1, self.rows.outputs, self.columns.outputs)
        # Without the rows left over by the last stride the image would come back too small.
        leftover = (self.rows.leftover, self.columns.leftover)
        maps = F.conv_transpose2d(maps, weight, None, self.stride, self.padding, leftover, self.groups, self.dilation)
        return maps[..., : self.rows.size, : self.columns.size].reshape(len(self.layers), -1)


@dataclass(frozen=True)
class _Axis:
    """One spatial axis of a convolution: input size, kernel geometry, zeros before and after."""

    size: int
    taps: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def extent(self) -> int:
        """Length of the dilated kernel."""
        return self.dilation * (self.taps - 1) + 1

    @property
    def outputs(self) -> int:
        return (self.size + self.before + self.after - self.extent) // self.stride + 1

    @property
    def leftover(self) -> int:
        """Padded inputs after the last one that an output reads."""
        return (self.size + self.before + self.after - self.extent) % self.stride

    @property
    def folded_extent(self) -> int:
        """Length of the kernel when ``stride`` neighbours are channels of one position."""
        return -(-self.extent // self.stride)

    @property
    def torus(self) -> int:
        """Period with which neither inputs nor outputs wrap around onto each other.

        All folded positions that hold an input suffice, and so do all that hold an output.
        """
        inputs = (self.before + self.size - 1) // self.stride - self.before // self.stride + 1
        return min(inputs, self.outputs) + self.folded_extent - 1


def _axes(conv: nn.Conv2d, input_shape: tuple[int, ...]) -> tuple[_Axis, _Axis]:
    if conv.padding_mode != "zeros":
        raise ValueError(f"norms are known for convolutions padded with zeros; got padding_mode={conv.padding_mode!r}")
    rows, columns = (_axis(conv, dim, size) for dim, size in enumerate(input_shape[-2:]))
    return rows, columns


def _axis(conv: nn.Conv2d, dim: int, size: int) -> _Axis:
    taps, stride, dilation = conv.kernel_size[dim], conv.stride[dim], conv.dilation[dim]
    if conv.padding == "same":
        total = dilation * (taps - 1)
        before, after = total // 2, total - total // 2
    else:
        before = after = 0 if isinstance(conv.padding, str) else conv.padding[dim]
    return _Axis(size, taps, stride, dilation, before, after)


def _group_key(layer: Layer, input_shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Key of a layer; layers with equal keys run as one operation."""
    if isinstance(layer, nn.Linear):
        small = max(layer.weight.shape) <= SMALL
        return ("small",) if small else tuple(layer.weight.shape)
    geometry = (layer.stride, layer.padding, layer.padding_mode, layer.dilation, layer.groups)
    return (*layer.weight.shape, *input_shape, *geometry)


def _group(members: Sequence[tuple[Layer, tuple[int, ...]]], places: Sequence[int]) -> _Group:
    linears = [layer for layer, _ in members if isinstance(layer, nn.Linear)]
    if linears:
        return _Linears(linears, places)
    return _Convolutions([layer for layer, _ in members if isinstance(layer, nn.Conv2d)], places, members[0][1])


def _dense(conv: nn.Conv2d, weight: Tensor, input_shape: tuple[int, ...]) -> Tensor | None:
    """The convolution as a matrix [inputs, outputs], or None if that is too large."""
    rows, columns = _axes(conv, input_shape)
    inputs, outputs = math.prod(input_shape), len(weight) * rows.outputs * columns.outputs
    if min(inputs, outputs) > DENSE_SIDE or inputs * outputs > DENSE_ENTRIES:
        return None
    basis = torch.eye(inputs, dtype=weight.dtype, device=weight.device).view(inputs, *input_shape)
    return F.conv2d(basis, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups).flatten(1)


def _symbols(conv: nn.Conv2d, weight: Tensor, input_shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Fourier symbol of the folded convolution in chunks, [groups, frequencies, outputs, inputs] complex128."""
    rows, columns = _axes(conv, input_shape)
    kernel = _folded(weight, rows, columns)
    grouped = kernel.reshape(conv.groups, -1, kernel.shape[-1]).to(torch.complex128)
    # A real kernel has conjugate symbols at opposite frequencies, so half of one axis is enough.
    waves = torch.einsum(
        "fq,gr->fgqr",
        _waves(rows.torus, rows.torus, rows.folded_extent).to(kernel.device),
        _waves(columns.torus // 2 + 1, columns.torus, columns.folded_extent).to(kernel.device),
    ).reshape(-1, kernel.shape[-1])
    for chunk in waves.split(max(1, CHUNK // grouped[..., 0].numel())):
        symbol = (grouped @ chunk.T).permute(0, 2, 1)
        yield symbol.reshape(conv.groups, len(chunk), -1, kernel.shape[1])


def _folded(weight: Tensor, rows: _Axis, columns: _Axis) -> Tensor:
    """Kernel with dilation written out and stride folded into channels, [outputs, inputs, positions]."""
    height, width = rows.folded_extent, columns.folded_extent
    kernel = weight.new_zeros(*weight.shape[:2], height * rows.stride, width * columns.stride)
    kernel[..., : rows.extent : rows.dilation, : columns.extent : columns.dilation] = weight
    phases = kernel.unflatten(3, (width, columns.stride)).unflatten(2, (height, rows.stride))
    return phases.permute(0, 1, 3, 5, 2, 4).reshape(len(weight), -1, height * width)


def _waves(frequencies: int, period: int, length: int) -> Tensor:
    """exp(2 pi i f q / period), [frequencies, length] complex128."""
    turns = torch.outer(torch.arange(frequencies), torch.arange(length)) % period
    return torch.polar(torch.ones(turns.shape, dtype=torch.float64), 2 * math.pi * turns.double() / period)


def _largest_singular_value(matrices: Tensor) -> float:
    """Largest singular value over a batch [..., m, n], rounded up, from the smaller Gram matrix."""
    rows, columns = matrices.shape[-2:]
    gram = matrices @ matrices.mH if rows <= columns else matrices.mH @ matrices
    # The computed Gram matrix is off by at most rows * columns * eps of its largest eigenvalue.
    rounding = ROUNDING + rows * columns * torch.finfo(gram.dtype).eps
    return math.sqrt(max(0.0, torch.linalg.eigvalsh(gram).max().item())) * (1 + rounding)
