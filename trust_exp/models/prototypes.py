"""A trained classifier in prototypes: the same logits, as sums of the prototypes' contributions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trust_exp.explain.linear_head import Shares, augmented, residual_map
from trust_exp.explain.nnls import encode
from trust_exp.models.tokens import TokenReader


@dataclass(frozen=True)
class Prototypes:
    """The head of a classifier, V = a B + R, for one number of prototypes a class.

    Attributes:
        basis: B, [N, p, D], rows of length 1, or of length 0 where a class has fewer.
        weights: the coefficients a, [N, p], the largest first.
        rest: the residual prototypes R, [N, D].
    """

    basis: Tensor
    weights: Tensor
    rest: Tensor


class PrototypeModel(nn.Module):
    """Maps images to the logits of its network, computed as contributions of prototypes.

    logit_c(x) = sum_i a_ci (z · b_ci) + z · R_c + bias_c, where z is the head's input, the mean of the image's tokens.
    Prototypes of every count are kept for comparison; the forward pass uses the first count.

    Args:
        reader: the network, as tokens and a linear head.
        counts: numbers of prototypes a class.
        signed: prototypes are made of features of any sign; otherwise negative values count as 0.
        shares: how prototypes share the residual when they take it over, see ``linear_head.augmented``.
    """

    def __init__(
        self, reader: TokenReader, counts: Sequence[int], *, signed: bool = False, shares: Shares = "sum"
    ) -> None:
        super().__init__()
        self.reader, self.counts, self.signed, self.shares = reader, tuple(counts), signed, shares
        classes, width = reader.weight.shape
        for count in self.counts:
            self.register_buffer(f"basis_{count}", torch.zeros(classes, count, width))
            self.register_buffer(f"weights_{count}", torch.zeros(classes, count))
            self.register_buffer(f"rest_{count}", reader.weight.detach().clone())

    @property
    def explained(self) -> nn.Module:
        """The classifier behind it."""
        return self.reader.network

    def at(self, shape: tuple[int, ...]) -> "PrototypeModel":
        """The same prototypes of the same network for images of another size."""
        reader = TokenReader(self.explained, shape, self.reader.tokens)
        model = PrototypeModel(reader, self.counts, signed=self.signed, shares=self.shares)
        model.load_state_dict(self.state_dict())
        return model.to(reader.weight.device).eval()

    def prototypes(self, count: int | None = None) -> Prototypes:
        """The prototypes; ``count``: how many a class has, None: the first of ``counts``."""
        number = self.counts[0] if count is None else count
        return Prototypes(*(getattr(self, f"{part}_{number}") for part in ("basis", "weights", "rest")))

    def put(self, count: int, label: int, values: Prototypes) -> None:
        """Set the prototypes of one class, [1, ...] each."""
        for part in ("basis", "weights", "rest"):
            getattr(self, f"{part}_{count}")[label] = getattr(values, part)[0]

    def forward(self, images: Tensor) -> Tensor:
        tokens, _ = self.reader(images)
        return self.contributions(self.reader.pooled(tokens)).sum(2)

    def contributions(self, read: Tensor, count: int | None = None, *, separate: bool = True) -> Tensor:
        """The terms of the logits, [B, N, p + 2]: one for each prototype, the residual and the bias.

        Args:
            read: z, [B, D]: ``reader.pooled(tokens)``.
            count: prototypes of each class.
            separate: the residual is a term of its own; otherwise the prototypes take it over and its term is 0,
                except for a class without prototypes.
        """
        chosen = self.prototypes(count)
        basis, weights, left = chosen.basis, chosen.weights, chosen.rest
        if not separate:
            basis, _ = self.augmented(count)
            left = left * (weights == 0).all(1, keepdim=True)
        classes, number, _ = basis.shape
        similar = (read @ basis.flatten(0, 1).mT).view(len(read), classes, number)
        rest = (read @ left.mT)[..., None]
        return torch.cat([similar * weights, rest, self.reader.bias.expand(len(read), -1)[..., None]], 2)

    def places(self, tokens: Tensor, label: int, count: int | None = None) -> Tensor:
        """How strongly each place shows a class's prototypes, >= 0, [B, p, H, W]: E of A ~ E B for this B.

        Args:
            tokens: [B, T, D].
        """
        patches = self.reader.patches(tokens)
        features = patches.flatten(0, 1) if self.signed else patches.flatten(0, 1).clamp_min(0)
        return self._map(encode(features, self.prototypes(count).basis[label]), len(tokens))

    def places_of_rest(self, tokens: Tensor, label: int, count: int | None = None) -> Tensor:
        """How strongly each place shows a class's residual prototype, of any sign, [B, H, W] (Eq. 6)."""
        strength = residual_map(self.reader.patches(tokens), self.prototypes(count).rest[label])
        return self._map(strength.flatten()[:, None], len(tokens)).squeeze(1)

    def _map(self, values: Tensor, images: int) -> Tensor:
        """[B, p, H, W] of values [B H W, p]."""
        height, width = self.reader.grid
        return values.view(images, height, width, -1).permute(0, 3, 1, 2)

    def augmented(self, count: int | None = None) -> tuple[Tensor, Tensor]:
        """Prototypes that take over the residual (Eq. 8), see ``linear_head.augmented``."""
        chosen = self.prototypes(count)
        return augmented(chosen.basis, chosen.weights, chosen.rest, self.shares)


def without(contributions: Tensor, dropped: Mapping[int, Sequence[int]], images: Sequence[int] | None = None) -> Tensor:
    """A copy of contributions [B, N, p + 2] with those of some prototypes set to 0: a test-time intervention.

    ``without(model.contributions(read), {3: [0]}).sum(2).argmax(1)`` are the predictions without the first prototype of
    class 3.

    Args:
        dropped: class -> numbers of its prototypes, from 0; the number p is its residual.
        images: places in the batch; None: all.
    """
    changed = contributions.clone()
    rows = torch.arange(len(changed)) if images is None else torch.tensor(images, dtype=torch.int64)
    for label, numbers in dropped.items():
        changed[rows[:, None], label, torch.tensor(numbers, dtype=torch.int64)] = 0
    return changed
