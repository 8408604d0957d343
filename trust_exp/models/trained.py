"""The network of an earlier run, or of a file of weights."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.errors import UserError
from trust_exp.models.outputs import behind
from trust_exp.saving import all_finite


@dataclass(frozen=True)
class SourceNetwork:
    """A network that was trained before.

    Attributes:
        name: of the run or file, for messages.
        network: made anew; its weights are not loaded.
        state: its weights.
    """

    name: str
    network: nn.Module
    state: Mapping[str, Tensor]

    def behind(self) -> "SourceNetwork":
        """The classifier that the network explains, as a source; this one if it explains none.

        Raises:
            UserError: if the weights do not fit the network.
        """
        if behind(self.network) is self.network:
            return self
        found = behind(trained_network((), 0, self))
        return SourceNetwork(self.name, found, found.state_dict())


def trained_network(shape: tuple[int, ...], classes: int, source: SourceNetwork) -> nn.Module:
    """The network of a run with its weights, head and all, for as many classes as it has.

    Raises:
        UserError: if the weights do not fit the network.
    """
    model = source.network
    try:
        model.load_state_dict(source.state, strict=True)
    except RuntimeError as error:
        raise UserError(f"source {source.name}: {why_unfit(error)}") from error
    return model


LONGEST_NAME = 1000  # of a class in a pickle

# What people call the weights in a file that holds more, the usual ones first.
STATE_NAMES = ("state_dict", "model_state_dict", "model", "net", "network")


class _ShortLines(io.BufferedReader):
    """A file without lines that are longer than any name: torch's message about one takes the square of its length."""

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(LONGEST_NAME + 1)
        if len(line) > LONGEST_NAME:
            raise ValueError("a name in it is too long")
        return line


def read_state(path: Path) -> Mapping[str, Tensor]:
    """The state of a network in a file, which may hold it under a name such as "state_dict", "model" or "net".

    What ``torch.compile`` puts before the names of weights is left out.

    Raises:
        UserError: if the file cannot be read without unpickling objects, holds anything else, or weights that are not
            finite.
    """
    try:
        with _ShortLines(io.FileIO(path)) as file:
            old = file.peek(2)[:2] != b"PK"  # of torch before 1.6; new ones are read faster by their path
            content = torch.load(file if old else path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, some of which advise to unpickle whatever it holds
        raise UserError(
            f"{path} cannot be read as weights: it is none, is damaged, or holds more than tensors and plain values"
        ) from error
    state = _state_in(content)
    if state is None:
        found = f"; it holds {', '.join(map(str, content))}" if isinstance(content, dict) and content else ""
        raise UserError(f"{path} holds no state of a network{found}")
    if bad := [name for name, value in state.items() if not all_finite([value])]:
        raise UserError(f"{path} holds weights that are not finite: {bad[0]}{' and others' if len(bad) > 1 else ''}")
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}


def _state_in(content: Any) -> dict[str, Tensor] | None:
    """The dictionary of tensors that a file holds, itself or under a name of its own."""

    def is_state(value: Any) -> bool:
        return isinstance(value, dict) and bool(value) and all(isinstance(one, Tensor) for one in value.values())

    if not isinstance(content, dict) or is_state(content):
        return content if is_state(content) else None
    held = {name: value for name, value in content.items() if is_state(value)}
    usual = [name for name in STATE_NAMES if name in held] or (list(held) if len(held) == 1 else [])
    return held[usual[0]] if usual else None


def why_unfit(error: RuntimeError) -> str:
    """In one sentence what ``load_state_dict`` said."""
    reason = " ".join(str(error).split("\n", 2)[1].split())
    return f"the weights do not fit the network for these data: {reason}"


def load_published(model: nn.Module, path: Path) -> None:
    """Load a file of weights into a model, whatever its author put before the names.

    The names are compared without what they begin with: "module." and the like of the file, "features." of the model.
    A linear head may have any name. What the pixels are normalised by is the model's own.

    Args:
        path: of a file, or of a run.

    Raises:
        UserError: if the file cannot be read, or its weights belong to another network.
    """
    state = read_state(path / "weights.pt" if path.is_dir() else path)
    own = model.state_dict()
    if set(state) != set(own):
        state = _renamed(state, own, path)
    try:
        model.load_state_dict({**{name: own[name] for name in own if _may_be_missing(name)}, **state}, strict=True)
    except RuntimeError as error:
        raise UserError(f"checkpoint {path}: {why_unfit(error)}") from error


def _may_be_missing(name: str) -> bool:
    """Whether a file written by other code may lack it: our normalisation, or a counter that torch added later."""
    return name in ("normalize.mean", "normalize.std") or name.endswith(".num_batches_tracked")


def _renamed(state: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """``state`` with the names of ``own``."""
    for lead in ("module.", "model.", "net.", "network."):
        if all(name.startswith(lead) for name in state):
            state = {name.removeprefix(lead): value for name, value in state.items()}
    names = {name.removeprefix("features.").removeprefix("network."): name for name in own} | {
        name: name for name in own
    }
    found = {names[name]: value for name, value in state.items() if name in names}
    left = [name for name in state if name not in names]
    linear = [name for name in left if name.endswith(".weight") and state[name].dim() == 2]
    if "head.weight" in own and "head.weight" not in found and len(linear) == 1:
        stem = linear[0].removesuffix("weight")
        for part in ("weight", "bias"):
            if stem + part in left:
                found[f"head.{part}"] = state[stem + part]
                left.remove(stem + part)
    missing = [name for name in own if name not in found and not _may_be_missing(name)]
    if left or missing:
        reason = f"the network has no {left[0]!r}" if left else f"it lacks {missing[0]!r}"
        matches = f"{len(found)} of {len(own)} names match"
        raise UserError(f"checkpoint {path} belongs to another network: {reason} ({matches})")
    return found
