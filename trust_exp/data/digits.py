"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels that need no download."""

import torch

from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.module import ArrayDataModule
from trust_exp.data.subset import occurrence_in_class


class Digits(ArrayDataModule):
    """Grey digits, uint8 [N, 1, 8, 8], values 0..16 scaled to 0..255; 1,438 for training and 359 for testing.

    Source: ``sklearn.datasets.load_digits``, the test part of UCI's optdigits (Alpaydin and Kaynak 1998). It has no
    split of its own: here every fifth image of each class is for testing.
    """

    def describe(self) -> DatasetInfo:
        return DatasetInfo("digits", tuple("0123456789"), (1, 8, 8), (0.0, 1.0))

    def load(self, split: Split) -> Arrays:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
        labels = torch.from_numpy(digits.target).long()
        # Counting needs no generator, whose stream a later release might change.
        test = occurrence_in_class(labels) % 5 == 2
        chosen = test if split == "test" else ~test
        return Arrays(images[chosen], labels[chosen])
