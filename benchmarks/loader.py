"""Training images per second with the augmentation of CIFAR: batched from memory, and image by image in two workers.

    python benchmarks/loader.py [--images 6000] [--rounds 5]

The images have CIFAR's size and lie in memory for all. The plain way is torchvision's transforms of PIL images in a
DataLoader; its other way, v2 transforms of tensors, is measured too. The package has one thread, so one core against
two. All are measured in turn, each in a process of its own and in its second pass. With a CUDA device, also the part of
a training step of 4C3F that its batch takes there.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from trust_exp.data.augment import Augment
from trust_exp.data.batch import Arrays
from trust_exp.data.config import AugmentConfig
from trust_exp.data.loader import ArrayLoader
from trust_exp.models.nets import conv_net

BATCH = 128
PIL, V2, PACKAGE = WAYS = ("PIL images, 2 workers", "v2 on tensors, 2 workers", "package, 1 thread")
AUGMENT = Augment(AugmentConfig(pad=4, flip=True, jitter=0.25, rotate=2.0))


class Cifar(Dataset[tuple[Any, int]]):
    """As torchvision's CIFAR10: arrays in memory, every image a PIL image, or a tensor for v2."""

    def __init__(self, arrays: Arrays, transform: Callable[[Any], Tensor], pil: bool) -> None:
        self.images: Any = arrays.images.permute(0, 2, 3, 1).contiguous().numpy() if pil else arrays.images
        self.labels, self.transform, self.pil = arrays.labels.tolist(), transform, pil

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = Image.fromarray(self.images[index]) if self.pil else self.images[index]
        return self.transform(image), self.labels[index]


def of_pil_images(arrays: Arrays) -> Dataset[Any]:
    changes = [
        transforms.RandomCrop(32, 4),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.25, 0.25, 0.25),
        transforms.RandomRotation(2),
        transforms.ToTensor(),
    ]
    return Cifar(arrays, transforms.Compose(changes), pil=True)


def of_tensors(arrays: Arrays) -> Dataset[Any]:
    changes = [
        v2.RandomCrop(32, 4),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.25, 0.25, 0.25),
        v2.RandomRotation(2),
        v2.ToDtype(torch.float32, scale=True),
    ]
    return Cifar(arrays, v2.Compose(changes), pil=False)


def in_workers(data: Dataset[Any]) -> DataLoader[Any]:
    return DataLoader(data, BATCH, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True)


def images_of(count: int) -> Arrays:
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return Arrays(images, torch.randint(0, 10, (count,)))


def images_per_second(loader: Iterable[Any]) -> float:
    begin = time.perf_counter()
    images = sum(len(batch[0]) for batch in loader)
    return images / (time.perf_counter() - begin)


def make(way: str, images: int) -> Iterable[Any]:
    if way == PACKAGE:  # served for about as long as the others' fewer images take
        return ArrayLoader(images_of(10 * images), BATCH, position=lambda: 0, augment=AUGMENT)
    return in_workers((of_pil_images if way == PIL else of_tensors)(images_of(images)))


def measure(way: str, images: int) -> None:
    """Print the speed of the second pass: the first starts workers."""
    loader = make(way, images)
    images_per_second(loader)
    print(images_per_second(loader))


def loaders(images: int, rounds: int) -> None:
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:  # each in a process of its own: what the others leave behind slows it down
            command = [sys.executable, __file__, "--images", str(images), "--way", way]
            speeds[way].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    for way, values in speeds.items():
        print(f"{way:25} {statistics.median(values):8.0f} images/s")
    for way in (PIL, V2):
        ratios = [after / before for before, after in zip(speeds[way], speeds[PACKAGE], strict=True)]
        middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
        print(f"ratio to {way:25} {middle:6.1f}   (from {least:.1f} to {most:.1f})")


def step_on_cuda(rounds: int, steps: int = 200) -> None:
    """Seconds of training steps on batches that are augmented on the device, and on one batch again and again."""
    device = torch.device("cuda")
    convs = [[32, 3, 1, 1], [32, 4, 2, 1], [64, 3, 1, 1], [64, 4, 2, 1]]
    model = conv_net((3, 32, 32), 10, convs, dense=[512, 512]).to(device)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    arrays = images_of(50_000).to(device)
    loader = ArrayLoader(arrays, BATCH, device=device, position=lambda: 0, augment=AUGMENT)
    same = next(iter(loader))

    def seconds(batches: Iterable[Any]) -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            optimizer.zero_grad()
            F.cross_entropy(model(batch.image), batch.label).backward()
            optimizer.step()
        torch.cuda.synchronize()
        return time.perf_counter() - begin

    seconds(loader)
    shares = [1 - seconds(itertools.repeat(same)) / seconds(loader) for _ in range(rounds)]
    print(f"of a training step of 4C3F on CUDA, batch {BATCH}, loading takes {statistics.median(shares):.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=6000, help="of a pass in workers; ours has ten times as many")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS, help="measure only this one, and print its images per second")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.way:
        measure(given.way, given.images)
        return
    print(f"torch {torch.__version__}, medians of {given.rounds}")
    loaders(given.images, given.rounds)
    if torch.cuda.is_available():
        step_on_cuda(given.rounds)
    else:
        print("no CUDA device: the part of a training step is not measured")


if __name__ == "__main__":
    main()
