"""Speed of streaming photographs for training, against torchvision's way: ImageFolder, transforms and a DataLoader.

    python benchmarks/stream.py [--quick] [--workers 2] [--images <folder>] [--device cuda]

Both crop at random, resize to 224x224, mirror, and deliver batches of floats; they take turns, and medians are printed.
The images lie in <folder>/<class>/<image>; by default they are the samples of ImageNet beside the checkout, as they are
(the shorter side has 144 pixels) and enlarged to what photographs of ImageNet have (375).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop, ToTensor

from trust_exp.data.stream import StreamDataModule, StreamLoader

UNPACK = Path(__file__).resolve().parent.parent.parent / "shared" / "tools" / "unpack_data.py"
BATCH = 64
NOISE = 12  # makes files of some 90 kB; those of ImageNet have 110


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat of few images: a smoke test")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    repeats = 1 if options.quick else 5
    print(f"torch {torch.__version__}, {options.device}, {options.workers} workers, {os.cpu_count()} cores, {repeats=}")
    with tempfile.TemporaryDirectory() as scratch:
        if options.images:
            compare(options.images, Path(scratch), repeats, options.workers, options.device)
            return
        subprocess.run([sys.executable, UNPACK, "--to", scratch, "imagenet_samples"], check=True, stdout=sys.stderr)
        small = Path(scratch) / "imagenet_samples"
        large = enlarged(small, Path(scratch) / "enlarged", 375, most=64 if options.quick else 1000)
        for folder in (large,) if options.quick else (small, large):
            compare(folder, Path(scratch), repeats, options.workers, options.device)


def enlarged(folder: Path, to: Path, side: int, most: int) -> Path:
    """Copies whose shorter side has ``side`` pixels, with noise: to decode takes as long as there are details."""
    random = np.random.default_rng(0)
    for path in sorted(folder.rglob("*.JPEG"))[:most]:
        image = Image.open(path).convert("RGB")
        factor = side / min(image.size)
        pixels = np.asarray(image.resize((round(image.width * factor), round(image.height * factor))))
        noisy = (pixels + random.normal(0, NOISE, (*pixels.shape[:2], 1))).clip(0, 255).astype(np.uint8)
        (to / path.parent.name).mkdir(parents=True)
        Image.fromarray(noisy).save(to / path.parent.name / path.name, quality=90)
    return to


def compare(folder: Path, root: Path, repeats: int, workers: int, device: str) -> None:
    """Print images a second of one pass, and seconds to the first batch of new workers."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    width, height = Image.open(paths[0]).size
    size = statistics.mean(path.stat().st_size for path in paths) / 1000
    print(f"{folder.name}: {len(paths)} images, e.g. {width}x{height}, {size:.0f} kB on average")
    ours, theirs = stream(folder, root, workers, device), peer(folder, workers)
    loaders: dict[str, Iterable[Any]] = {"torchvision": theirs, "StreamLoader": ours}
    first = {name: timed(lambda loader=loader: next(iter(loader)))[0] for name, loader in loaders.items()}
    ways: dict[str, Callable[[], int]] = {
        "decode alone, one process": lambda: sum(decode(path) for path in paths),
        "torchvision": lambda: consume(theirs, device),
        "StreamLoader": lambda: consume(ours, device),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            seconds, images = timed(way)
            speeds[name].append(images / seconds)
    median = {name: statistics.median(values) for name, values in speeds.items()}
    for name, value in median.items():
        begin = f", first batch of new workers after {first[name]:.2f} s" if name in first else ""
        print(f"  {name:26} {value:7.0f} images/s{begin}")
    print(f"  StreamLoader over torchvision: {median['StreamLoader'] / median['torchvision']:.2f}")
    share = median["StreamLoader"] / (min(workers, os.cpu_count() or 1) * median["decode alone, one process"])
    print(f"  share of the workers' time that decoding takes: {share:.0%}")


def stream(folder: Path, root: Path, workers: int, device: str) -> StreamLoader:
    augment = {"resized_crop": [0.08, 1.0], "flip": True}
    data = StreamDataModule("folder", path=str(folder), root=root, workers=workers, augment=augment, test=["train"])
    return StreamLoader(
        data._reader("train"), data.rows("train"), BATCH, workers=workers, device=device, position=lambda: 0
    )


def peer(folder: Path, workers: int) -> "DataLoader[Any]":
    change = Compose([RandomResizedCrop(224), RandomHorizontalFlip(), ToTensor()])
    return DataLoader(
        ImageFolder(str(folder), change),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


def consume(loader: Iterable[Any], device: str) -> int:
    count = 0
    for batch in loader:
        batch[0].to(device).mean().item()  # memory is only there when it is touched
        count += len(batch[0])
    return count


def decode(path: Path) -> int:
    Image.open(path).convert("RGB")
    return 1


def timed(way: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    value = way()
    return time.perf_counter() - begin, value


if __name__ == "__main__":
    main()
