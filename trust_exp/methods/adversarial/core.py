"""The loss of subset adversarial training, the divergence of TRADES, and a test for collapsed single-step training.

A are the attacked samples, B the others. Losses are per sample, [B]; logits [B, C].
"""

import math

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F


def weight_of_attacked(attacked: int, others: int, scheme: str) -> float:
    """Weight of a sample of A, relative to one of B.

    Args:
        attacked: |A|, at least 1.
        others: |B|; 0: all samples are attacked, and the weight is 1.
        scheme: "vanilla": 1; "balanced": |B|/|A|; "increasing": (1 + 10 |A|/N) |B|/|A|, twice the balanced weight at a
            tenth of the data and ten times at nine tenths.

    Source: Losch 2024, sec. 3.2.2 and 3.3.4, which gives "increasing" for tenths of the data; linear in between.
    """
    if scheme == "vanilla" or not others:
        return 1.0
    balance = others / attacked
    return balance if scheme == "balanced" else (1 + 10 * attacked / (attacked + others)) * balance


def mean_loss(
    losses: Float[Tensor, " B"], weights: Float[Tensor, " B"], total: Float[Tensor, ""] | float
) -> Float[Tensor, ""]:
    """sum(w l) / total of a batch.

    Args:
        losses, weights: [B].
        total: sum(w), or B; with several processes, whose gradients are averaged, the mean of theirs.

    Source: Losch 2024, Eq. 3.2 divides by B, the released code by sum(w); the same for vanilla weights.
    """
    return (weights * losses).sum() / total


def divergence(clean: Float[Tensor, "B C"], attacked: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """KL(p ‖ q) per sample, [B], with p the softmax of clean logits and q of attacked ones; gradients flow into both.

    Source: Zhang et al. 2019 (TRADES), as in the authors' code, which differentiates both sides.
    """
    return F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


def two_parts(
    model: nn.Module, clean: Float[Tensor, "M *shape"], attacked: Float[Tensor, "K *shape"], *, joint: bool
) -> tuple[Float32[Tensor, "M C"], Float32[Tensor, "K C"]]:
    """Logits of clean and attacked samples, float32.

    Args:
        clean, attacked: [M, ...] and [K, ...]; either may be empty. A single sample has no statistics and joins the
            others.
        joint: one pass, with batch-norm statistics over both; else one pass each: each part is normalised by its own
            statistics, and the running ones are updated by clean samples first, then by attacked ones.
    """
    if joint or min(len(clean), len(attacked)) < 2:
        logits = model(torch.cat([clean, attacked])).float()
        return logits[: len(clean)], logits[len(clean) :]
    return model(clean).float(), model(attacked).float()


def distance_to_mean(attacked: Float[Tensor, "B C"], mean: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """‖p − m‖² per sample, [B], with p the softmax of ``attacked`` and m the running mean, scaled to sum to 1.

    Source: Dong et al. 2022 (temporal ensembling); C times the authors' code, which takes the mean over C classes.
    """
    return (attacked.softmax(1) - mean / mean.sum(1, keepdim=True)).square().sum(1)


def ramp(done: float, start: float, end: float) -> float:
    """Weight in [0, 1] at fraction ``done`` of a training: 0 before ``start``, exp(-5 (1 - u)^2), 1 from ``end``.

    u in [0, 1] is the progress from start to end. Source: Laine and Aila 2017, as used by Dong et al. 2022.
    """
    if done < start:
        return 0.0
    return 1.0 if done >= end else math.exp(-5 * ((end - done) / (end - start)) ** 2)


def has_collapsed(single: float, multi: float, best: float, samples: int) -> bool:
    """Whether a network resists a single attack step but not several: catastrophic overfitting.

    Args:
        single, multi: accuracy under an attack of one step and of several.
        best: highest ``multi`` so far.
        samples: number of samples behind the accuracies.

    Returns:
        True if ``multi`` is below half of ``single`` or of ``best``, and by more than two standard errors.
    """
    expected = max(single, best)
    return multi < expected / 2 and expected - multi > 1 / math.sqrt(samples)


def fixed_rows(size: int, count: int, seed: int) -> Int64[Tensor, " count"]:
    """Places of ``count`` of ``size`` samples for early stopping, int64 [count], increasing.

    Source: Losch 2024, sec. 3.3.1: a fixed part; the released code takes the first of ``randperm`` under its seed.
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values
