"""What prototypes say of a network: how much of its decision they carry, and what an expert could set right."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from trust_exp.data.batch import Batch, Split
from trust_exp.evals.deletion import deletion_rows
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.explain.linear_head import similarity
from trust_exp.models.prototypes import PrototypeModel
from trust_exp.results.record import Row, fraction
from trust_exp.viz.contact_sheet import Sheet, Tile, draw_contact_sheet
from trust_exp.viz.prototypes import explanation, gallery, side_by_side

MEASURED = {  # by the training, means over the classes, and their units
    "feature_error": "features",
    "relative_feature_error": "fraction",
    "head_error": "weights",
    "relative_head_error": "fraction",
    "augmentation_shift": "ratio",
}


class Seen(NamedTuple):
    """Images [B, ...] of a class, their tokens [B, T, D] and their numbers."""

    images: Tensor
    tokens: Tensor
    rows: list[int]


class PrototypeSuite(Suite):
    """Accuracy with the prototypes alone, with the residual alone and with both, for every number of prototypes.

    The bias counts as neither: all three have it. The intervention is an oracle's: where the prediction is wrong, the
    prototype with the largest coefficient of the predicted class contributes nothing, once. It can gain no more than
    dropping the predicted class altogether would, which is printed beside it.

    Args:
        splits: which are asked; pictures are of the last one.
        pictures: of how many classes.
        images: how many of a class are looked through for them.
        deletion: how many of the last split's images are asked what happens without their important places.

    Source: ProtoNMF (2023), tables 3 and 4 and figure 5.
    """

    name = "prototypes"
    model: PrototypeModel

    def __init__(self, splits: Sequence[Split], pictures: int, images: int, deletion: int) -> None:
        super().__init__()
        self.splits, self.pictures, self.images, self.deletion = tuple(splits), pictures, images, deletion

    def prepare(self) -> None:
        self.model = cast(PrototypeModel, self.context.model)

    def step(self, batch: Batch) -> Outcomes:
        tokens, logits = self.model.reader(batch.image)
        read = self.model.reader.pooled(tokens)
        found: Outcomes = {"second": _second(logits, batch.label)}
        gaps = []
        for count in self.model.counts:
            parts = self.model.contributions(read, count)
            whole, bias = parts.sum(2), parts[..., -1]
            gaps.append((whole - logits).abs().amax(1))
            found[f"both@{count}"] = whole.argmax(1) == batch.label
            found[f"only@{count}"] = parts[..., :-2].sum(2).add(bias).argmax(1) == batch.label
            found[f"rest@{count}"] = parts[..., -2].add(bias).argmax(1) == batch.label
            found[f"intervened@{count}"] = self._intervened(read, whole, count) == batch.label
            found[f"intervened@{count}"] |= found[f"both@{count}"]
        found["black_box"] = logits.argmax(1) == batch.label
        return {**found, "gap": torch.stack(gaps, 1).amax(1)}

    def _intervened(self, read: Tensor, logits: Tensor, count: int) -> Tensor:
        """Predictions without the strongest prototype of the class that was predicted, int64 [B].

        Prototypes are the augmented ones, as the residual would go on voting for the class.
        """
        basis, _ = self.model.augmented("sum", count)
        weights = self.model.prototypes(count).weights
        predicted = logits.argmax(1)
        strongest = weights.argmax(1)[predicted]
        lost = weights[predicted, strongest] * (read * basis[predicted, strongest]).sum(1)
        return logits.scatter_add(1, predicted[:, None], -lost[:, None]).argmax(1)

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        rows = self._measured()
        for split, found in outcomes.items():
            lead = "prototypes/" if split == "test" else f"prototypes/{split}_"
            for key, name in (("black_box", "black_box_accuracy"), ("second", "without_predicted_class_accuracy")):
                rows.append(_share(lead + name, found[key]))
            rows.append(Row(f"{lead}largest_logit_gap", float(found["gap"].max()), "logits", len(found["gap"])))
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
            rows += deletion_rows(self.context, self.name, self.splits[-1], self.deletion, self._look_for_evidence)
        return Report(rows, self._draw() if has_places and self.pictures and self.context.rank == 0 else [])

    def _look_for_evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the prototypes of the predicted class find in each place, weighted, [B, h, w], and that class [B]."""
        tokens, logits = self.model.reader(images)
        said = logits.argmax(1)
        return torch.stack([self._evidence(tokens[at : at + 1], int(label)) for at, label in enumerate(said)]), said

    def _evidence(self, tokens: Tensor, label: int) -> Tensor:
        """What the prototypes of a class find in the places of one image, weighted, [h, w]."""
        weights = self.model.prototypes().weights[label]
        return (self.model.places(tokens, label)[0] * weights[:, None, None]).sum(0)

    # --- pictures --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _draw(self) -> list[Path]:
        """A gallery of each class, its first images with every number of prototypes, and some predictions explained."""
        labels = self.context.data.labels(self.splits[-1])[self.context.data.served(self.splits[-1])]
        paths, explained = [], []
        for label in range(min(self.pictures, len(self.context.info.classes))):
            rows = (labels == label).nonzero().squeeze(1)[: self.images]
            if len(rows):
                found = self._look(label, rows)
                paths += self._draw_class(label, found)
                explained.append(self._explain(label, found))
        if explained:
            sheet = Sheet(explained, len(explained[0]))
            paths.append(self._save("prototypes_explained", "What adds up to the logit of the predicted class", sheet))
        return paths

    def _look(self, label: int, rows: Tensor) -> "Seen":
        batch = self.context.data.samples(self.splits[-1], rows)
        tokens, _ = self.model.reader(batch.image.to(self.context.device))
        return Seen(batch.image, tokens, rows.tolist())

    def _draw_class(self, label: int, seen: "Seen") -> list[Path]:
        name, weights = self.context.info.classes[label], self.model.prototypes().weights[label].tolist()
        maps = {count: self.model.places(seen.tokens, label, count).cpu() for count in self.model.counts}
        rest = self.model.places_of_rest(seen.tokens, label).cpu()
        page = gallery(seen.images, maps[self.model.counts[0]], rest, weights, seen.rows)
        few = slice(0, 6)
        beside = side_by_side(seen.images[few], {count: found[few] for count, found in maps.items()}, seen.rows[few])
        return [
            self._save(f"prototypes_{label}", f"Prototypes of {name}", page),
            self._save(f"prototypes_{label}_counts", f"More or fewer prototypes of {name}", beside),
        ]

    def _explain(self, label: int, seen: "Seen") -> Sequence[Tile]:
        """A strip for the first image of the class: how the logit of the class that is predicted comes about."""
        parts = self.model.contributions(self.model.reader.pooled(seen.tokens))[0]
        predicted = int(parts.sum(1).argmax())
        maps = self.model.places(seen.tokens[:1], predicted)[0]
        rest = self.model.places_of_rest(seen.tokens[:1], predicted)[0]
        names = self.context.info.classes
        return explanation(
            seen.images[0],
            maps / maps.max().clamp_min(1e-12),
            rest / rest.abs().max().clamp_min(1e-12),
            parts[predicted].tolist(),
            (f"is {names[label]}", f"said {names[predicted]}"),
        )

    def _save(self, name: str, title: str, sheet: Sheet) -> Path:
        path = self.context.figures / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_contact_sheet(title, sheet))
        return path

    def _measured(self) -> list[Row]:
        """What the training kept, means over the classes, and how alike a class's prototypes are."""
        rows = []
        told: Mapping[str, Any] = self.context.facts.get("prototypes", {})
        for count in sorted(self.model.counts):
            for name, unit in MEASURED.items():
                rows.append(Row(f"prototypes/{name}@{count}", told[str(count)][name], unit))
            if told[str(count)]["stability"] < 1:  # there were several starts
                rows.append(Row(f"prototypes/stability@{count}", told[str(count)]["stability"], "cosine"))
            if count > 1:
                rows.append(
                    Row(f"prototypes/similarity@{count}", similarity(self.model.prototypes(count).basis), "cosine")
                )
        return rows


def _second(logits: Tensor, label: Tensor) -> Tensor:
    """Whether the label is among the two largest logits, bool [B]: right, or right without the predicted class."""
    return (logits.topk(2, 1).indices == label[:, None]).any(1)


def _share(metric: str, hits: Tensor) -> Row:
    return fraction(metric, int(hits.sum()), len(hits))
