"""Speed of the Lipschitz bound against the plain way, both measured in this run.

    python benchmarks/lipschitz.py [--quick] [--device cuda]

Prints medians; a ratio above 1 means that the package's way is faster.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from trust_exp.lipschitz import Certifier, LipschitzBound, MinMax, PowerIteration, spectral_norm_bound
from trust_exp.lipschitz.norms import Layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats and small norm bounds: a smoke test")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    repeats = 3 if options.quick else 15
    torch.manual_seed(0)

    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, median of {repeats}")
    with torch.device(options.device):
        twelve_convolutions(repeats)
        two_moons(repeats, calls=10 if options.quick else 200)
        activation(repeats, calls=10 if options.quick else 200)
        upper_bounds(1 if options.quick else 3, quick=options.quick)
        certificates(repeats)


def twelve_convolutions(repeats: int) -> None:
    layers = [(nn.Conv2d(64, 64, 3, padding=1), (64, 16, 16)) for _ in range(12)]
    weights = [layer.weight for layer, _ in layers]
    loop = [PowerIteration([layer], 5) for layer in layers]
    grouped, through = PowerIteration(layers, 5), PowerIteration(layers, 5, through_iterations=True)
    print("12 convolutions 64 channels 16x16, 5 iterations")
    report(
        {
            "forward, layer by layer": lambda: [power() for power in loop],
            "forward, grouped": grouped,
        },
        repeats,
    )
    report(
        {
            "forward and backward through the iterations": lambda: backward(through(), weights),
            "forward and backward at the last iterate": lambda: backward(grouped(), weights),
        },
        repeats,
    )


def two_moons(repeats: int, calls: int) -> None:
    widths = [2, 10, 20, 40, 40, 20, 10, 2]
    linears = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
    weights = [layer.weight for layer in linears]
    model = nn.Sequential(*[part for layer in linears for part in (layer, MinMax())][:-1])
    for iterations in (1, 5):
        bound = LipschitzBound(model, (2,), iterations)
        loop = [PowerIteration([(layer, (layer.in_features,))], iterations) for layer in linears[:-1]]

        def layer_by_layer(loop: list[PowerIteration] = loop) -> None:
            features = torch.stack([power()[0] for power in loop]).prod()
            pairwise = features * torch.cdist(weights[-1], weights[-1])
            torch.autograd.grad(pairwise.max(), weights)

        def grouped(bound: LipschitzBound = bound) -> None:
            torch.autograd.grad(bound().worst, weights)

        print(f"two-moons MLP, bound forward and backward, {iterations} iteration(s)")
        report({"layer by layer": layer_by_layer, "one stack": grouped}, repeats, calls)


def activation(repeats: int, calls: int) -> None:
    def amax_and_amin(x: Tensor) -> Tensor:
        pairs = x.unflatten(1, (-1, 2))
        return torch.cat((pairs.amax(2), pairs.amin(2)), 1)

    for shape, times in (((100, 20), calls), ((64, 64, 16, 16), 1)):
        x, upstream = torch.randn(shape, requires_grad=True), torch.randn(shape)
        print(f"MinMax forward and backward {shape}")
        ways: dict[str, Callable[[Tensor], Tensor]] = {"amax and amin": amax_and_amin, "MinMax": MinMax()}
        report({name: partial(vector_jacobian, way, x, upstream) for name, way in ways.items()}, repeats, times)


def upper_bounds(repeats: int, quick: bool) -> None:
    print("certified norm of one 3x3 convolution")
    for channels, size in ((64, 8),) if quick else ((64, 32), (256, 16)):
        conv: Layer = nn.Conv2d(channels, channels, 3, padding=1)
        shape = (channels, size, size)
        report({f"{channels} channels {size}x{size}": partial(spectral_norm_bound, conv, shape)}, repeats)
        norm = PowerIteration([(conv, shape)]).converged(max_steps=200)[0].item()
        print(f"  above the power iteration by {spectral_norm_bound(conv, shape) / norm - 1:.2%}")


def certificates(repeats: int) -> None:
    """What the bound on rounding costs beside the exact logits, which a certificate needs in any case."""
    shape = (3, 32, 32)
    convolutions = [part for i, o in ((3, 32), (32, 32), (32, 64)) for part in (nn.Conv2d(i, o, 3, 1, 1), MinMax())]
    head = (nn.Flatten(), nn.Linear(64 * 32 * 32, 128), MinMax(), nn.Linear(128, 10))
    certifier, images = Certifier(nn.Sequential(*convolutions, *head), shape), torch.rand(50, *shape)
    print("certificates of 50 images 32x32, three convolutions")
    report({"logits and radii": lambda: certifier.radius(images), "logits": lambda: certifier.logits(images)}, repeats)


def backward(sigmas: list[Tensor], weights: list[Tensor]) -> None:
    torch.autograd.grad(torch.stack(sigmas).prod(), weights)


def vector_jacobian(way: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> None:
    torch.autograd.grad(way(x), x, upstream)


def report(ways: dict[str, Callable[[], object]], repeats: int, calls: int = 1) -> None:
    """Print the median seconds of each way, taken in turns, and the first one's over the last one's."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            elapsed = measure(way, calls)
            if round_:  # the first is a warm-up
                seconds[name].append(elapsed)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"  {name:45} {median * 1e3:10.3f} ms")
    if len(medians) > 1:
        first, *_, last = medians.values()
        print(f"  {'ratio':45} {first / last:10.2f}")


def measure(way: Callable[[], object], calls: int) -> float:
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        way()
    synchronize()
    return (time.perf_counter() - start) / calls


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
