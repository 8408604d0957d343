"""Prototypes that are patches, compared with prototypes from NMF of the same features."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from trust_exp.data.batch import Batch, Split
from trust_exp.errors import UserError
from trust_exp.evals.deletion import deletion_rows
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.explain.factorisation import Factors, nmf
from trust_exp.explain.linear_head import matched_cosine, similarity
from trust_exp.explain.nnls import encode
from trust_exp.explain.patches import log_similarity, squared_distances
from trust_exp.models.protopnet import NOWHERE, ProtoPNet, cycle_file
from trust_exp.models.trained import read_state
from trust_exp.results.record import Row, fraction
from trust_exp.verdicts import predicted
from trust_exp.viz.contact_sheet import write_contact_sheet
from trust_exp.viz.prototypes import ACROSS, Likeness, Patch, patches_page

UNITS = {"relative_feature_error": "fraction", "feature_error": "features", "persistence": "correlation"}


class PatchSuite(Suite):
    """After each cycle of its training: how well a class's prototypes span the features of its training images.

    Beside them stand as many prototypes of NMF of the same features. Also how alike prototypes of a class are, how many
    are patches of their own, and how much of where they are found is as it was a cycle before. Of the last cycle also
    whether the places matter.

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
        before = [cycle_file(self.context.folder, cycle) for cycle in range(1, self.context.facts["cycles"])]
        if lost := [path for path in before if not path.exists()]:
            raise UserError(
                f"{lost[0]} is gone; eval=patches compares it with the others; force=true starts the run anew"
            )
        self.cycles = [copy.deepcopy(self.model) for _ in before]
        for model, path in zip(self.cycles, before, strict=True):
            model.load_state_dict(read_state(path))
        self.cycles.append(self.model)
        labels = self.context.data.served_labels("train")
        found = {label: (labels == label).nonzero().squeeze(1) for label in range(len(self.context.info.classes))}
        self.of_class = {label: rows for label, rows in found.items() if len(rows)}  # of training images, by class

    def step(self, batch: Batch) -> Outcomes:
        found: Outcomes = {}
        for cycle, model in enumerate(self.cycles, 1):
            distance = model.closest(model.features(batch.image)).distance
            for name, weight in (("accuracy", None), ("accuracy_own_only", model.last.weight * model.own)):
                found[f"{name}@{cycle}"] = predicted(model.logits(distance, weight)) == batch.label
        return found

    @torch.no_grad()
    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        hits = {name: values for name, values in outcomes["test"].items() if name != "index"}
        rows = [fraction(f"patches/{name}", int(right.sum()), len(right)) for name, right in hits.items()]
        for cycle, model in enumerate(self.cycles, 1):
            source = model.source[model.source[:, 0] != NOWHERE]
            rows.append(fraction(f"patches/distinct@{cycle}", len(source.unique(dim=0)), max(1, len(source))))
        rows += self._spans()
        if self.deletion:
            rows += deletion_rows(self.context, "patches/", "test", self.deletion, self._look_for_evidence)
        return Report(rows, self._draw() if self.pictures and self.context.rank == 0 else [])

    # --- numbers ---------------------------------------------------------------------------------------------------

    def _spans(self) -> list[Row]:
        """Errors and similarities of both kinds of prototypes, means over the classes."""
        mine = [label for label in self.of_class if label % self.context.world == self.context.rank]
        features = self._features(mine)
        found = {
            label: self._spans_of(label, next(features)) for label in self.context.progress(mine, "features of classes")
        }
        several = {label: values for part in self.context.gather(found) for label, values in part.items()}
        return _means([several[label] for label in sorted(several)])

    def _features(self, labels: Sequence[int]) -> Iterator[list[Tensor]]:
        """Of each class the features of its training images after each cycle, [n T, D]."""

        def after_each_cycle(images: Tensor) -> Tensor:
            return torch.cat([model.features(images) for model in self.cycles], 2)

        for found in self.context.data.encoded("train", [self.of_class[label] for label in labels], after_each_cycle):
            yield [part.contiguous() for part in found.flatten(0, 1).chunk(len(self.cycles), 1)]

    def _parts(self, features: Tensor, count: int, label: int) -> Factors:
        count = min(count, *features.shape)
        return nmf(features, count, steps=self.steps, inner=4, seed=self.context.seed, name=label)

    def _spans_of(self, label: int, several: Sequence[Tensor]) -> dict[str, float]:
        values: dict[str, float] = {}
        before: dict[str, Tensor] = {}
        for cycle, (model, features) in enumerate(zip(self.cycles, several, strict=True), 1):
            patches = model.prototypes[model.label == label]
            whole, parts = float(features.norm()), self._parts(features, len(patches), label)
            rest = features - encode(features, patches) @ patches
            places = {"": log_similarity(squared_distances(features, patches)), "nmf_": parts.encoding.mT}
            for kind, error, basis in (("", float(rest.norm()), patches), ("nmf_", parts.error, parts.basis)):
                values[f"{kind}feature_error@{cycle}"] = error
                values[f"{kind}relative_feature_error@{cycle}"] = error / whole
                if len(basis) > 1:
                    values[f"{kind}similarity@{cycle}"] = similarity(basis[None])
                found = places[kind] - places[kind].mean(1, keepdim=True)  # the cosine of these is a correlation
                if kind in before:
                    values[f"{kind}persistence@{cycle}"] = matched_cosine(before[kind], found)
                before[kind] = found
        return values

    def _look_for_evidence(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Contributions of the predicted class's own prototypes at each place, [B, h, w], and that class [B]."""
        features = self.model.features(images)
        distances = self.model.distances(features)
        said = self.model.logits(distances.amin(2)).argmax(1)
        weights = (self.model.last.weight * self.model.own)[said]
        return (weights[..., None] * log_similarity(distances)).sum(1).view(len(images), *self.model.reader.grid), said

    # --- pictures --------------------------------------------------------------------------------------------------

    def _draw(self) -> list[Path]:
        paths = []
        shown = [label for label in self.of_class if label < self.pictures]
        for label, features in zip(shown, self._features(shown), strict=True):
            patches = [self._patches(model, label) for model in self.cycles]
            parts = [self._where_parts_are(found, label) for found in features]
            images = self.context.data.samples("train", self.of_class[label][:ACROSS]).image
            page = patches_page(patches, self._likenesses(label), images, parts, self.model.reader.grid)
            title = f"Patches that stand for {self.context.info.classes[label]}"
            paths.append(write_contact_sheet(self.context.figure(f"patches_{label}"), title, page))
        return paths

    def _patches(self, model: ProtoPNet, label: int) -> list[Patch]:
        """The class's prototypes that are patches, the one with the largest weight first."""
        numbers = (model.label == label).nonzero().squeeze(1)
        weights = model.last.weight[label, numbers]
        served = self.context.data.served("train")
        found = []
        for number, weight in sorted(zip(numbers.tolist(), weights.tolist(), strict=True), key=lambda pair: -pair[1]):
            index, place = model.source[number].tolist()
            if index != NOWHERE:
                row = (served == index).nonzero()[0]
                image = self.context.data.samples("train", row).image[0]
                found.append(Patch(number, image, index, place, weight))
        return found

    def _likenesses(self, label: int, images: int = 3) -> list[Likeness]:
        """Of the class's first test images the closest patch to each of its prototypes, and what that adds."""
        data = self.context.data
        rows = (data.served_labels("test") == label).nonzero().squeeze(1)[:images]
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

    def _where_parts_are(self, features: Tensor, label: int) -> Tensor:
        """Where the prototypes of NMF are in a class's first training images, in [0, 1], [B, p, h, w]."""
        found = self._parts(features, self.shown, label).encoding
        found = (found / found.amax(0).clamp_min(1e-12)).view(-1, *self.model.reader.grid, found.shape[1])
        return found[:ACROSS].permute(0, 3, 1, 2)


def _means(of_classes: Sequence[dict[str, float]]) -> list[Row]:
    """Means over the classes; of errors also their standard deviations."""
    rows = []
    for name in of_classes[0] if of_classes else ():
        values = torch.tensor([one[name] for one in of_classes], dtype=torch.float64)
        kind, _, cycle = name.partition("@")
        unit = UNITS.get(kind.removeprefix("nmf_"), "cosine")
        rows.append(Row(f"patches/{name}", float(values.mean()), unit, len(values)))
        if unit == "features":
            rows.append(Row(f"patches/{kind}_spread@{cycle}", float(values.std(correction=0)), unit, len(values)))
    return rows
