"""Prototypes of a network: how much of its decision they carry, and how far an expert could correct it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trust_exp.data.batch import Batch, Split
from trust_exp.errors import UserError, unknown
from trust_exp.evals.deletion import deletion_rows
from trust_exp.evals.prototypes.config import HAS_ITS_OWN
from trust_exp.evals.prototypes.pictures import PrototypePictures
from trust_exp.evals.prototypes.solved import solved
from trust_exp.evals.suite import Outcomes, Report, Suite, split_prefix
from trust_exp.explain.linear_head import similarity
from trust_exp.models.prototype_options import PrototypeOptions
from trust_exp.models.prototypes import PrototypeModel, without
from trust_exp.results.record import Row, fraction
from trust_exp.verdicts import predicted

MEASURED = {  # where prototypes are solved, means over the classes, and their units
    "feature_error": "features",
    "relative_feature_error": "fraction",
    "head_error": "weights",
    "relative_head_error": "fraction",
    "augmentation_shift": "ratio",
    "cancelled": "fraction",  # of the classes for which Eq. 8 would have turned or blown up the prototypes
}


class PrototypeSuite(Suite):
    """Accuracy with the prototypes alone, with the residual alone and with both, for every number of prototypes.

    The bias counts as neither: all three have it. The intervention is an oracle's: where the prediction is wrong, the
    prototype with the largest coefficient of the predicted class contributes nothing, once. It can gain no more than
    dropping the predicted class altogether would, which is printed beside it.

    Args:
        splits: which are asked; pictures are of the last one.
        pictures: of how many classes; 0: none.
        classes: names of those that have pictures; empty: the first ones.
        images: how many of a class are looked through for them.
        deletion: how many of the last split's images are asked what happens without their important places.
        drop: prototypes that are to contribute nothing, as "<class>:<number>", the number as in the pictures, from 1;
            if given, what that does to the predictions is told and drawn in the place of the oracle's choice.
        drop_in: numbers of the images that it is done to; empty: all of them.
        solve: the values of ``PrototypeOptions``, with which prototypes are solved for a network that has none.

    Source: ProtoNMF (2023), tables 3 and 4 and figure 5.
    """

    name = "prototypes"
    model: PrototypeModel

    def __init__(
        self,
        splits: Sequence[Split],
        pictures: int,
        classes: Sequence[str],
        images: int,
        deletion: int,
        drop: Sequence[str],
        drop_in: Sequence[int],
        solve: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.options = PrototypeOptions(**(solve or {}))
        self.splits, self.pictures, self.images, self.deletion = tuple(splits), pictures, images, deletion
        self.classes, self.drop, self.drop_in = classes, drop, drop_in

    def prepare(self) -> None:
        self.model, self.measured = self._in_prototypes()
        self.dropped: dict[int, list[int]] = {}
        for text in self.drop:
            name, colon, number = text.rpartition(":")
            if not colon or not number.isdecimal() or not 1 <= int(number) <= self.model.counts[0]:
                raise UserError(
                    f"eval.prototypes.drop must name a class and one of its prototypes, 1 to {self.model.counts[0]}, "
                    f"such as {self.context.info.classes[0]}:1; got {text!r}"
                )
            label = _number(name, self.context.info.classes, "drop")
            self.dropped.setdefault(label, []).append(int(number) - 1)
        self._shown()  # what they name is said before anything is asked
        known = torch.cat([self.context.data.served(split) for split in self.splits])
        if lost := sorted(set(self.drop_in) - set(known.tolist())):
            raise UserError(f"eval.prototypes.drop_in: there is no image {lost[0]} among those that are evaluated")

    def _in_prototypes(self) -> tuple[PrototypeModel, Mapping[str, Mapping[str, float]]]:
        """The network in prototypes, and what was measured when they were solved."""
        network, shape = self.context.model, self.context.info.shape
        if not isinstance(network, PrototypeModel):
            return solved(self.context, self.options)
        if self.options != PrototypeOptions():
            raise UserError(HAS_ITS_OWN)
        model = network if network.reader.shape == tuple(shape) else network.at(shape)
        return model, self.context.facts.get("prototypes", {})

    def step(self, batch: Batch) -> Outcomes:
        tokens, logits = self.model.reader(batch.image)
        read = self.model.reader.pooled(tokens)
        found: Outcomes = {"second": _second(logits, batch.label)}
        gaps = []
        for count in self.model.counts:
            parts = self.model.contributions(read, count)
            whole, bias = parts.sum(2), parts[..., -1]
            gaps.append((whole - logits).abs().amax(1))
            found[f"both@{count}"] = predicted(whole) == batch.label
            found[f"only@{count}"] = predicted(parts[..., :-2].sum(2).add(bias)) == batch.label
            found[f"rest@{count}"] = predicted(parts[..., -2].add(bias)) == batch.label
            found[f"intervened@{count}"] = self._intervened(read, whole, count) == batch.label
            found[f"intervened@{count}"] |= found[f"both@{count}"]
        if self.dropped:
            found["dropped"] = predicted(self._without(read, batch.index)) == batch.label
        found["black_box"] = predicted(logits) == batch.label
        return {**found, "gap": torch.stack(gaps, 1).amax(1)}

    def _intervened(self, read: Tensor, logits: Tensor, count: int) -> Tensor:
        """Predictions without the strongest prototype of the class that was predicted, int64 [B].

        Prototypes are the augmented ones, as the residual would go on voting for the class.
        """
        basis, _ = self.model.augmented(count)
        weights = self.model.prototypes(count).weights
        predicted = logits.argmax(1)
        strongest = weights.argmax(1)[predicted]
        lost = weights[predicted, strongest] * (read * basis[predicted, strongest]).sum(1)
        return logits.scatter_add(1, predicted[:, None], -lost[:, None]).argmax(1)

    def _without(self, read: Tensor, index: Tensor) -> Tensor:
        """Logits without the prototypes that are to contribute nothing, in the images that are chosen."""
        chosen = torch.isin(index, index.new_tensor(self.drop_in)) if self.drop_in else torch.ones_like(index).bool()
        parts = self.model.contributions(read, separate=False)
        return without(parts, self.dropped, chosen.nonzero().squeeze(1).tolist()).sum(2)

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        rows = self._rows_of_measures()
        for split, found in outcomes.items():
            lead = f"prototypes/{split_prefix(split)}"
            for key, name in (("black_box", "black_box_accuracy"), ("second", "without_predicted_class_accuracy")):
                rows.append(_share(lead + name, found[key]))
            rows.append(Row(f"{lead}largest_logit_gap", float(found["gap"].max()), "logits", len(found["gap"])))
            if self.dropped:
                before, after = found[f"both@{self.model.counts[0]}"], found["dropped"]
                rows.append(_share(f"{lead}accuracy_dropped", after))
                rows += [_share(f"{lead}set_right", after & ~before), _share(f"{lead}set_wrong", before & ~after)]
            for count in sorted(self.model.counts):
                for key, name in (
                    ("both", "accuracy"),
                    ("only", "accuracy_prototypes_only"),
                    ("rest", "accuracy_residual_only"),
                    ("intervened", "intervened_accuracy"),
                ):
                    rows.append(_share(f"{lead}{name}@{count}", found[f"{key}@{count}"]))
        has_places = math.prod(self.model.reader.grid) > 1
        if has_places and self.deletion:
            lead = f"prototypes/{split_prefix(self.splits[-1])}"
            rows += deletion_rows(self.context, lead, self.splits[-1], self.deletion, self._look_for_evidence)
        draws = has_places and self.pictures and self.context.rank == 0
        return Report(rows, self._draw(outcomes[self.splits[-1]]) if draws else [])

    def _look_for_evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted evidence of the predicted class's prototypes at each place, [B, h, w], and that class [B]."""
        tokens, logits = self.model.reader(images)
        said = logits.argmax(1)
        return torch.stack([self._evidence(tokens[at : at + 1], int(label)) for at, label in enumerate(said)]), said

    def _evidence(self, tokens: Tensor, label: int) -> Tensor:
        """Weighted evidence of a class's prototypes at each place of one image, [h, w]."""
        weights = self.model.prototypes().weights[label]
        return (self.model.places(tokens, label)[0] * weights[:, None, None]).sum(0)

    def _draw(self, found: Outcomes) -> list[Path]:
        """Pages of classes, and the first images of the last split whose prediction an intervention changes."""
        pictures, count = PrototypePictures(self.context, self.model, self.splits[-1]), self.model.counts[0]
        paths = pictures.of_classes(self._shown(), self.images)
        if self.dropped:
            changed = found[f"both@{count}"] != found["dropped"]
            return paths + pictures.of_interventions(changed.nonzero().squeeze(1), lambda _: self.dropped)
        strongest = self.model.prototypes().weights.argmax(1).tolist()
        changed = (found[f"intervened@{count}"] & ~found[f"both@{count}"]).nonzero().squeeze(1)
        return paths + pictures.of_interventions(changed, lambda label: {label: [strongest[label]]})

    def _shown(self) -> list[int]:
        """The classes that have pages."""
        names = self.context.info.classes
        return [_number(name, names, "classes") for name in self.classes] or list(range(len(names)))[: self.pictures]

    def _rows_of_measures(self) -> list[Row]:
        """Errors and stability as measured, means over the classes, and how alike a class's prototypes are."""
        rows = []
        for count in sorted(self.model.counts):
            found = self.measured.get(str(count), {})  # empty on other data than those of the run that solved them
            rows += [Row(f"prototypes/{name}@{count}", found[name], unit) for name, unit in MEASURED.items() if found]
            if found.get("stability", 1) < 1:  # there were several starts
                rows.append(Row(f"prototypes/stability@{count}", found["stability"], "cosine"))
            if count > 1:
                rows.append(
                    Row(f"prototypes/similarity@{count}", similarity(self.model.prototypes(count).basis), "cosine")
                )
        return rows


def _number(name: str, classes: Sequence[str], key: str) -> int:
    """The number of a class that a user names."""
    if name not in classes:
        raise unknown(f"eval.prototypes.{key}: the class", name, classes)
    return list(classes).index(name)


def _second(logits: Tensor, label: Tensor) -> Tensor:
    """Whether the label is among the two largest logits, bool [B]: right, or right without the predicted class."""
    return (logits.topk(2, 1).indices == label[:, None]).any(1)


def _share(metric: str, hits: Tensor) -> Row:
    return fraction(metric, int(hits.sum()), len(hits))
