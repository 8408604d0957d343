"""The concepts of a data set with maps of them, and which of them an image has."""

import torch
from torch import Tensor

from trust_exp.data.batch import DatasetInfo


def concept_names(info: DatasetInfo) -> tuple[tuple[str, str], ...]:
    """Kind and name of every concept, those of the first kind first; layers of one kind share theirs."""
    return tuple(dict.fromkeys((layer.kind, name) for layer in info.layers for name in layer.concepts))


def concept_presence(concepts: Tensor, info: DatasetInfo) -> Tensor:
    """Which concepts are anywhere in each image.

    Args:
        concepts: integers [B, L, H, W], a map for each of ``info.layers``.

    Returns:
        bool [B, C], the concepts in the order of ``concept_names``.
    """
    places = {name: place for place, name in enumerate(concept_names(info))}
    found = torch.zeros(len(concepts), len(places) + 1, dtype=torch.bool, device=concepts.device)  # the last: none
    for number, layer in enumerate(info.layers):
        own = [places[layer.kind, name] for name in layer.concepts]
        table = torch.tensor([*own, len(places), len(places)], device=concepts.device)  # -1 and -2: UNKNOWN, NOTHING
        found.scatter_(1, table[concepts[:, number].flatten(1).long()], True)
    return found[:, :-1]
