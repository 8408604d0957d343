"""Temporal ensembling against robust overfitting: predictions stay near their running mean (Dong et al. 2022)."""

import torch
from torch import Tensor, nn

from trust_exp.attacks.mode import attack_mode
from trust_exp.methods.adversarial.config import EnsemblingConfig
from trust_exp.methods.adversarial.core import distance_to_mean, ramp


class TemporalEnsemble:
    """Running means of the predictions on the clean samples of A, and how far the attacked ones are from them.

    Args:
        config: how.
        index: the samples of A, int64 [|A|], increasing.
        classes: how many there are.
        steps: optimiser steps of the whole training.
    """

    def __init__(self, config: EnsemblingConfig, index: Tensor, classes: int, steps: int) -> None:
        self.config, self.index, self.steps = config, index, steps
        self.mean = torch.zeros(len(index), classes, device=index.device)  # zero-born: normalised where it is used

    def penalty(self, model: nn.Module, step: int, index: Tensor, clean: Tensor, attacked: Tensor) -> Tensor:
        """Take in what ``model`` says of clean samples of A, and return what is added to their losses, float32 [K].

        Args:
            step: optimiser steps so far.
            index: the samples, int64 [K].
            clean: the samples, [K, ...].
            attacked: logits of their adversarial examples, float32 [K, C]; gradients flow into these alone.
        """
        weight = self.config.weight * ramp(step / self.steps, self.config.start, self.config.end)
        if not weight or not len(index):
            return attacked.new_zeros(len(index))
        with attack_mode(model), torch.no_grad():
            predicted = model(clean).float().softmax(1)
        rows = torch.searchsorted(self.index, index)
        self.mean[rows] = self.mean[rows].lerp(predicted, 1 - self.config.momentum)
        return weight * distance_to_mean(attacked, self.mean[rows])
