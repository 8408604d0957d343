"""Networks from configurations: a run's own, and those of earlier runs and of files that it builds on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trust_exp.build import build, target_of
from trust_exp.data.batch import DatasetInfo
from trust_exp.errors import UserError
from trust_exp.models.trained import Source, load_published, read_state, why_unfit
from trust_exp.references import at_paths
from trust_exp.rng import drawing_from
from trust_exp.runs import Run


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


def load_source(path: Path, node: Mapping[str, Any] | None, info: DatasetInfo) -> Source:
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
            return Source(str(path), build(node, shape=info.shape, classes=len(info.classes)), read_state(path))
        return _of_run(Run(folder), info)
    except UserError as error:
        raise UserError(f"source {path}: {error}") from error


def _of_run(run: Run, info: DatasetInfo) -> Source:
    config = (run.read("config.json") or {})["config"]
    result = run.read("result.json") or {}
    state = read_state(run.weights) if run.weights.exists() else {}
    shape = tuple(result.get("input_shape") or info.shape)
    if shape[0] != info.shape[0] or len(shape) != len(info.shape):
        raise UserError(f"it was trained on inputs of the shape {shape}; these have {tuple(info.shape)}")
    head = state.get("head.weight")
    known = result.get("classes") or (len(head) if head is not None else len(info.classes))
    names = info.classes if known == len(info.classes) else tuple(map(str, range(known)))
    own = DatasetInfo(info.name, names, shape, info.domain, info.task)
    network = make_network(_without_downloads(config), own, runs=run.folder.parent, start=not state)
    if shape != tuple(info.shape) and not _takes(network, info.shape):
        raise UserError(f"it was trained on inputs of the shape {shape} and does not take {tuple(info.shape)}")
    return Source(run.folder.name, network, state or network.state_dict())


def _without_downloads(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run whose weights are there: pretrained ones need not be fetched once more."""
    model = config["model"]
    trained = config["method"]["fit"] != "none" and "pretrained" in model
    return {**config, "model": {**model, "pretrained": False}} if trained else dict(config)


@torch.no_grad()
def _takes(network: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a network takes images of this shape, by trying it."""
    training = network.training
    try:
        network.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError):
        return False
    finally:
        network.train(training)
    return True


def load_state(network: nn.Module, weights: Path) -> None:
    """Load the weights that a run left.

    Raises:
        UserError: if they do not fit the network for these data.
    """
    try:
        network.load_state_dict(read_state(weights), strict=True)
    except RuntimeError as error:
        raise UserError(f"{weights}: {why_unfit(error)}") from error
