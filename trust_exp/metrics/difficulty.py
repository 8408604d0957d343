"""Measures of how hard a sample is for a classifier, from logits or from gradients at several points of a training.

A larger score means a harder sample.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from trust_exp.verdicts import predicted


def entropy(logits: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
    """Entropy of the predicted distribution in nats, [B] in [0, log C], for logits [B, C]; one of them may be -inf.

    Source: Losch 2024, Eq. 3.3.
    """
    log_probabilities = F.log_softmax(logits, 1)
    probabilities = log_probabilities.exp()
    return -torch.where(probabilities > 0, probabilities * log_probabilities, 0).sum(1)


def signed_variance(logits: Float[Tensor, "B C"], label: Int64[Tensor, " B"]) -> Float[Tensor, " B"]:
    """SVar: variance over the C predicted probabilities, negative where the prediction is wrong.

    High for a confident, correct prediction, near 0 at a decision boundary, negative for an outlier.

    Args:
        logits: [B, C].
        label: int64 [B].

    Returns:
        [B] in [-(C - 1) / C^2, (C - 1) / C^2]; the variance divides by C, not C - 1.

    Source: Hua et al. 2021 (BulletTrain).
    """
    variance = logits.softmax(1).var(1, correction=0)
    return torch.where(predicted(logits) == label, variance, -variance)


def svar(logits: Float[Tensor, "B C"], label: Int64[Tensor, " B"]) -> Float[Tensor, " B"]:
    """``-signed_variance``: outliers are hardest, then boundary samples, then robust ones.

    Losch 2024 names SVar without a formula and orders samples by decreasing SVar, to attack the first ones; taking this
    end as the hard one is our choice.
    """
    return -signed_variance(logits, label)


def logit_gradient(
    model: Callable[[Tensor], Tensor], image: Float[Tensor, "B *shape"], label: Int64[Tensor, " B"]
) -> Float[Tensor, "B *shape"]:
    """Gradient of the label's logit with respect to the image, [B, ...] as ``image``.

    ``model`` must be in evaluation mode, so that samples do not influence each other, and gradients must be enabled.

    Args:
        model: maps images [B, ...] to logits [B, C].
        label: int64 [B].
    """
    image = image.detach().clone().requires_grad_()
    chosen = model(image).gather(1, label.unsqueeze(1)).sum()
    (gradient,) = torch.autograd.grad(chosen, image)
    return gradient


def variance_of_gradients(gradients: Iterable[Float[Tensor, "B C H W"] | Float[Tensor, "B D"]]) -> Float[Tensor, " B"]:
    """VoG: standard deviation of each pixel's gradient over K points of a training, averaged over pixels.

    Args:
        gradients: K gradients, each [B, C, H, W] or [B, D], averaged over channels first. Only sums are kept, so they
            can be computed one after the other.

    Returns:
        [B], >= 0; the variance divides by K, not K - 1.

    Source: Agarwal et al. 2022, sec. 2; channels as in their ImageNet code; sums as in Welford 1962.
    """
    mean = squares = torch.zeros(())
    number = 0
    for number, gradient in enumerate(gradients, 1):
        grey = gradient.mean(1) if gradient.dim() == 4 else gradient
        if number == 1:
            mean, squares = grey, torch.zeros_like(grey)
        else:
            change = grey - mean
            mean = mean + change / number
            squares = squares + change * (grey - mean)
    if number < 2:
        raise ValueError(f"a variance needs two gradients or more; got {number}")
    return (squares / number).sqrt().flatten(1).mean(1)


def standardised_by_class(score: Float[Tensor, " N"], label: Int64[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Scores [N] minus the mean of their class, divided by its standard deviation; 0 in a class without deviation.

    Makes samples of different classes comparable; differences between classes are lost.

    Source: Agarwal et al. 2022, sec. 2.
    """
    standardised = torch.zeros_like(score)
    for number in label.unique():
        of_class = label == number
        deviation, mean = torch.std_mean(score[of_class], correction=0)
        if deviation > 0:
            standardised[of_class] = (score[of_class] - mean) / deviation
    return standardised
