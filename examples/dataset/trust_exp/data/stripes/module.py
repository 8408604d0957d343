"""Images of stripes, generated: which way they run is the class."""

import torch

from trust_exp.data.batch import Arrays, DatasetInfo, Split
from trust_exp.data.module import ArrayDataModule
from trust_exp.rng import keyed_generator


class Stripes(ArrayDataModule):
    """Grey images uint8 [N, 1, 12, 12] with stripes that run across or down, in noise; 400 + 200 of them."""

    def describe(self) -> DatasetInfo:
        return DatasetInfo("stripes", ("across", "down"), (1, 12, 12), (0.0, 1.0))

    def load(self, split: Split) -> Arrays:
        generator, samples = keyed_generator("stripes", split), {"train": 400, "test": 200}[split]
        label = torch.arange(samples) % 2
        wave = (torch.arange(12) + torch.randint(4, (samples, 1), generator=generator)) % 4 < 2
        across = wave[:, :, None].expand(-1, 12, 12)
        clean = torch.where(label[:, None, None] == 0, across, across.mT)
        noise = torch.rand(samples, 12, 12, generator=generator)
        return Arrays(((0.6 * clean + 0.4 * noise) * 255).to(torch.uint8)[:, None], label)
