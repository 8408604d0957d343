"""Lipschitz constant of a network: a product over the layers before the last, then one constant per pair of classes."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from trust_exp.errors import UserError
from trust_exp.lipschitz.layers import MinMax, Normalize, Residual
from trust_exp.lipschitz.norms import ROUNDING, Layer, PowerIteration, spectral_norm_bound
from trust_exp.modes import evaluating

Constant = Tensor | float

# Enough for an estimate that is only reported; its last digits would cost more than the certificate.
GAP_STEPS = 500

# A cold power iteration can be ten times below the norm, and losses divide by the bound.
WARM_UP = 20


@dataclass(frozen=True)
class Bound:
    """L2 Lipschitz constants of a classifier with a linear last layer.

    Attributes:
        features: [], constant of all layers before the last, input normalisation included.
        pairwise: [C, C], constants of the logit differences f_i - f_j; the diagonal is zero.
        worst: [], the largest of ``pairwise``.
        distances: [C, C], of the rows of the last layer's weight.
        head: [C, D], weight of the last layer.

    Source: Losch 2024, Eq. 4.7.
    """

    features: Float[Tensor, ""]
    pairwise: Float[Tensor, "C C"]
    worst: Float[Tensor, ""]
    distances: Float[Tensor, "C C"]
    head: Float[Tensor, "C D"]

    @property
    def per_logit(self) -> Float[Tensor, " C"]:
        """Constant [C] of each single logit."""
        return self.features * torch.linalg.vector_norm(self.head, dim=1)

    @property
    def total(self) -> Float[Tensor, ""]:
        """Constant [] of all logits together."""
        return self.features * torch.linalg.matrix_norm(self.head, ord=2)


class LipschitzBound(nn.Module):
    """Lipschitz bound of a network: differentiable in training, sound in certification.

    In training mode each call runs ``iterations`` power iterations, starting at the vectors of the last call, and
    multiplies the estimated norms. In eval mode a call leaves the vectors alone. They are saved with this module; the
    model is not.

    Args:
        model: (nested) ``nn.Sequential`` of layers in ``RULES`` whose last layer is ``nn.Linear``.
        input_shape: one input's shape, without the batch.
        iterations: power iterations per call.
        through_iterations: also differentiate through them, as the thesis' released code does.

    Raises:
        ValueError: if the last layer is not ``nn.Linear``.
        UserError: for a layer without a rule, or one whose constant depends on its input shape and that has two.

    Source: Losch 2024, Eq. 4.1 and App. B.2.
    """

    def __init__(
        self,
        model: nn.Sequential,
        input_shape: tuple[int, ...],
        iterations: int = 1,
        through_iterations: bool = False,
    ) -> None:
        super().__init__()
        *body, head = _flattened(model) or [model]
        if not isinstance(head, nn.Linear) or _changed(head, nn.Linear):
            raise ValueError(f"the last layer must be nn.Linear; got {type(head).__name__}")
        # In tuples, so that the model's parameters are not registered a second time.
        self.body, self._head = tuple(body), (head,)
        self._layers = tuple(model.modules())
        self._shapes = _input_shapes(model, input_shape)
        self._normed = self._layers_with_norms()
        shaped = [(layer, self.input_shape(layer)) for layer in self._normed]
        self.power = PowerIteration(shaped, iterations, through_iterations)
        with torch.no_grad():
            self.power.run(WARM_UP)

    def forward(self) -> Bound:
        """Bound in the weights' dtype, at least float32; the gradient of ``worst`` is that of one pair of classes."""
        _refresh(self._layers)
        dtype = torch.promote_types(self.head.weight.dtype, torch.float32)
        return self._bound(self._context(self.power(), dtype))

    @property
    def head(self) -> nn.Linear:
        """The last layer."""
        return self._head[0]

    @torch.no_grad()
    def certified_context(self) -> "Context":
        """Input of the rules that makes every constant an upper bound, in float64."""
        _refresh(self._layers)
        return self._context([spectral_norm_bound(layer, self.input_shape(layer)) for layer in self._normed])

    @torch.no_grad()
    def certified(self, context: "Context | None" = None) -> Bound:
        """Bound in float64, without gradient, never below the true constants, even with rounding.

        Args:
            context: result of ``certified_context()``; None: computed here.
        """
        return self._bound(context or self.certified_context(), slack=1 + ROUNDING)

    @torch.no_grad()
    def gap(self, certified: Bound | None = None, *, steps: int = GAP_STEPS) -> float:
        """Relative gap between the certified bound and that of long power iterations.

        Power iterations estimate from below, so the true gap is at most this.

        Args:
            certified: result of ``certified()``; None: computed here.
            steps: power iterations at most, in float64; after fewer the estimate is lower.
        """
        upper = (certified or self.certified()).features.item()
        sigmas = self.power.converged(max_steps=steps)
        lower = self._bound(self._context(sigmas)).features.item()
        return upper / lower - 1 if lower else upper

    def _context(self, norms: Sequence[Constant], dtype: torch.dtype = torch.float64) -> "Context":
        return Context(dict(zip(self._normed, norms, strict=True)).__getitem__, self.input_shape, dtype)

    def _bound(self, context: "Context", slack: float = 1.0) -> Bound:
        weight = self.head.weight.to(context.dtype)
        product = self._features(context) * slack
        features = product if isinstance(product, Tensor) else weight.new_tensor(product)
        # Direct distances: no cancellation between close rows, and a zero gradient on the diagonal.
        distances = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        pairwise = features * distances
        return Bound(features, pairwise, pairwise.flatten().max(0).values, distances, weight)

    def _features(self, context: "Context") -> Constant:
        return _product(lipschitz_constant(layer, context) for layer in self.body)

    def input_shape(self, layer: nn.Module) -> tuple[int, ...]:
        shape, *others = self._shapes[layer]
        if others:
            raise UserError(f"{type(layer).__name__} is used with several input shapes: {self._shapes[layer]}")
        return shape

    def _layers_with_norms(self) -> tuple[Layer, ...]:
        """The layers whose norms the rules use; raises UserError for a layer without a rule."""
        normed: dict[Layer, None] = {}

        def norm(layer: Layer) -> Constant:
            normed[layer] = None
            return 1.0

        self._features(Context(norm, self.input_shape, torch.float64))
        return tuple(normed)


@dataclass(frozen=True)
class Context:
    """Input of a rule: norms of linear and convolution layers, input shapes of all layers, the dtype to compute in."""

    norm: Callable[[Layer], Constant]
    input_shape: Callable[[nn.Module], tuple[int, ...]]
    dtype: torch.dtype


Rule = Callable[[Any, Context], Constant]
AnyRule = TypeVar("AnyRule", bound=Callable[..., Any])
Network = TypeVar("Network", bound=nn.Module)


def lipschitz_constant(layer: nn.Module, context: Context) -> Constant:
    """Lipschitz constant of a layer, by the rule of its class.

    Raises:
        UserError: if no rule fits.
    """
    return find_rule(layer, RULES, "Lipschitz constant")(layer, context)


def find_rule(layer: nn.Module, rules: Mapping[type[nn.Module], AnyRule], what: str) -> AnyRule:
    """The rule of a layer's class. A subclass has its parent's only if it computes the same.

    Raises:
        UserError: if there is no rule, or if the layer was changed: by a subclass with methods of its own, another
            ``forward`` of this instance, or a hook that could change its inputs or outputs. ``what`` names the rule.
    """
    name = type(layer).__name__
    kind = next((kind for kind in type(layer).__mro__ if kind in rules), None)
    if kind is None:
        known = ", ".join(sorted(kind.__name__ for kind in rules))
        raise UserError(f"no {what} is known for the layer {name}; known layers: {known}")
    if change := _changed(layer, kind):
        raise UserError(f"no {what} is known for the layer {name}: {change}")
    return rules[kind]


# Hooks that make a weight before each call, and do nothing else.
WEIGHT_HOOKS = (WeightNorm, SpectralNorm, BasePruningMethod)

# What a subclass may have of its own and still compute the same.
HARMLESS = {"__init__", "__repr__", "extra_repr", "reset_parameters", "train"}
HARMLESS |= {"__getstate__", "__setstate__", "__deepcopy__"}  # of parametrised layers


def _changed(layer: nn.Module, kind: type[nn.Module]) -> str | None:
    """How a layer may compute something else than its class does; None: not at all."""
    known: Any = kind  # mypy takes classes of modules for unhashable
    own: Any = type(layer)
    if other := _overridden(own, known):
        return f"it has another {min(other)}"
    if other := _methods(known) & vars(layer).keys():
        return f"its {min(other)} was replaced"
    hooks = (layer._forward_hooks, layer._forward_pre_hooks)
    everywhere = (all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks)
    if any(not isinstance(hook, WEIGHT_HOOKS) for given in (*hooks, *everywhere) for hook in given.values()):
        return "it has a forward hook"
    return None


# Both are asked of every layer in each step of a training.
@cache
def _methods(kind: type) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))


@cache
def _overridden(own: type, kind: type) -> frozenset[str]:
    """Methods of ``kind`` that matter and that its subclass ``own`` has otherwise."""
    between = own.__mro__[: own.__mro__.index(kind)]
    return _methods(kind) & {name for parent in between for name in vars(parent)} - HARMLESS


def _refresh(layers: Iterable[nn.Module]) -> None:
    """Make the weights anew that hooks make, so that they are those of the next call."""
    for layer in layers:
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, WEIGHT_HOOKS):
                hook(layer, ())


@torch.no_grad()
def with_plain_weights(model: Network) -> Network:
    """A copy in eval mode in which parametrisations and weight norms have become the weights that they make."""
    with evaluating(model):
        _refresh(model.modules())
        made = {
            (name, kind): getattr(layer, kind).clone()
            for name, layer in model.named_modules()
            if is_parametrized(layer)
            for kind in layer.parametrizations
        }
        plain = copy.deepcopy(model).eval()
    for layer in plain.modules():
        for key, hook in list(layer._forward_pre_hooks.items()):
            if isinstance(hook, WEIGHT_HOOKS):
                hook.remove(layer)
                del layer._forward_pre_hooks[key]
    for (name, kind), value in made.items():
        layer = plain.get_submodule(name)
        remove_parametrizations(layer, kind, leave_parametrized=True)
        setattr(layer, kind, nn.Parameter(value))
    return plain


def _one(layer: nn.Module, context: Context) -> Constant:
    return 1.0


def _sequential(layer: nn.Sequential, context: Context) -> Constant:
    return _product(lipschitz_constant(child, context) for child in layer)


def _residual(layer: Residual, context: Context) -> Constant:
    shortcut = 1.0 if layer.shortcut is None else lipschitz_constant(layer.shortcut, context)
    return lipschitz_constant(layer.main, context) + shortcut


def _normalize(layer: Normalize, context: Context) -> Constant:
    return layer.std.to(context.dtype).abs().min().reciprocal()  # a tensor: reading a number from a GPU would block


def _batch_norm(layer: nn.BatchNorm2d, context: Context) -> Constant:
    if layer.running_var is None:
        raise UserError(f"{type(layer).__name__} without running statistics has no Lipschitz constant")
    scale = (layer.running_var.to(context.dtype) + layer.eps).rsqrt()
    return (scale if layer.weight is None else layer.weight.to(context.dtype).abs() * scale).max()


def _average_pool(layer: nn.AvgPool2d, context: Context) -> Constant:
    if layer.ceil_mode or (layer.padding not in (0, (0, 0)) and not layer.count_include_pad):
        raise UserError("AvgPool2d has a Lipschitz constant only if all its windows divide by the same number")
    area = math.prod(_pair(layer.kernel_size))
    # A linear map's norm is at most sqrt(largest row sum * largest column sum).
    return math.sqrt(area * _cover(layer)) / (layer.divisor_override or area)


def _adaptive_average_pool(layer: nn.AdaptiveAvgPool2d, context: Context) -> Constant:
    sizes = context.input_shape(layer)[-2:]
    outputs = [size if output is None else output for size, output in zip(sizes, _pair(layer.output_size), strict=True)]
    if any(size % output for size, output in zip(sizes, outputs, strict=True)):
        raise UserError(f"AdaptiveAvgPool2d to {tuple(outputs)} must divide its input's size; got {tuple(sizes)}")
    return math.sqrt(math.prod(outputs) / math.prod(sizes))


def _max_pool(layer: nn.MaxPool2d, context: Context) -> Constant:
    if _pair(layer.dilation) != (1, 1):
        raise UserError(f"MaxPool2d has a Lipschitz constant only without dilation; got {layer.dilation}")
    return math.sqrt(_cover(layer))


# The known layers. To add one: RULES[MyLayer] = lambda layer, context: 1.0
RULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((MinMax, nn.ReLU, nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d), _one),
    **dict.fromkeys((nn.Linear, nn.Conv2d), lambda layer, context: context.norm(layer)),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), _batch_norm),
    nn.Sequential: _sequential,
    Residual: _residual,
    Normalize: _normalize,
    nn.LeakyReLU: lambda layer, context: max(1.0, abs(layer.negative_slope)),
    nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool2d: _adaptive_average_pool,
    nn.MaxPool2d: _max_pool,
}


def _product(factors: Iterable[Constant]) -> Constant:
    """Product that takes one operation for all tensors, and none for constants that are 1."""
    constant, tensors = 1.0, []
    for factor in factors:
        if isinstance(factor, Tensor):
            tensors.append(factor)
        else:
            constant *= factor
    if not tensors:
        return constant
    product = torch.stack(tensors).prod()
    return product if constant == 1 else product * constant


def _pair(size: Any) -> tuple[Any, Any]:
    return size if isinstance(size, tuple) else (size, size)


def _cover(layer: nn.AvgPool2d | nn.MaxPool2d) -> int:
    """Largest number of windows that contain one input."""
    kernels, strides = _pair(layer.kernel_size), _pair(layer.stride)
    return math.prod(math.ceil(kernel / stride) for kernel, stride in zip(kernels, strides, strict=True))


def _flattened(model: nn.Module) -> list[nn.Module]:
    if not isinstance(model, nn.Sequential):
        return [model]
    find_rule(model, RULES, "Lipschitz constant")
    return [leaf for child in model for leaf in _flattened(child)]  # children() would skip repeated layers


def _input_shapes(model: nn.Module, input_shape: tuple[int, ...]) -> dict[nn.Module, list[tuple[int, ...]]]:
    """Input shapes of each layer, without batch and repeats, in a forward pass of zeros."""
    shapes: dict[nn.Module, list[tuple[int, ...]]] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        if not inputs:  # modules of a parametrization
            return
        shape = tuple(inputs[0].shape[1:])
        seen = shapes.setdefault(layer, [])
        if shape not in seen:
            seen.append(shape)

    hooks = [layer.register_forward_hook(record) for layer in model.modules()]
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *input_shape).to(next(model.parameters())))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes
