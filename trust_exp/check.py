"""From a composed configuration to checked values, or one sentence that says what is wrong. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from trust_exp.config import RootConfig
from trust_exp.contract import check_fit
from trust_exp.errors import UserError
from trust_exp.overrides import key_of
from trust_exp.references import Describe, network_of, resolve_references
from trust_exp.schema import check_node, to_plain

ROOT_SCHEMA = f"{RootConfig.__module__}:{RootConfig.__name__}"


def check_parts(config: DictConfig, describe: Describe) -> dict[str, Any]:
    """Turn a composed configuration into plain values of the right types that fit each other.

    Args:
        describe: gives the run that overrides in brackets describe.

    Raises:
        UserError: naming the key, the value given and what is allowed.
    """
    try:
        plain = {str(key): to_plain(config, str(key)) for key in config if key != "hydra"}
    except OmegaConfBaseException as error:
        raise UserError(str(error).splitlines()[0]) from error
    checked = check_node(plain, "", ROOT_SCHEMA)
    for group in ("method", "model", "dataset", "logger"):
        checked[group] = check_node(checked[group], group)
    evals = dict(checked["eval"] or {})
    checked["usual_evals"] = bool(evals.pop("usual", False))
    # An eval that a recipe tunes but nobody asked for has values, but no schema; one that it leaves out is null.
    chosen = {name: node for name, node in evals.items() if node and "_schema_" in node}
    checked["eval"] = {name: check_node(node, f"eval.{name}") for name, node in chosen.items()}
    resolve_references(checked, describe)
    if checked["mode"] == "eval":  # then the stored run's model decides
        return checked
    checked = leave_out_evals(checked, describe)
    watched_evals(checked)
    return checked


def leave_out_evals(checked: dict[str, Any], describe: Describe) -> dict[str, Any]:
    """The same without the evals that cannot be asked of this run; ``left_out`` then says why.

    Raises:
        UserError: if parts do not fit, or an eval that was asked for by its name does not; see ``contract.check_fit``.
    """
    left_out = check_fit(checked, network_of(checked, describe))
    if not left_out:
        return checked
    chosen = {name: node for name, node in checked["eval"].items() if name not in left_out}
    return {**checked, "eval": chosen, "left_out": left_out}


def refuse_idle_overrides(overrides: Sequence[str], checked: Mapping[str, Any]) -> None:
    """Raise UserError for a value without effect: of an eval that is not run, or of a training that there is not."""
    chosen, left_out = checked["eval"], checked.get("left_out", {})
    method = checked["method"]
    for text in overrides:
        parts = key_of(text).name.split(".")
        if parts[0] == "fit" and method["fit"] == "none":
            raise UserError(f"{text} changes nothing, as method={method['name']} trains nothing; leave it out")
        if parts[0] == "eval" and len(parts) > 2 and parts[1] not in chosen:
            why = f"left out ({left_out[parts[1]]})" if parts[1] in left_out else "not chosen"
            raise UserError(f"{text} changes nothing, as eval={parts[1]} is {why}; there runs {', '.join(chosen)}")


def watched_evals(checked: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of the evals that are asked while the network is trained, by their names.

    Raises:
        UserError: for a metric of an eval that is not chosen or has data of its own, or if no step trains the network.
    """
    watch, chosen, left_out = checked["fit"].get("watch"), checked["eval"], checked.get("left_out", {})
    if watch is None:
        return {}
    if checked["method"]["fit"] != "gradient":
        raise UserError(f"fit.watch looks at a network between epochs; method={checked['method']['name']} has none")
    found = {}
    for metric in watch["metrics"]:
        name = metric.partition("/")[0]
        if name not in chosen:
            why = f"left out ({left_out[name]})" if name in left_out else "not chosen"
            raise UserError(
                f"fit.watch.metrics={metric} cannot be watched, as eval={name} is {why}; "
                f"the evals of this run are {', '.join(chosen) or 'none'}"
            )
        if chosen[name].get("data") is not None:
            raise UserError(
                f"fit.watch.metrics={metric} cannot be watched, as eval.{name}.data={chosen[name]['data']['name']} "
                "is not what the network is trained on"
            )
        found[name] = chosen[name]
    return found
