"""Seconds of a transfer with features of a few copies kept, against new features in each epoch; and what they learn.

    python benchmarks/transfer.py [--epochs 40] [--seeds 3] [--quick]

The source is a narrow PreActResNet-18 on the digits 0 to 4 (scikit-learn's, 8x8), the target the digits 5 to 9 with
crops and changes of brightness and contrast. All train the same head in the same order of images, in turn, on one
thread; the seconds are those of the whole training, the features of the copies included.
"""

import argparse
import copy
import logging
import statistics
import time
import warnings
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn

from trust_exp.data.config import AugmentConfig
from trust_exp.data.digits import Digits
from trust_exp.methods.base import GradientMethod
from trust_exp.methods.standard.module import Standard
from trust_exp.methods.transfer.module import Transfer
from trust_exp.models.frozen import new_head, without_head
from trust_exp.models.preact_resnet import preact_resnet18

AUGMENT = AugmentConfig(pad=1, jitter=0.25, rotate=2)
SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9, "milestones": [0.5, 0.75], "gamma": 0.1}
ADAMW = {**SGD, "name": "adamw", "lr": 3e-3, "weight_decay": 0.0, "milestones": []}
WIDTHS = (32, 64, 128, 128)
COPIES = (0, 1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one seed, few epochs: a smoke test")
    options = parser.parse_args()
    epochs, seeds = (4, 1) if options.quick else (options.epochs, options.seeds)
    quieten()
    torch.set_num_threads(1)
    seconds: dict[int, list[float]] = {copies: [] for copies in COPIES}
    accuracy: dict[int, list[float]] = {copies: [] for copies in COPIES}
    for seed in range(seeds):
        L.seed_everything(seed, verbose=False)
        source = preact_resnet18((1, 8, 8), 5, WIDTHS)
        fit(
            Standard(source, (data := digits("01234", seed)).info, optimizer=ADAMW, log_every=10**6),
            data,
            2 + epochs // 8,
        )
        for copies in COPIES:
            L.seed_everything(seed, verbose=False)
            model = nn.Sequential()
            model.add_module("features", without_head(copy.deepcopy(source), source.state_dict()))
            model.add_module("head", new_head(WIDTHS[-1], 5))
            data = digits("56789", seed)
            method = Transfer(model, data.info, cached_copies=copies, optimizer=SGD, log_every=10**6)
            begin = time.perf_counter()
            fit(method, data, epochs)
            seconds[copies].append(time.perf_counter() - begin)
            accuracy[copies].append(accuracy_of(model, digits("56789", seed)))
    print(f"torch {torch.__version__}, {epochs} epochs, {seeds} seeds; ratios to new features in each epoch")
    for copies in COPIES:
        ratios = [plain / own for plain, own in zip(seconds[0], seconds[copies], strict=True)]
        print(
            f"{copies or 'no'} copies: {statistics.median(seconds[copies]):6.1f} s, "
            f"{statistics.median(ratios):5.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), "
            f"test accuracy {', '.join(f'{value:.1%}' for value in accuracy[copies])}"
        )


def digits(classes: str, seed: int) -> Digits:
    return Digits("digits", classes=list(classes), batch_size=64, augment=AUGMENT, seed=seed)


def fit(method: GradientMethod, data: Digits, epochs: int) -> None:
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, enable_model_summary=False, **options)
    trainer.fit(method, datamodule=method.training_data(data))


@torch.no_grad()
def accuracy_of(model: nn.Module, data: Digits) -> float:
    batch = data.samples("test", torch.arange(data.size("test")))
    return (model.eval()(batch.image).argmax(1) == batch.label).float().mean().item()


def quieten() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


if __name__ == "__main__":
    main()
