"""Pictures of a network's prototypes: galleries, predictions explained, and interventions worked through."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from trust_exp.data.batch import Split
from trust_exp.evals.suite import Context
from trust_exp.explain.linear_head import unconstrained_encoding
from trust_exp.models.prototypes import PrototypeModel
from trust_exp.viz.contact_sheet import Sheet, Tile, write_contact_sheet
from trust_exp.viz.prototypes import explanation, gallery, intervention, side_by_side

FEW = 6  # images, where a few are enough


class Seen(NamedTuple):
    """Images [B, ...], their tokens [B, T, D] and their numbers."""

    images: Tensor
    tokens: Tensor
    numbers: list[int]


class PrototypePictures:
    """Draws what one split shows of the prototypes, with the first number of them where nothing else is said.

    Args:
        context: of the suite.
        model: the network in prototypes.
        split: whose images are shown.
    """

    def __init__(self, context: Context, model: PrototypeModel, split: Split) -> None:
        self.context, self.model, self.split = context, model, split

    @torch.no_grad()
    def of_classes(self, classes: Sequence[int], images: int) -> list[Path]:
        """Pages of each class, and how the prediction of its first image comes about.

        Args:
            images: how many of a class are looked through.
        """
        labels = self.context.data.served_labels(self.split)
        paths, explained = [], []
        for label in classes:
            rows = (labels == label).nonzero().squeeze(1)[:images]
            if len(rows):
                seen = self._look(rows)
                paths += self._of_class(label, seen)
                explained.append(self._explained(label, seen))
        if explained:
            sheet = Sheet(explained, len(explained[0]))
            paths.append(self._save("prototypes_explained", "What adds up to the logit of the predicted class", sheet))
        return paths

    @torch.no_grad()
    def of_interventions(self, rows: Tensor, dropped: Callable[[int], Mapping[int, Sequence[int]]]) -> list[Path]:
        """How predictions change when prototypes contribute nothing, worked through for the first few images.

        Args:
            rows: of images whose prediction changes, int64 [M].
            dropped: class -> prototypes, from 0, that contribute nothing to an image, by its predicted class.
        """
        if not len(rows):
            return []
        seen = self._look(rows[:FEW])
        parts = self.model.contributions(self.model.reader.pooled(seen.tokens), separate=False)
        labels = self.context.data.served_labels(self.split)[rows].tolist()
        strips = [self._worked_through(at, labels[at], seen, parts[at], dropped) for at in range(len(seen.numbers))]
        title = "Predictions that change when a prototype contributes nothing"
        return [self._save("prototypes_intervened", title, Sheet(strips, len(strips[0])))]

    # --- one page --------------------------------------------------------------------------------------------------

    def _look(self, rows: Tensor) -> Seen:
        batch = self.context.data.samples(self.split, rows)
        tokens, _ = self.model.reader(batch.image.to(self.context.device))
        return Seen(batch.image, tokens, batch.index.tolist())

    def _of_class(self, label: int, seen: Seen) -> list[Path]:
        name, model = self.context.info.classes[label], self.model
        maps = {count: model.places(seen.tokens, label, count).cpu() for count in model.counts}
        own = maps[model.counts[0]]
        rest = model.places_of_rest(seen.tokens, label).cpu()
        page = gallery(seen.images, own, rest, model.prototypes().weights[label].tolist(), seen.numbers)
        few = slice(0, FEW)
        counts = {f"p = {count}": maps[count][few] for count in sorted(maps)}
        moved = {"alone": own[few], "with the residual": self._augmented(label, seen.tokens).cpu()[few]}
        images, numbers = seen.images[few], seen.numbers[few]
        return [
            self._save(f"prototypes_{label}", f"Prototypes of {name}", page),
            self._save(
                f"prototypes_{label}_counts",
                f"More or fewer prototypes of {name}",
                side_by_side(images, counts, numbers),
            ),
            self._save(
                f"prototypes_{label}_augmented",
                f"Prototypes of {name}, and where they are when they take over the residual",
                side_by_side(images, moved, numbers),
            ),
        ]

    def _augmented(self, label: int, tokens: Tensor) -> Tensor:
        """Where a class's augmented prototypes are, what is negative left out, [B, p, h, w] (Eq. 9)."""
        basis, _ = self.model.augmented()
        found = unconstrained_encoding(self.model.reader.patches(tokens), basis[label]).clamp_min(0)
        return found.view(len(tokens), *self.model.reader.grid, -1).permute(0, 3, 1, 2)

    def _explained(self, label: int, seen: Seen) -> Sequence[Tile]:
        """A strip for the first image of the class: how the logit of the class that is predicted comes about."""
        parts = self.model.contributions(self.model.reader.pooled(seen.tokens[:1]))[0]
        predicted = int(parts.sum(1).argmax())
        rest = self.model.places_of_rest(seen.tokens[:1], predicted)[0]
        names = self.context.info.classes
        return explanation(
            seen.images[0],
            self._maps(seen.tokens[:1], predicted),
            rest / rest.abs().max().clamp_min(1e-12),
            parts[predicted].tolist(),
            (f"is {names[label]}", f"said {names[predicted]}"),
        )

    def _worked_through(
        self,
        at: int,
        label: int,
        seen: Seen,
        parts: Tensor,
        dropped: Callable[[int], Mapping[int, Sequence[int]]],
    ) -> Sequence[Tile]:
        """A strip for one image: the class whose prototypes are dropped, and the prediction without them."""
        before, names = int(parts.sum(1).argmax()), self.context.info.classes
        lost = dropped(before)
        shown = before if before in lost else next(iter(lost))
        now = parts.sum(1)
        for number, gone in lost.items():
            now[number] -= parts[number, list(gone)].sum()
        return intervention(
            seen.images[at],
            self._maps(seen.tokens[at : at + 1], shown),
            parts[shown].tolist(),
            lost[shown],
            (f"#{seen.numbers[at]} is {names[label]}", f"said {names[before]}"),
            names[int(now.argmax())],
            names[shown],
        )

    def _maps(self, tokens: Tensor, label: int) -> Tensor:
        """Where the prototypes of a class are in one image, relative to the strongest place of any, [p, h, w]."""
        maps = self.model.places(tokens, label)[0]
        return maps / maps.max().clamp_min(1e-12)

    def _save(self, name: str, title: str, sheet: Sheet) -> Path:
        return write_contact_sheet(self.context.figure(name), title, sheet)
