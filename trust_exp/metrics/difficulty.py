"""How hard a sample is for a classifier: of its logits, or of its gradients at several points of a training.

In every measure the larger score is the harder sample.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the predicted distribution in nats, [B] in [0, log C], for logits [B, C].

    Source: Losch 2024, Eq. 3.3.
    """
    log_probabilities = F.log_softmax(logits, 1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


def signed_variance(logits: Tensor, label: Tensor) -> Tensor:
    """SVar: the variance over the C predicted probabilities, negative where the prediction is wrong.

    It is far above 0 for a sample that is surely right, near 0 at a decision boundary, and below 0 for an outlier.

    Args:
        logits: [B, C].
        label: int64 [B].

    Returns:
        [B] in [-(C - 1) / C^2, (C - 1) / C^2]; the mean of squares is over C, not C - 1.

    Source: Hua et al. 2021 (BulletTrain).
    """
    variance = logits.softmax(1).var(1, correction=0)
    return torch.where(logits.argmax(1) == label, variance, -variance)


def svar(logits: Tensor, label: Tensor) -> Tensor:
    """``-signed_variance``: outliers are hardest, then boundary samples, then robust ones.

    Losch 2024 names SVar without a formula and says "decreasing" of an order whose first samples are attacked first;
    that this end is the hard one is a choice.
    """
    return -signed_variance(logits, label)


def logit_gradient(model: Callable[[Tensor], Tensor], image: Tensor, label: Tensor) -> Tensor:
    """Gradient of the logit of the label with respect to the image, [B, ...] as ``image``.

    Samples must not influence each other, so ``model`` is to be in evaluation mode; needs gradients to be enabled.

    Args:
        model: maps images [B, ...] to logits [B, C].
        label: int64 [B].
    """
    image = image.detach().clone().requires_grad_()
    chosen = model(image).gather(1, label.unsqueeze(1)).sum()
    (gradient,) = torch.autograd.grad(chosen, image)
    return gradient


def variance_of_gradients(gradients: Iterable[Tensor]) -> Tensor:
    """VoG: the deviation of each pixel's gradient over K points of a training, mean over pixels.

    Args:
        gradients: K of them, each [B, C, H, W] or [B, D]; of colours the mean is taken first. Only sums are kept, so
            that they may be made one after the other.

    Returns:
        [B], at least 0; the deviation is over K, not K - 1.

    Source: Agarwal et al. 2022, sec. 2; colours as in their ImageNet code; sums as in Welford 1962.
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


def standardised_by_class(score: Tensor, label: Tensor) -> Tensor:
    """Scores [N] minus their class' mean, over their class' deviation; 0 in a class without deviation.

    Compares samples of different classes, and so says nothing of classes any more.

    Source: Agarwal et al. 2022, sec. 2.
    """
    standardised = torch.zeros_like(score)
    for number in label.unique():
        of_class = label == number
        deviation, mean = torch.std_mean(score[of_class], correction=0)
        if deviation > 0:
            standardised[of_class] = (score[of_class] - mean) / deviation
    return standardised
