"""Speed of PGD-7, the attack of adversarial training, against the plain ways; all measured in turn in this run.

    python benchmarks/attack.py [--quick] [--device cuda]

The network is a narrow PreActResNet-18 on the CPU, that of the released code on CUDA. The plain way is the loop that
most code has: the network's parameters are left trainable, and ``backward`` fills their gradients as well.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trust_exp.attacks.projected_gradient import pgd
from trust_exp.engine import keep_freed_memory
from trust_exp.models.nets import conv_net
from trust_exp.models.preact_resnet import preact_resnet18

EPSILON, STEP_SIZE, STEPS, BATCH = 0.5, 0.1, 7, 64
FOUR_CONVOLUTIONS = [[32, 3, 1, 1], [32, 4, 2, 1], [64, 3, 1, 1], [64, 4, 2, 1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats and images: a smoke test")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    repeats, batch = (2, 16) if options.quick else (5, BATCH)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    cuda = torch.device(options.device).type == "cuda"
    if not cuda:
        torch.set_num_threads(1)
    widths = [128, 256, 512, 512] if cuda else [16, 32, 64, 64]
    model = preact_resnet18((3, 32, 32), 10, widths).to(options.device).eval()
    x = torch.rand(batch, 3, 32, 32, device=options.device)
    y = torch.randint(10, (batch,), device=options.device)

    print(
        f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, PGD-{STEPS} of {batch} "
        f"images, widths {widths}, median of {repeats}"
    )
    frozen_and_not(model, x, y, repeats)
    parts_of_the_batch(model, x, y, repeats)
    formats(model, x, y, repeats, cuda)
    if not cuda:
        on_a_cpu(model, x, y, repeats)


def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return pgd(model, x, y, EPSILON, step_size=STEP_SIZE, steps=STEPS, score_last=False)


def plain(model: nn.Module, x: Tensor, y: Tensor, gradient_of: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """PGD without a thought for parameters; nothing is scored, so the package does a little more."""
    x_adv = x.clone()
    for _ in range(STEPS):
        x_adv = x_adv.detach().requires_grad_()
        gradient = gradient_of(F.cross_entropy(model(x_adv), y), x_adv)
        with torch.no_grad():
            x_adv = x_adv + STEP_SIZE * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            x_adv = (x + (x_adv - x).renorm(2, 0, EPSILON)).clamp(0, 1)
    return x_adv


def by_backward(loss: Tensor, x: Tensor) -> Tensor:
    loss.backward()
    if x.grad is None:
        raise RuntimeError("the loss does not depend on the images")
    return x.grad


def by_grad(loss: Tensor, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def frozen_and_not(model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> None:
    print("parameters")
    report(
        {
            "trainable, backward()": lambda: plain(model, x, y, by_backward),
            "trainable, autograd.grad of the images": lambda: plain(model, x, y, by_grad),
            "frozen, the package": lambda: attack(model, x, y),
        },
        repeats,
    )
    model.zero_grad()


def parts_of_the_batch(model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> None:
    counts = [len(x) * percent // 100 for percent in (100, 50, 30, 10)]
    print("part of the batch that is attacked; under 'ratio' the ideal is the number of images")
    report(
        {f"{count} of {len(x)} images": (lambda count=count: attack(model, x[:count], y[:count])) for count in counts},
        repeats,
    )


def formats(model: nn.Module, x: Tensor, y: Tensor, repeats: int, cuda: bool) -> None:
    print("memory format and precision")
    columns = preact_resnet18((3, 32, 32), 10, [b.conv2.out_channels for b in model.features[1:9:2]]).to(x.device)
    columns.load_state_dict(model.state_dict())
    columns = columns.eval().to(memory_format=torch.channels_last)
    images = x.to(memory_format=torch.channels_last)

    def half(network: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return attack(network, batch, y)

    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: attack(model, x, y),
        "channels_last": lambda: attack(columns, images, y),
    }
    if cuda:
        ways["bf16"] = lambda: half(model, x)
        ways["bf16 and channels_last"] = lambda: half(columns, images)
    report(ways, repeats)


def on_a_cpu(model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> None:
    """The gradient of thin convolutions and the memory of freed tensors; the latter cannot be undone, so it is last."""
    networks = {
        "2C2F, 1x28x28": (conv_net((1, 28, 28), 10, [[16, 4, 2, 1], [32, 4, 2, 1]], [100], "relu"), x[:, :1, :28, :28]),
        "4C3F, 3x32x32": (conv_net((3, 32, 32), 10, FOUR_CONVOLUTIONS, [512, 512], "relu"), x),
        "PreActResNet-18": (model, x),
    }

    def without(network: nn.Module, images: Tensor) -> None:
        with patch("trust_exp.attacks.mode.thin_convolutions", lambda _: nullcontext()):
            attack(network, images, y)

    def both_ways(state: str) -> None:
        for name, (network, images) in networks.items():
            print(f"{name}, {state}")
            report(
                {
                    "torch's gradient of all convolutions": lambda n=network, i=images: without(n, i),
                    "the package's of the first one": lambda n=network, i=images: attack(n, i, y),
                },
                repeats,
            )

    both_ways("freed memory handed back")
    keep_freed_memory()
    both_ways("freed memory kept")


def report(ways: dict[str, Callable[[], object]], repeats: int) -> None:
    """Print the median seconds of each way, taken in turns, and the median and range of the first one's over them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            elapsed = measure(way)
            if round_:  # the first is a warm-up
                seconds[name].append(elapsed)
    first = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = [before / after for before, after in zip(first, times, strict=True)]
        middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
        print(f"  {name:40} {statistics.median(times) * 1e3:9.1f} ms  {middle:6.2f} ({least:.2f} to {most:.2f})")


def measure(way: Callable[[], object]) -> float:
    """Seconds on CUDA; on the CPU, in one thread, seconds of this process, whoever else computes meanwhile."""
    clock = time.process_time
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        clock = time.perf_counter
    start = clock()
    way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


if __name__ == "__main__":
    main()
