"""Networks from configurations: a run's own, and those of earlier runs and of files that it builds on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.build import build, target_of
from trust_exp.data.batch import DatasetInfo
from trust_exp.errors import UserError
from trust_exp.models.trained import SourceNetwork, load_published, read_state, why_unfit
from trust_exp.modes import evaluating
from trust_exp.references import at_paths
from trust_exp.rng import drawing_from
from trust_exp.runs import Run
from trust_exp.saving import check_whole


def make_network(
    config: Mapping[str, Any], info: DatasetInfo, *, runs: Path | None = None, start: bool = True
) -> nn.Module:
    """The network of a checked configuration: what its method makes of its model.

    Args:
        info: the data that it is for.
        runs: where the runs are that it builds on; None: where the configuration says.
        start: load the checkpoint that the configuration names, which a network needs that was not trained yet.

    Raises:
        UserError: if the model cannot be made for these data, or what it builds on is gone or does not fit.
    """
    node = at_paths(config, "model", runs)
    given: dict[str, Any] = {}
    if node.get("source") is not None:
        given["source"] = load_source(Path(node["source"]), node.get("network"), info)
        node = {key: value for key, value in node.items() if key != "network"}
    with drawing_from(config["seed"], "model"):
        model: nn.Module = build(node, shape=info.shape, classes=len(info.classes), **given)
    if start and config.get("checkpoint") is not None:
        load_published(model, Path(at_paths(config, "checkpoint", runs)))
    method = config["method"]
    with drawing_from(config["seed"], "network"):  # whatever the model was, and whether or not the method takes it
        network: nn.Module = target_of(method).network(model, info, method)
    return network


def load_source(path: Path, node: Mapping[str, Any] | None, info: DatasetInfo) -> SourceNetwork:
    """The network of a run, as its method made it and with as many classes as it has; or that of a file of weights.

    Args:
        path: the folder of a run, its weights.pt, or a file of weights alone.
        node: the checked node of the model that a file of weights alone is of.
        info: the data that it is to be used on; images may have another size if the network takes them.

    Raises:
        UserError: if it is not said which network that is, the file cannot be read, or it takes other inputs.
    """
    folder = path if path.is_dir() else path.parent
    alone = not (folder / "config.json").is_file() or (path.is_file() and path.name != "weights.pt")
    if alone == (node is None):
        raise UserError(
            f"the file {path} does not say which network it is of: +model@model.network=<model>"
            if alone
            else f"the run in {folder} says which network it has; leave out model.network"
        )
    try:
        if node is not None:
            node = {**node, **({"pretrained": False} if "pretrained" in node else {})}
            return SourceNetwork(str(path), build(node, shape=info.shape, classes=len(info.classes)), read_state(path))
        return _of_run(Run(folder), info)
    except UserError as error:
        raise UserError(f"source {path}: {error}") from error


def _of_run(run: Run, info: DatasetInfo) -> SourceNetwork:
    config = run.configuration()["config"]
    result = run.read("result.json") or {}
    state: Mapping[str, Tensor] = {}
    if run.weights.exists():
        check_whole(run.weights)
        state = read_state(run.weights)
    shape = tuple(result.get("input_shape") or info.shape)
    if shape[0] != info.shape[0] or len(shape) != len(info.shape):
        raise UserError(f"it was trained on inputs of the shape {shape}; these have {tuple(info.shape)}")
    classes = result.get("classes") or _width_of_head(state) or len(info.classes)
    names = info.classes if classes == len(info.classes) else tuple(map(str, range(classes)))
    source_info = DatasetInfo(info.name, names, shape, info.domain, info.task)
    network = _made(run, config, source_info, state)
    if shape != tuple(info.shape):
        network = _for_other_size(run, config, replace(source_info, shape=info.shape), state, network, shape)
    return SourceNetwork(run.folder.name, network, state or network.state_dict())


def _made(run: Run, config: Mapping[str, Any], info: DatasetInfo, state: Mapping[str, Tensor]) -> nn.Module:
    return make_network(_without_downloads(config), info, runs=run.folder.parent, start=not state)


def _width_of_head(state: Mapping[str, Tensor]) -> int | None:
    """The number of classes of a run that did not record it: the length of what its last layer adds."""
    return next((len(value) for value in reversed(list(state.values())) if value.dim()), None)


def _without_downloads(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run whose weights are there: pretrained ones need not be fetched once more."""
    model = config["model"]
    trained = config["method"]["fit"] != "none" and "pretrained" in model
    return {**config, "model": {**model, "pretrained": False}} if trained else dict(config)


@torch.no_grad()
def _for_other_size(
    run: Run,
    config: Mapping[str, Any],
    info: DatasetInfo,
    state: Mapping[str, Tensor],
    trained: nn.Module,
    shape: tuple[int, ...],
) -> nn.Module:
    """The network of a run for images of another size, if it has the same weights for them.

    Args:
        info: the other images.
        trained, shape: the network for those that it was trained on, and their shape.

    Raises:
        UserError: if it has not.
    """
    try:
        network = _made(run, config, info, state)
        takes = _shapes(network) == _shapes(trained)
        with evaluating(network):
            network(torch.zeros(1, *info.shape))
    except (RuntimeError, ValueError, AssertionError):
        takes = False
    if not takes:
        raise UserError(
            f"it was trained on inputs of the shape {tuple(shape)} and its weights do not fit {tuple(info.shape)}; "
            "a network that averages over all places before its head takes images of any size"
        )
    return network


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}


def load_state(network: nn.Module, weights: Path) -> None:
    """Load the weights that a run left.

    Raises:
        UserError: if they do not fit the network for these data.
    """
    try:
        network.load_state_dict(read_state(weights), strict=True)
    except RuntimeError as error:
        raise UserError(f"{weights}: {why_unfit(error)}") from error
