"""A training step on frozen features, and the cached features of the fast mode."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trust_exp.data.batch import Batch, DatasetInfo
from trust_exp.data.config import AugmentConfig
from trust_exp.data.loader import Loader
from trust_exp.data.module import DataModule
from trust_exp.errors import UserError
from trust_exp.methods.base import GradientMethod
from trust_exp.methods.transfer.core import FeatureCache
from trust_exp.progress import track
from trust_exp.verdicts import predicted


class Transfer(GradientMethod):
    """Cross-entropy on clean images; only the head of the model learns.

    Raises:
        UserError: if the model's features are not frozen.

    Source: Losch 2024, sec. 3.3.4, after Shafahi et al. 2020.
    """

    def __init__(self, model: nn.Sequential, info: DatasetInfo, *, cached_copies: int = 0, **shared: Any) -> None:
        super().__init__(model, info, **shared)
        features = getattr(model, "features", None)
        if features is None or any(parameter.requires_grad for parameter in features.parameters()):
            raise UserError(
                "method=transfer trains a new head on frozen features; leave out model=, or take model=frozen"
            )
        self.cached_copies = cached_copies
        self.cached: CachedFeatures | None = None

    def training_data(self, data: DataModule) -> L.LightningDataModule:
        if not self.cached_copies:
            return data
        # augmentation by the readers of files is not in `changes`
        changes = data.augment is not None or getattr(data, "changes", None) not in (None, AugmentConfig())
        self.cached = CachedFeatures(
            data, self.cached_copies if changes else 1
        )  # without augmentation all copies are equal
        return self.cached

    def on_fit_start(self) -> None:
        if self.cached is not None:
            self.cached.fill(self.model.features)  # type: ignore[arg-type]

    def training_step(self, batch: Batch, _: int) -> Tensor:
        network: Any = self.model if self.cached is None else self.model.head
        logits = network(batch.image).float()
        loss = F.cross_entropy(logits, batch.label)
        if self.logs_now:
            self.log_step(loss, accuracy=(predicted(logits) == batch.label).float().mean())
        return loss


class CachedFeatures(L.LightningDataModule):
    """Serves features of a data set's training images, computed once.

    Copy m holds the images of epoch m, so the first M epochs equal training on images; after that the copies take
    turns. They depend on the data's seed alone: a resumed run computes the same features again.

    Args:
        data: the images.
        copies: M; more take more memory, N * K * 4 bytes each.
    """

    def __init__(self, data: DataModule, copies: int) -> None:
        super().__init__()
        self.data, self.copies = data, copies
        self.cache: FeatureCache | None = None

    def prepare_data(self) -> None:
        self.data.prepare_data()

    @torch.no_grad()
    def fill(self, features: nn.Module) -> None:
        """Compute all features; every process computes all of them."""
        trainer: Any = self.trainer
        self.data.trainer = trainer
        loader = self.data.train_dataloader()
        loader.rank, loader.world = 0, 1
        batches = len(loader)
        self.cache = FeatureCache(self.copies, loader.samples, loader.device)
        for at in track(range(self.copies * batches), "features", visible=trainer.is_global_zero):
            copy, number = divmod(at, batches)
            if number == 0:
                loader.position = lambda: copy * batches  # noqa: B023 (it is called in this iteration)
                plan, images = loader._plan(), iter(loader)
            with trainer.precision_plugin.forward_context():
                batch = next(images)
                self.cache.put(copy, plan[number].rows, features(batch.image).float(), batch.label, batch.index)
        self.cache.close_gaps()
        self._add_unseen(features, self.cache, loader.device)

    def _add_unseen(self, features: nn.Module, cache: FeatureCache, device: torch.device) -> None:
        """Add the images that no copy has, without augmentation."""
        rows = cache.missing()
        if len(rows):
            batch = self.data.samples("train", rows % self.data.size("train"))
            values = features(batch.image.to(device)).float()
            for copy in range(cache.copies):
                cache.put(copy, rows, values, batch.label, batch.index)

    def train_dataloader(self) -> "FeatureLoader":
        """Shuffled batches of features in the order of the images, which follow the trainer's step."""
        self.data.trainer = self.trainer
        images = self.data.train_dataloader()
        batches = len(images)
        return FeatureLoader(
            self,
            images.samples,
            images.batch_size,
            device=images.device,
            rank=images.rank,
            world=images.world,
            seed=images.seed,
            position=lambda: self.data._consumed(batches),
        )


class FeatureLoader(Loader):
    """One pass over the features of a data set; its other arguments are those of ``Loader``."""

    def __init__(self, source: CachedFeatures, samples: int, batch_size: int, **options: Any) -> None:
        super().__init__(samples, batch_size, **options)
        self.source = source

    def __iter__(self) -> Iterator[Batch]:
        cache = self.source.cache
        if cache is None:
            raise RuntimeError("the cache must be filled before the first batch")
        for rows, step in self._plan():
            taken = cache.take((step or 0) // len(self), rows)
            yield Batch(*(part.to(self.device) for part in taken))
