"""The loss of subset adversarial training, TRADES' divergence, and when single-step training has collapsed.

A is what is attacked, B the rest. Losses are per sample, [B]; logits [B, C].
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def weight_of_attacked(attacked: int, others: int, scheme: str) -> float:
    """Weight of a sample of A where one of B has weight 1.

    Args:
        attacked: |A|, at least 1.
        others: |B|; 0: all samples are attacked, and the weight is 1.
        scheme: "vanilla": 1; "balanced": |B|/|A|; "increasing": (1 + 10 |A|/N) |B|/|A|, which is twice the balanced one
            at a tenth of the data and ten times at nine tenths.

    Source: Losch 2024, sec. 3.2.2 and 3.3.4, which has the last one for tenths of the data; linear between.
    """
    if scheme == "vanilla" or not others:
        return 1.0
    balance = others / attacked
    return balance if scheme == "balanced" else (1 + 10 * attacked / (attacked + others)) * balance


def mean_loss(losses: Tensor, weights: Tensor, total: Tensor | float) -> Tensor:
    """sum(w l) / total of a batch.

    Args:
        losses, weights: [B].
        total: sum(w), or B; where a batch is spread over processes, whose gradients are averaged, the mean of theirs.

    Source: Losch 2024, Eq. 3.2 divides by B, the released code by the weights. Vanilla: equal.
    """
    return (weights * losses).sum() / total


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(p ‖ q) per sample, [B], of the softmax p of clean logits and q of attacked ones; gradients flow into both.

    Source: Zhang et al. 2019 (TRADES) as in the authors' code, which differentiates both sides.
    """
    return F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


def two_parts(model: nn.Module, clean: Tensor, attacked: Tensor, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Logits of clean and attacked samples, float32.

    Args:
        clean, attacked: [M, ...] and [K, ...]; either may be empty. One sample is no sample to take statistics of, so
            it goes with the others.
        joint: one pass, so that batch norm takes its statistics over both; else one pass each: each part is normalised
            by its own, and the running ones take in first those of the clean, then those of the attacked samples.
    """
    if joint or min(len(clean), len(attacked)) < 2:
        logits = model(torch.cat([clean, attacked])).float()
        return logits[: len(clean)], logits[len(clean) :]
    return model(clean).float(), model(attacked).float()


def distance_to_mean(attacked: Tensor, mean: Tensor) -> Tensor:
    """‖p − m‖² per sample, [B], of the softmax p of logits ``attacked`` and the running mean m, scaled to sum to 1.

    Source: Dong et al. 2022 (temporal ensembling); the mean over C classes of the authors' code times C.
    """
    return (attacked.softmax(1) - mean / mean.sum(1, keepdim=True)).square().sum(1)


def ramp(done: float, start: float, end: float) -> float:
    """Weight in [0, 1] at the fraction ``done`` of a training: 0 before ``start``, exp(-5 (1 - u)^2), 1 from ``end``.

    u is the part of the way from start to end. Source: Laine and Aila 2017, as used by Dong et al. 2022.
    """
    if done < start:
        return 0.0
    return 1.0 if done >= end else math.exp(-5 * ((end - done) / (end - start)) ** 2)


def has_collapsed(single: float, multi: float, best: float, samples: int) -> bool:
    """Whether training with one attack step overfits to it: robust only where nobody looks further.

    Args:
        single, multi: accuracy under an attack of one step and of several.
        best: of ``multi`` so far.
        samples: that the accuracies were measured on.

    Returns:
        True if ``multi`` is below half of ``single`` or of ``best``, and by more than two standard errors.
    """
    expected = max(single, best)
    return multi < expected / 2 and expected - multi > 1 / math.sqrt(samples)


def held_out_rows(size: int, samples: int, seed: int) -> Tensor:
    """Places of a part of ``size`` test samples for early stopping, int64 [min(samples, size // 2)], increasing.

    Source: Losch 2024, sec. 3.3.1: a fixed part; the released code takes the first of ``randperm`` under its seed.
    """
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return order[: min(samples, size // 2)].sort().values
