"""What attacking a part of the data costs, against attacking all of them and against the ideal, in this run.

    python benchmarks/sat.py [--quick] [--device cuda]

An ordinary step costs 1 and attacking all of its samples s more, so that attacking |A| of N should cost
(1 + s |A|/N) / (1 + s) of full adversarial training. s is measured here too.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from trust_exp.attacks.mode import attack_mode
from trust_exp.attacks.projected_gradient import pgd
from trust_exp.methods.adversarial.core import mean_loss, two_parts
from trust_exp.methods.adversarial.subset import rows_in
from trust_exp.models.nets import conv_net

BATCH, BATCHES = 128, 4
CONVS = [[32, 3, 1, 1], [32, 4, 2, 1], [64, 3, 1, 1], [64, 4, 2, 1]]  # 4C3F


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of few batches: a smoke test")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rounds, batches = (1, 2) if options.quick else (3, BATCHES)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    training = Training(options.device, batches)
    shares = (0.0, 0.1, 0.3, 0.5, 1.0)
    seconds: dict[float, list[float]] = {share: [] for share in shares}
    for round_ in range(rounds + 1):
        for share in shares:
            elapsed = timed(lambda share=share: training.epoch(share))
            if round_:  # the first is a warm-up
                seconds[share].append(elapsed)
    medians = {share: statistics.median(times) for share, times in seconds.items()}
    s = medians[1.0] / medians[0.0] - 1
    print(f"PGD-7 on {BATCH} images of 3x32x32, 4C3F with ReLU, an epoch of {batches} batches; s = {s:.2f}")
    for share in shares:
        ratio, ideal = medians[share] / medians[1.0], (1 + s * share) / (1 + s)
        print(
            f"  |A| = {share:4.0%} {medians[share]:8.3f} s {ratio:6.3f} of all, ideal {ideal:.3f}: {ratio / ideal:.3f}"
        )
    frozen_or_not(training, rounds)


class Training:
    """Epochs on made-up images of CIFAR's size; what is attacked is spread evenly over the batches by chance."""

    def __init__(self, device: str, batches: int) -> None:
        self.model = conv_net((3, 32, 32), 10, CONVS, [512, 512], "relu").to(device)
        self.image = torch.rand(batches * BATCH, 3, 32, 32, device=device)
        self.label = torch.randint(10, (batches * BATCH,), device=device)
        self.order = torch.randperm(batches * BATCH)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)

    def epoch(self, share: float) -> None:
        lookup = torch.zeros(len(self.label) + 1, dtype=torch.bool, device=self.image.device)
        lookup[self.order[: round(share * len(self.label))]] = True
        for index in torch.arange(len(self.label), device=self.image.device).split(BATCH):
            self.step(index, lookup)

    def step(self, index: Tensor, lookup: Tensor) -> None:
        """As ``AdversarialTraining.training_step``, without Lightning."""
        rows = rows_in(lookup, index)
        image, label = self.image[index], self.label[index]
        x = image[rows]
        if len(rows):
            x = pgd(self.model, x, label[rows], 0.5, step_size=0.1, steps=7, score_last=False)
        others = torch.ones_like(label, dtype=torch.bool).index_fill(0, rows, False).nonzero().squeeze(1)
        clean, attacked = two_parts(self.model, image[others], x, joint=True)
        losses = F.cross_entropy(torch.cat([clean, attacked]), label[torch.cat([others, rows])], reduction="none")
        self.optimizer.zero_grad()
        mean_loss(losses, torch.ones_like(losses)).backward()
        self.optimizer.step()


def frozen_or_not(training: Training, rounds: int) -> None:
    """Seven gradients with respect to a batch: alone, or with those of the parameters that nobody needs."""
    image, label, model = training.image[:BATCH], training.label[:BATCH], training.model

    def gradients(wanted: Callable[[Tensor], list[Tensor]]) -> None:
        for _ in range(7):
            point = image.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(point), label), wanted(point))

    def frozen() -> None:
        with attack_mode(model):
            gradients(lambda point: [point])

    def backward() -> None:  # what loss.backward() costs
        gradients(lambda point: [point, *model.parameters()])

    times: dict[str, list[float]] = {"with the parameters' gradients": [], "parameters frozen": []}
    for round_ in range(rounds + 1):
        for name, way in zip(times, (backward, frozen), strict=True):
            elapsed = timed(way)
            if round_:
                times[name].append(elapsed)
    first, second = (statistics.median(found) for found in times.values())
    print(f"  seven gradients: {first * 1e3:.0f} ms with those of the parameters, {second * 1e3:.0f} ms frozen")
    print(f"  ratio {first / second:.2f}")


def timed(way: Callable[[], None]) -> float:
    """Seconds that it takes; without a GPU those of the processor, so that what else the machine does counts less."""
    synchronize()
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    begin = clock()
    way()
    synchronize()
    return clock() - begin


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
