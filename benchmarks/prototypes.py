"""From images to prototypes: the whole pass of ProtoNMF, its time and its memory.

    python benchmarks/prototypes.py [--quick] [--device cuda] [--memory]

10,000 images of 32 x 32 in ten classes through a ResNet-20, three prototypes a class, against the same features
factorised by scikit-learn's ``mu`` solver, class by class. ``--memory``: what one class of ImageNet takes, 1,300 images
with 7 x 7 features of 512 channels, beside these features, in a process of its own; the network is a single layer, as
what a network needs for a batch is no part of the question.
"""

import argparse
import logging
import resource
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from trust_exp.data.batch import Batch, DatasetInfo, Split
from trust_exp.data.module import DataModule
from trust_exp.methods.prototype.module import ProtoNmf
from trust_exp.models.cifar_resnet import cifar_resnet

PROTOTYPES = 3


class Noise(DataModule):
    """Classes of the same noise, made batch by batch, as large data come from a disk."""

    def __init__(self, classes: int, images: int, side: int, batch: int) -> None:
        super().__init__("noise")
        self.classes, self.images = classes, images
        generator = torch.Generator().manual_seed(0)
        self.batch = torch.rand(batch, 3, side, side, generator=generator)

    def describe(self) -> DatasetInfo:
        return DatasetInfo("noise", tuple(map(str, range(self.classes))), tuple(self.batch.shape[1:]), (0.0, 1.0))

    def served(self, split: Split) -> Tensor:
        return torch.arange(self.images)

    def whole_labels(self, split: Split) -> Tensor:
        return torch.arange(self.images) % self.classes

    def eval_loader(self, split: Split, rows: Tensor | None = None, batch_size: int | None = None) -> "Batches":
        return Batches(self.batch.to(self._place()["device"]), torch.arange(self.images) if rows is None else rows)


class Batches:
    """The same images again and again."""

    rank, world = 0, 1

    def __init__(self, images: Tensor, rows: Tensor) -> None:
        self.images, self.rows = images, rows

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.rows.split(len(self.images)):
            yield Batch(self.images[: len(rows)], rows, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images: a smoke test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    memory() if options.memory else speed(200 if options.quick else 10_000, options.device)


def speed(images: int, device: str) -> None:
    torch.manual_seed(0)
    data = Noise(10, images, 32, 500)
    method = pass_over(data, cifar_resnet((3, 32, 32), 10), [1, 5, 10])
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {images} images")
    whole = solve(method, device)
    rows = torch.arange(images)
    begin = time.perf_counter()
    with torch.no_grad():
        (features,) = data.encoded("train", [rows], lambda batch: method.model.reader(batch.to(device))[0])
    extraction = time.perf_counter() - begin
    begin = time.perf_counter()
    labels = data.labels("train")
    for label in range(10):
        for count in (PROTOTYPES, 1, 5, 10):
            by_sklearn(features[(labels == label).to(features.device)].flatten(0, 1).cpu(), count)
    theirs = extraction + time.perf_counter() - begin
    print(f"package, p = 3, 1, 5 and 10: {whole:.1f} s; features alone {extraction:.1f} s")
    print(f"features and scikit-learn: {theirs:.1f} s, ratio {theirs / whole:.2f}")


def memory() -> None:
    """The most memory that the pass over one class adds, as a part of its features'."""
    data = Noise(1, 1300, 224, 20)
    network = nn.Sequential(nn.Conv2d(3, 512, 32, 32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(network, nn.Linear(512, 1))
    solve(pass_over(Noise(1, 40, 224, 20), network, []), "cpu")  # libraries and threads are there
    method = pass_over(data, network, [])
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    solve(method, "cpu")
    added = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    size = 1300 * 49 * 512 * 4
    print(f"features {size / 1e6:.0f} MB, most memory {added / 1e6:.0f} MB: {added / size:.2f} times the features")


def pass_over(data: Noise, network: nn.Module, compare: list[int]) -> ProtoNmf:
    options = {"prototypes": PROTOTYPES, "compare": compare, "tokens": "all", "by": "nmf", "residual": "sum"}
    method = ProtoNmf(ProtoNmf.network(network.eval(), data.info, options), data.info, **options)
    method.data = data
    return method


def solve(method: ProtoNmf, device: str) -> float:
    """Seconds of the pass."""
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(accelerator="gpu" if device == "cuda" else device, devices=1, inference_mode=False, **silent)
    begin = time.perf_counter()
    trainer.test(method.eval(), verbose=False)
    return time.perf_counter() - begin


def by_sklearn(features: Tensor, count: int) -> float:
    from sklearn.decomposition import NMF

    solver = NMF(count, init="random", solver="mu", max_iter=200, random_state=0)
    solver.fit_transform(features.numpy())
    return float(solver.reconstruction_err_)


if __name__ == "__main__":
    main()
