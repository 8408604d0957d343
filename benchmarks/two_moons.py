"""Optimiser steps per second of CLL on two moons: written the plain way, and as this package trains it.

    python benchmarks/two_moons.py [--steps 2000] [--repeats 3]

Both train the same network with the same loss under Lightning's Trainer, on one thread, in one process, in turn. The
plain way is what a careful reader of the thesis writes first: a DataLoader, power iteration layer by layer, values
logged at every step.
"""

import argparse
import logging
import statistics
import time
import warnings

import lightning.pytorch as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trust_exp.data.two_moons import TwoMoons
from trust_exp.methods.lipschitz_margin.core import calibrated_scale
from trust_exp.methods.lipschitz_margin.module import CalibratedLipschitzMargin
from trust_exp.models.nets import mlp

WIDTHS = [10, 20, 40, 40, 20, 10]
EPSILON, P = 0.15, 1e-12


class PlainMinMax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        first, second = x[:, 0::2], x[:, 1::2]
        return torch.cat([torch.maximum(first, second), torch.minimum(first, second)], 1)


class PlainCll(L.LightningModule):
    """Eq. 4.7 one-sided, two power iterations a step for each layer, everything logged."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [2, *WIDTHS]
        layers: list[nn.Module] = []
        for size, width in zip(sizes, WIDTHS, strict=False):
            layers += [nn.Linear(size, width), PlainMinMax()]
        self.model = nn.Sequential(*layers, nn.Linear(WIDTHS[-1], 2))
        self.linears = [layer for layer in self.model if isinstance(layer, nn.Linear)]
        self.states = [F.normalize(torch.randn(layer.in_features), dim=0) for layer in self.linears]

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        points, label = batch
        logits = self.model(points)
        features = torch.ones(())
        for place, layer in enumerate(self.linears[:-1]):
            vector = self.states[place]
            with torch.no_grad():
                for _step in range(2):
                    vector = F.normalize(layer.weight.T @ (layer.weight @ vector), dim=0)
            self.states[place] = vector
            features = features * (layer.weight @ vector).norm()
        head = self.linears[-1].weight
        pairwise = features * torch.cdist(head, head)
        p = P + (1e-3 - P) * (1 - self.global_step / self.trainer.max_steps) ** 50
        scale = calibrated_scale(EPSILON, p)
        distance = (logits - logits.gather(1, label[:, None])) / (pairwise.detach() + torch.eye(2))[label]
        shifted = (distance - EPSILON * F.one_hot(label, 2)) / scale
        loss = F.cross_entropy(shifted, label) + 1e-6 * pairwise.max() ** 2
        self.log("loss", loss, prog_bar=True)
        self.log("accuracy", (logits.argmax(1) == label).float().mean(), prog_bar=True)
        self.log("lipschitz", pairwise.max())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3, weight_decay=0)


def ours() -> CalibratedLipschitzMargin:
    return CalibratedLipschitzMargin(
        mlp((2,), 2, WIDTHS),
        TwoMoons.info,
        epsilon=EPSILON,
        iterations=2,
        through_iterations=False,
        optimizer={"name": "adamw", "lr": 1e-3, "weight_decay": 0.0, "milestones": [0.4], "gamma": 0.1},
        p=P,
        err_quantile=None,
        slack_schedule={"start": 1e-3, "power": 50},
        offset=None,
        one_sided=True,
        form="multiclass",
        constants="pairwise",
        detach=True,
        decay=1e-6,
        k_schedule=None,
    )


def steps_per_second(module: L.LightningModule, steps: int, folder: str, **data: object) -> float:
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=CSVLogger(folder),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    begin = time.perf_counter()
    trainer.fit(module, **data)  # type: ignore[arg-type]
    return steps / (time.perf_counter() - begin)


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    arrays = TwoMoons(batch_size=100).arrays("train")
    loader = DataLoader(TensorDataset(arrays.images, arrays.labels), 100, shuffle=True)
    plain, package = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.repeats):
            plain.append(steps_per_second(PlainCll(), given.steps, folder, train_dataloaders=loader))
            package.append(steps_per_second(ours(), given.steps, folder, datamodule=TwoMoons(batch_size=100)))
    ratios = [after / before for before, after in zip(plain, package, strict=True)]
    print(f"plain    {statistics.median(plain):7.0f} steps/s   {20_000 / statistics.median(plain):5.0f} s for 20,000")
    print(
        f"package  {statistics.median(package):7.0f} steps/s   {20_000 / statistics.median(package):5.0f} s for 20,000"
    )
    print(f"ratio    {statistics.median(ratios):7.2f}   (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
