"""Layers of any network by name, pattern, stage, count or percent, and what they give or are given in a pass."""

import difflib
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.modes import evaluating

Kinds = type[nn.Module] | tuple[type[nn.Module], ...] | Callable[[nn.Module], bool]

log = logging.getLogger(__name__)

_LEADS = ("features", "network")  # under which the project's models put a network
_LAST = re.compile(r"last:(\d+(?:\.\d+)?)(%?)")
_NEAREST, _LISTED = 3, 9  # names in an error: a dozen at most


class Layer(NamedTuple):
    """A layer as ``named_modules`` calls it, and how often it is called in a forward pass."""

    name: str
    module: nn.Module
    calls: int


def find_layers(
    network: nn.Module, wanted: str | int | Sequence[str | int], shape: tuple[int, ...], kinds: Kinds | None = None
) -> list[Layer]:
    """The layers asked for, each once, in the order in which a forward pass first gives their outputs.

    A request is one of

    - a name, with or without a leading "features." or "network.": ``layer3.0.conv2``;
    - a pattern, in which ``*`` stands for anything but a dot: ``layer3.*.conv2``;
    - a stage, ``stage1`` and on: the entries of ``feature_info``, as timm's networks and ours have it (``stage1`` of a
      ResNet is its stem). A layer of that name comes first;
    - a count from the end: ``last:4``, or the number 4; 0 is none;
    - a percent from the end: ``last:25%`` of the layers, rounded to the nearest number, halves up, and at least one.
      So 30 and 31 % of 13 layers are 4, as in Losch 2024, table 7.1.

    A layer that is called more than once counts where it is called first, with a warning.

    Args:
        network: in any mode, also compiled or wrapped for several devices: the names stay those of the plain network.
        shape: of one image (C, H, W), or of one vector.
        kinds: classes of layers, or a test of one: only these are counted, matched or accepted. By default
            convolutions are counted, and names and patterns are of layers of any kind.

    Raises:
        UserError: if there is no such layer, none of that kind, or a forward pass does not use it.
    """
    network = unwrapped(network)
    names, calls = layer_names(network), _calls(network, shape)
    aliases = _aliases(network, names)
    chosen: set[nn.Module] = set()
    for request in [wanted] if isinstance(wanted, str | int) else wanted:
        if isinstance(request, int) and request < 0:
            raise UserError(f"the number of layers from the end must be at least 0; got {request}")
        last = _LAST.fullmatch(f"last:{request}" if isinstance(request, int) else request)
        if last:
            chosen.update(_last(float(last[1]), bool(last[2]), list(calls), kinds or nn.Conv2d))
        else:
            chosen.update(_named(str(request), aliases, calls, kinds))
    name_of = {module: name for name, module in reversed(names.items())}  # the first of several names
    found = [Layer(name_of[module], module, count) for module, count in calls.items() if module in chosen]
    for layer in found:
        if layer.calls > 1:
            log.warning("the layer %s is called %d times in a pass; its first call counts", layer.name, layer.calls)
    return found


def activations(
    network: nn.Module, images: Tensor, names: Iterable[str], of: Literal["output", "input"] = "output"
) -> tuple[Any, dict[str, Tensor]]:
    """The output of a network for a batch, and the outputs or inputs of the named layers in that pass.

    Gradients flow as in a plain pass, also to the tensors returned: the pass goes through them. They are copies, which
    a later layer that works in place does not change. Of a layer that is called more than once it is the first call.

    Args:
        names: as ``find_layers`` returns them.
        of: "output" of the layers, or their first "input".

    Raises:
        UserError: if there is no such layer, the pass does not use it, or what it gives is not a single tensor.
    """
    network = unwrapped(network)
    modules, kept = layer_names(network), dict[str, Tensor]()
    names = list(names)
    for name in names:
        if name not in modules:
            raise _unknown(name, _aliases(network, modules))

    def keep(name: str, value: Any) -> Any:
        if name in kept:
            return value
        if not isinstance(value, Tensor):
            raise UserError(f"the layer {name!r} has no single tensor as its {of}, but a {type(value).__name__}")
        kept[name] = value.clone()
        return kept[name].clone()

    with ExitStack() as hooks, _eager(network):
        for name in names:
            if of == "output":
                handle = modules[name].register_forward_hook(lambda _, given, out, name=name: keep(name, out))
            else:
                handle = modules[name].register_forward_pre_hook(
                    lambda _, given, name=name: (keep(name, given[0] if given else None), *given[1:])
                )
            hooks.enter_context(handle)
        output = network(images)
    for name in names:
        if name not in kept:
            raise _unused(name)
    return output, {name: kept[name] for name in names}


@contextmanager
def listening(modules: Mapping[str, nn.Module], heard: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Call ``heard(name, inputs, output)`` after each call of the modules, while the body runs."""
    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(
                module.register_forward_hook(lambda _, given, output, name=name: heard(name, given, output))
            )
        yield


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``."""
    while True:
        if isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


def layer_names(network: nn.Module) -> dict[str, nn.Module]:
    """All modules of a plain network by name, without itself; parts that are compiled have the names of plain ones."""
    named = network.named_modules(remove_duplicate=False)
    plain = ((".".join(part for part in name.split(".") if part != "_orig_mod"), module) for name, module in named)
    return {name: module for name, module in plain if name}


@torch.no_grad()
def _calls(network: nn.Module, shape: tuple[int, ...]) -> dict[nn.Module, int]:
    """How often each module is called in a pass, in the order of their first outputs."""
    calls: dict[nn.Module, int] = {}
    modules = list(dict.fromkeys(layer_names(network).values()))

    def count(name: str, *_: Any) -> None:
        module = modules[int(name)]
        calls[module] = calls.get(module, 0) + 1

    like = next((each for each in chain(network.parameters(), network.buffers()) if each.is_floating_point()), None)
    images = torch.zeros(1, *shape) if like is None else like.new_zeros(1, *shape)
    by_number = {str(number): module for number, module in enumerate(modules)}
    with listening(by_number, count), evaluating(network), _eager(network):
        network(images)
    return calls


def _eager(network: nn.Module) -> Any:
    """Compiled parts run as they are written, for hooks that are set after the compilation are not called in them."""
    compiled = any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in network.modules())
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def _aliases(network: nn.Module, names: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """All that a layer may be called: by its name, without what leads to it, and as a stage."""
    aliases = dict(names)
    for name, module in names.items():
        lead, _, rest = name.partition(".")
        while lead in _LEADS and rest:
            aliases.setdefault(rest, module)
            lead, _, rest = rest.partition(".")
    for number, name in enumerate(_stages(network), 1):
        if name in names:
            aliases.setdefault(f"stage{number}", names[name])
    return aliases


def _stages(network: nn.Module) -> list[str]:
    """Names of the stages: those of the outermost part that says what they are."""
    for name, part in network.named_modules():
        info: Any = getattr(part, "feature_info", None)
        if info is not None:
            lead = "".join(f"{step}." for step in name.split(".") if step and step != "_orig_mod")
            return [lead + entry["module"] for entry in info]
    return []


def _is_of(module: nn.Module, kinds: Kinds) -> bool:
    return isinstance(module, kinds) if isinstance(kinds, type | tuple) else kinds(module)


def _in_words(kinds: Kinds) -> str:
    if isinstance(kinds, type):
        return kinds.__name__
    return " or ".join(kind.__name__ for kind in kinds) if isinstance(kinds, tuple) else "the kind that is asked for"


def _last(amount: float, percent: bool, called: Sequence[nn.Module], kinds: Kinds) -> Sequence[nn.Module]:
    layers = [module for module in called if _is_of(module, kinds)]
    asked = f"last:{amount:g}{'%' if percent else ''}"
    if not percent and not amount.is_integer():
        raise UserError(f"{asked} is no whole number of layers; a share of them is last:<number>%")
    if amount > (100 if percent else len(layers)):
        raise UserError(f"{asked} is beyond the network, which has {len(layers)} layers of {_in_words(kinds)}")
    if percent and amount and not layers:
        raise UserError(f"{asked}: the network has no layers of {_in_words(kinds)}")
    count = int(amount)
    if percent:
        count = max(1, math.floor(len(layers) * amount / 100 + 0.5)) if amount else 0
    return layers[len(layers) - count :]


def _named(
    request: str, aliases: Mapping[str, nn.Module], calls: Mapping[nn.Module, int], kinds: Kinds | None
) -> list[nn.Module]:
    """The layer of that name, or all that fit the pattern."""
    if request in aliases:
        module = aliases[request]
        if kinds is not None and not _is_of(module, kinds):
            raise UserError(f"the layer {request!r} is a {type(module).__name__}; it must be of {_in_words(kinds)}")
        if module not in calls:
            raise _unused(request)
        return [module]
    matching = [module for name, module in aliases.items() if _fits(name, request)]
    if not matching:
        raise _unknown(request, aliases)
    found = [module for module in matching if module in calls and (kinds is None or _is_of(module, kinds))]
    if not found:
        kind = "" if kinds is None else f" of {_in_words(kinds)}"
        raise UserError(f"none of the layers {request!r}{kind} is used in a forward pass")
    return found


def _fits(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _unused(name: str) -> UserError:
    return UserError(f"the layer {name!r} is not called in a forward pass in eval mode; choose a layer that is")


def _unknown(request: str, aliases: Mapping[str, nn.Module]) -> UserError:
    """Error for a name that does not exist: the nearest names, and those at its place in the network."""
    nearest: dict[nn.Module, str] = {}
    for name in difflib.get_close_matches(request, aliases, n=2 * _NEAREST, cutoff=0.6):
        nearest.setdefault(aliases[name], name)
    guess = f"did you mean {', '.join(islice(nearest.values(), _NEAREST))}? " if nearest else ""
    return UserError(f"the layer {request!r} does not exist; {guess}{_neighbours(request, aliases)}")


def _neighbours(request: str, aliases: Mapping[str, nn.Module]) -> str:
    """The parts of the deepest layer that exists on the way to the request, or the stages."""
    stages = [name for name in aliases if re.fullmatch(r"stage\d+", name)]
    if re.fullmatch(r"stage\d+", request):
        return f"the stages are {_listed(stages)}" if stages else "this network does not say what its stages are"
    parent = request
    while parent and parent not in aliases:
        parent = parent.rpartition(".")[0]
    lead = f"{parent}." if parent else ""
    parts = [name.removeprefix(lead) for name in aliases if name.startswith(lead) and "." not in name[len(lead) :]]
    return f"{parent or 'the network'} has {_listed(parts) or 'no parts'}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_LISTED], *(["..."] if len(names) > _LISTED else [])])
