"""What prototypes that are patches say of a network, and what NMF finds in the same features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from trust_exp.data.batch import Batch, Split
from trust_exp.evals.deletion import deletion_rows
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.explain.linear_head import similarity
from trust_exp.explain.nmf import encode, nmf
from trust_exp.explain.patches import log_similarity
from trust_exp.models.protopnet import NOWHERE, ProtoPNet
from trust_exp.results.record import Row, fraction
from trust_exp.viz.contact_sheet import draw_contact_sheet
from trust_exp.viz.prototypes import Likeness, Patch, patches_page

OURS, THEIRS = "patches/", "patches/nmf_"


class PatchSuite(Suite):
    """How well the prototypes of a class span the features of its training images, beside as many prototypes of NMF.

    Also how alike they are, how many are patches of their own, whether the places they look at matter, and the accuracy
    of logits to which only the prototypes of their own class add.

    Args:
        steps: of NMF, at most.
        pictures: of how many classes.
        shown: prototypes of NMF in pictures.
        deletion: how many test images are asked what happens without their important places.

    Source: ProtoNMF (2023), table 1 and figure 2; E of ‖A - E B‖ is the best one that is not negative.
    """

    name = "patches"
    model: ProtoPNet

    def __init__(self, steps: int, pictures: int, shown: int, deletion: int) -> None:
        super().__init__()
        self.steps, self.pictures, self.shown, self.deletion = steps, pictures, shown, deletion

    def prepare(self) -> None:
        self.model = cast(ProtoPNet, self.context.model)

    def step(self, batch: Batch) -> Outcomes:
        alike = log_similarity(self.model.closest(self.model.features(batch.image)).distance)
        return {"own_only": (alike @ (self.model.last.weight * self.model.own).mT).argmax(1) == batch.label}

    @torch.no_grad()
    def finish(self, outcomes: dict[Split, Outcomes]) -> Report:  # type: ignore[override]
        hits = outcomes["test"]["own_only"]
        rows = [fraction("patches/accuracy_own_only", int(hits.sum()), len(hits)), *self._own(), *self._spans()]
        if self.deletion:
            rows += deletion_rows(self.context, self.name, "test", self.deletion, self._look_for_evidence)
        return Report(rows, self._draw() if self.pictures and self.context.rank == 0 else [])

    # --- numbers ---------------------------------------------------------------------------------------------------

    def _own(self) -> list[Row]:
        """How many prototypes are patches, and of those how many are none that another one is."""
        source = self.model.source
        real = source[source[:, 0] != NOWHERE]
        return [
            fraction("patches/are_patches", len(real), len(source)),
            fraction("patches/distinct", len(real.unique(dim=0)), max(1, len(real))),
        ]

    def _spans(self) -> list[Row]:
        """Errors of the classes' features in either kind of prototypes."""
        found: dict[int, dict[str, float]] = {}
        mine = range(self.context.rank, len(self.context.info.classes), self.context.world)
        for label in self.context.progress(list(mine), "features of classes"):
            rows = self._training_rows(label)
            if len(rows):
                found[label] = self._span_of(label, self._features(rows))
        several = {label: told for part in self.context.gather(found) for label, told in part.items()}
        return _means([several[label] for label in sorted(several)])

    def _training_rows(self, label: int) -> Tensor:
        labels = self.context.data.labels("train")[self.context.data.served("train")]
        return (labels == label).nonzero().squeeze(1)

    def _features(self, rows: Tensor) -> Tensor:
        """[n T, D] of training images."""
        return self.context.data.encoded("train", rows, self.model.features).flatten(0, 1)

    def _span_of(self, label: int, features: Tensor) -> dict[str, float]:
        patches, count = self.model.prototypes[self.model.label == label], self.model.per_class
        found = nmf(
            features, min(count, *features.shape), steps=self.steps, inner=4, seed=self.context.seed, name=label
        )
        error, whole = float((features - encode(features, patches) @ patches).norm()), float(features.norm())
        told = {
            f"{OURS}feature_error": error,
            f"{THEIRS}feature_error": found.error,
            f"{OURS}relative_feature_error": error / whole,
            f"{THEIRS}relative_feature_error": found.error / whole,
        }
        if count > 1:
            told |= {
                f"{OURS}similarity": similarity(patches[None]),
                f"{THEIRS}similarity": similarity(found.basis[None]),
            }
        return told

    def _look_for_evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the predicted class's own prototypes add in each place, [B, h, w], and that class [B]."""
        features = self.model.features(images)
        said = self.model.logits(self.model.closest(features)).argmax(1)
        alike = log_similarity(self.model.distances(features))
        weights = (self.model.last.weight * self.model.own)[said]
        return (weights[..., None] * alike).sum(1).view(len(images), *self.model.reader.grid), said

    # --- pictures --------------------------------------------------------------------------------------------------

    def _draw(self) -> list[Path]:
        paths = []
        for label, name in enumerate(self.context.info.classes[: self.pictures]):
            rows = self._training_rows(label)
            if len(rows):
                page = patches_page(self._patches(label), self._likenesses(label), *self._parts(rows), self._grid)
                path = self.context.figures / f"patches_{label}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(draw_contact_sheet(f"Patches that stand for {name}", page))
                paths.append(path)
        return paths

    @property
    def _grid(self) -> tuple[int, int]:
        return self.model.reader.grid

    def _patches(self, label: int) -> list[Patch]:
        """The class's prototypes that are patches, the one with the largest weight first."""
        numbers = (self.model.label == label).nonzero().squeeze(1)
        weights = self.model.last.weight[label, numbers]
        served = self.context.data.served("train")
        found = []
        for number, weight in sorted(zip(numbers.tolist(), weights.tolist(), strict=True), key=lambda pair: -pair[1]):
            index, place = self.model.source[number].tolist()
            if index != NOWHERE:
                row = (served == index).nonzero()[0]
                image = self.context.data.samples("train", row).image[0]
                found.append(Patch(number, image, index, place, weight))
        return found

    def _likenesses(self, label: int, images: int = 3) -> list[Likeness]:
        """Of the class's first test images the closest patch to each of its prototypes, and what that adds."""
        data = self.context.data
        labels = data.labels("test")[data.served("test")]
        rows = (labels == label).nonzero().squeeze(1)[:images]
        if not len(rows):
            return []
        batch = data.samples("test", rows)
        closest = self.model.closest(self.model.features(batch.image.to(self.context.device)))
        alike = log_similarity(closest.distance)
        added = (alike * self.model.last.weight[label]).tolist()
        return [
            Likeness(batch.image[at], int(batch.index[at]), closest.place[at].tolist(), added[at])
            for at in range(len(rows))
        ]

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Some training images, and where the prototypes of NMF are in them, [B, p, h, w]."""
        features = self._features(rows)
        count = min(self.shown, *features.shape)
        found = nmf(features, count, steps=self.steps, inner=4, seed=self.context.seed, name=0)
        maps = found.encoding.view(len(rows), *self._grid, count).permute(0, 3, 1, 2)
        return self.context.data.samples("train", rows[:10]).image, maps / maps.amax((0, 2, 3), keepdim=True)


def _means(told: Sequence[dict[str, Any]]) -> list[Row]:
    """Means over the classes; of errors also their standard deviations."""
    rows = []
    for name in told[0] if told else ():
        values = torch.tensor([one[name] for one in told], dtype=torch.float64)
        unit = "cosine" if name.endswith("similarity") else "fraction" if "relative" in name else "features"
        rows.append(Row(name, float(values.mean()), unit, len(values)))
        if unit == "features":
            rows.append(Row(f"{name}_spread", float(values.std(correction=0)), unit, len(values)))
    return rows
