"""A classifier as tokens and a linear head, logits = pool(tokens) V^T + bias, found from one forward pass."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.models.layers import listening
from trust_exp.models.outputs import behind
from trust_exp.modes import evaluating

Chosen = Literal["all", "patches", "class"]

_MOST_PREFIX = 8  # class, distillation and register tokens of a transformer
_EXACT = 1e-4  # relative: two ways to the same number in float32


@dataclass(frozen=True)
class Layout:
    """Where the tokens are in a module's output, and how the head reads them.

    Attributes:
        module: the name of the module.
        channels_first: the output is [B, D, H, W], otherwise [B, ..., D].
        prefix: number of leading tokens that are not patches of the image.
        grid: height and width of the patches.
        class_token: the head reads the first token, not the mean of the patches or of all tokens.
        mean_of_all: the mean includes the prefix.
        norm: the name of a layer norm after the pooling, if there is one.
        given: the tokens are the module's input, not its output.
    """

    module: str
    channels_first: bool
    prefix: int
    grid: tuple[int, int]
    class_token: bool = False
    mean_of_all: bool = False
    norm: str | None = None
    given: bool = False


class TokenReader(nn.Module):
    """The tokens and the head of a trained classifier of any architecture.

    The last layer must be linear. The tokens are the largest map before it whose mean or first token is the head's
    input. A layer norm after the mean is applied to each token with the statistics of the mean, which gives the same
    logits. Without such a map, the head's input is the only token. The logits are checked against the network's, and a
    network whose logits differ is refused.

    Args:
        network: maps images to logits [B, N], or explains one that does; becomes a submodule; it is inspected in eval
            mode.
        shape: of one image, (C, H, W), or of one vector.
        tokens: for a network with a class token. "all": the head reads the class token, and prototypes are made of all
            tokens; "class": prototypes are made of the class token alone, so they have no place in the image;
            "patches": the head reads the mean of the patches instead, which is another classifier.

    Raises:
        UserError: if the last layer is not linear, or the logits differ from the network's.

    Source: Tan et al. 2024 and ProtoNMF (2023) for the identity.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], tokens: Chosen = "all") -> None:
        super().__init__()
        self.network, self.tokens = behind(network), tokens
        network, self.shape = self.network, tuple(shape)
        device = next(network.parameters()).device
        images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        self.head_name, self.layout = _look(network, images)
        if tokens != "all" and not self.layout.class_token:
            raise UserError(f"tokens={tokens} is for networks with a class token; this one has none")
        if tokens != "patches":
            self._check(images)

    def check_classes(self, info: Any) -> None:
        """Raise UserError if the head has another number of classes than data, a ``DatasetInfo``."""
        if len(self.weight) != len(info.classes):
            raise UserError(
                f"the network has {len(self.weight)} classes; dataset={info.name} has {len(info.classes)}; "
                "choose data of the classes that it was trained on"
            )

    @property
    def weight(self) -> Tensor:
        """V, [N, D]."""
        weight: Tensor = self.network.get_submodule(self.head_name).weight  # type: ignore[assignment]
        return weight

    @property
    def bias(self) -> Tensor:
        """[N]; zeros for a head without a bias."""
        bias: Tensor | None = self.network.get_submodule(self.head_name).bias  # type: ignore[assignment]
        return self.weight.new_zeros(len(self.weight)) if bias is None else bias

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the patches."""
        return self.layout.grid

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, D], the prefix first, and the logits [B, N] of the network itself."""
        calls: list[tuple[str, Any, Any]] = []
        module = self.network.get_submodule(self.layout.module)
        with listening({self.layout.module: module}, lambda *call: calls.append(call)):
            logits = self.network(images)  # a hook that stayed would be the original's in a copy
        _, (given, *_), output = calls[-1]
        return _tokens(given if self.layout.given else output, self.layout, self._norm()), logits

    def pooled(self, tokens: Tensor) -> Tensor:
        """The head's input, [B, D]."""
        if self.layout.class_token and self.tokens != "patches":
            return tokens[:, 0]
        return (tokens if self.layout.mean_of_all else tokens[:, self.layout.prefix :]).mean(1)

    def material(self, tokens: Tensor) -> Tensor:
        """The tokens that prototypes are made of, [B, T', D]."""
        if self.layout.class_token and self.tokens == "class":
            return tokens[:, :1]
        return tokens if self.layout.class_token and self.tokens == "all" else self.patches(tokens)

    def patches(self, tokens: Tensor) -> Tensor:
        """The tokens that have a place in the image, [B, H W, D], row by row."""
        return tokens[:, self.layout.prefix :]

    def _norm(self) -> "Callable[[Tensor], Tensor] | None":
        """The norm after the pooling as a function of tokens, with the statistics of their mean."""
        if self.layout.norm is None:
            return None
        layer: Any = self.network.get_submodule(self.layout.norm)
        return lambda tokens: _normalised(tokens, layer)

    @torch.no_grad()
    def _check(self, images: Tensor) -> None:
        with evaluating(self.network):
            tokens, logits = self(images)
            again = self.pooled(tokens) @ self.weight.mT + self.bias
        difference = float((again - logits).abs().max())
        if not difference <= _EXACT * max(1.0, float(logits.abs().max())):
            raise UserError(
                "the network's logits are not its linear head applied to the mean token: "
                f"they differ by {difference:.2g} (tokens of {self.layout.module!r})"
            )


# --- the search -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def _look(network: nn.Module, images: Tensor) -> tuple[str, Layout]:
    """The name of the head, and the layout of the tokens."""
    calls: list[tuple[str, Any, Any]] = []
    modules = {name: module for name, module in network.named_modules() if name}
    with listening(modules, lambda *call: calls.append(call)), evaluating(network):
        logits = network(images)
    if not logits.isfinite().all():
        raise UserError("the network's logits are not finite; its weights are damaged or belong to another network")
    heads = [call for call in calls if isinstance(network.get_submodule(call[0]), nn.Linear) and call[2] is logits]
    heads = heads or [call for call in calls if _is_head(network.get_submodule(call[0]), call[2], logits)]
    if not heads:
        raise UserError(
            f"the last layer of {type(network).__name__} is not linear, so its decision is not a sum over prototypes"
        )
    head, (read, *_), _ = heads[-1]
    layouts = [
        layout
        for name, _, output in calls
        if isinstance(output, Tensor) and (layout := _layout_of(name, output, read, images, calls, network)) is not None
    ]
    best = max(enumerate(layouts), key=lambda item: (math.prod(item[1].grid), item[0]), default=None)
    return head, Layout(head, False, 0, (1, 1), given=True) if best is None else best[1]


def _is_head(module: nn.Module, output: Any, logits: Tensor) -> bool:
    return isinstance(module, nn.Linear) and output.shape == logits.shape and torch.equal(output, logits)


def _layout_of(
    name: str, output: Tensor, read: Tensor, images: Tensor, calls: list[tuple[str, Any, Any]], network: nn.Module
) -> Layout | None:
    """The layout of the tokens in ``output`` if the head reads them, else None."""
    width = read.shape[-1]
    if output.dim() not in (3, 4) or len(output) != len(read) or read.dim() != 2:
        return None
    for first in (True, False):
        if (first and output.dim() != 4) or output.shape[1 if first else -1] != width:
            continue
        grid = tuple(output.shape[2:]) if first else tuple(output.shape[1:-1])
        possible = [(0, grid)] if output.dim() == 4 else list(prefixes(grid[0], images))
        for prefix, places in possible:
            layout = Layout(name, first, prefix, (int(places[0]), int(places[1])))
            if (complete := _reading_of(layout, output, read, calls, network)) is not None:
                return complete
    return None


def prefixes(tokens: int, images: Tensor) -> Iterator[tuple[int, tuple[int, int]]]:
    """Possible numbers of tokens before a grid of patches with about the image's aspect ratio, and the grids."""
    ratio = images.shape[2] / images.shape[3] if images.dim() == 4 else 1.0
    for prefix in range(min(_MOST_PREFIX, tokens - 1) + 1):
        height = round(math.sqrt((tokens - prefix) * ratio))
        if height and (tokens - prefix) % height == 0 and abs(height * height / (tokens - prefix) / ratio - 1) < 0.2:
            yield prefix, (height, (tokens - prefix) // height)


def _reading_of(
    layout: Layout, output: Tensor, read: Tensor, calls: list[tuple[str, Any, Any]], network: nn.Module
) -> Layout | None:
    tokens = _tokens(output, layout, None)
    patches = tokens[:, layout.prefix :]
    if _same(patches.mean(1), read):
        return layout
    if layout.prefix and _same(tokens.mean(1), read):
        return Layout(**{**vars(layout), "mean_of_all": True})
    if layout.prefix and _same(tokens[:, 0], read):
        return Layout(**{**vars(layout), "class_token": True})
    for name, given, after in calls:
        if isinstance(network.get_submodule(name), nn.LayerNorm) and isinstance(after, Tensor):
            fits = given[0].numel() == read.numel() == after.numel()
            if fits and _same(after.flatten(1), read) and _same(patches.mean(1), given[0].flatten(1)):
                return Layout(**{**vars(layout), "norm": name})
    return None


def _tokens(output: Tensor, layout: Layout, norm: Callable[[Tensor], Tensor] | None) -> Tensor:
    """[B, T, D] from a module's output or input."""
    tokens = output.flatten(2).mT if layout.channels_first else output.reshape(len(output), -1, output.shape[-1])
    return tokens if norm is None else norm(tokens)


def _normalised(tokens: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Tokens [B, T, D] under the layer norm with the statistics of their mean, so that their mean is its output."""
    mean = tokens.mean(1, keepdim=True)
    scale = (mean.var(2, correction=0, keepdim=True) + layer.eps).rsqrt()
    out = (tokens - mean.mean(2, keepdim=True)) * scale
    if layer.weight is not None:
        out = out * layer.weight
    return out if layer.bias is None else out + layer.bias


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= _EXACT * other.abs().max().clamp_min(1e-6))
