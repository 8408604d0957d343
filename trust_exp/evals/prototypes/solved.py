"""Prototypes of a plain classifier, solved once and kept in the run's folder without the network's weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from trust_exp.errors import UserError
from trust_exp.evals.suite import Context
from trust_exp.models.prototype_options import PrototypeOptions
from trust_exp.models.prototype_solver import Found, PrototypeSolver, unsolved
from trust_exp.models.prototypes import PrototypeModel
from trust_exp.saving import load_whole, save_whole


def solved(context: Context, options: PrototypeOptions) -> tuple[PrototypeModel, Mapping[str, Mapping[str, float]]]:
    """The context's network in prototypes of its data's training images, and what was measured as they were solved.

    They are kept under ``solved/`` of the run's folder, and taken from there when the same is asked again. Every
    process returns the same.

    Raises:
        UserError: if the network or the data give no prototypes.
    """
    model = unsolved(context.model, context.info, options)
    model = model.to(model.reader.weight.device).eval()
    solver = PrototypeSolver(model, context.data, options)
    made_from = _origin(context, options)
    path = context.folder / "solved" / f"prototypes-{_digest(made_from)}.pt"
    found: Found | None = context.gather(_read(path, made_from) if context.rank == 0 else None)[0]
    if found is None:
        mine = solver.solve_all(context.rank, context.world, context.progress)
        found = {label: values for part in context.gather(mine) for label, values in part.items()}
        if context.rank == 0:
            save_whole({"made_from": made_from, "found": found}, path)
    solver.keep(found)
    return model, solver.measured


def _origin(context: Context, options: PrototypeOptions) -> dict[str, Any]:
    """All that decides the prototypes of a run's network, JSON-like."""
    data = context.data
    served = torch.stack([data.served("train"), data.served_labels("train")]).numpy().astype("<i8")
    return {
        "options": asdict(options),
        "seed": data.seed,
        "shape": list(context.info.shape),
        "data": {"name": data.name, **data.origin()},
        "images": hashlib.sha256(served.tobytes()).hexdigest(),
    }


def _digest(made_from: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:10]


def _read(path: Path, made_from: Mapping[str, Any]) -> Found | None:
    """The kept prototypes, if they are of the same origin and can be read."""
    try:
        kept = load_whole(path)
    except UserError:
        return None
    found: Found | None = kept.get("found") if kept.get("made_from") == made_from else None
    return found
