"""A small suite asked of a network on digits, on one process or two: ``python on_processes.py <processes> <file>``."""

import sys
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from trust_exp.data.digits import Digits
from trust_exp.engine import quieten
from trust_exp.evals.suite import Context, Report, Suite, SuiteRunner
from trust_exp.results.record import Row

SPLITS = ("train", "test")
LIMIT_TRAIN, LIMIT_TEST = 300, 101
BATCH = 7  # many batches, of which two processes have an unequal share


class Spread(Suite):
    """The mean distance of logits to their mean over all samples, which takes two passes; and a confusion matrix."""

    name = "spread"
    splits = SPLITS
    passes = 2
    batch_size = BATCH

    def __init__(self):
        super().__init__()
        self.centre = None
        self.calls = []

    def prepare(self):
        self.calls.append("prepare")

    def step(self, batch):
        logits = self.context.output("logits", batch.image)
        if self.centre is not None:
            return {"distance": (logits.double() - self.centre).norm(dim=1)}
        self.add("logits", logits.double().sum(0))
        self.add("loss", nn.functional.cross_entropy(logits, batch.label, reduction="sum"))
        self.add("confusion", torch.bincount(10 * batch.label + logits.argmax(1), minlength=100).view(10, 10))
        return {"label": batch.label}

    def between(self, outcomes):
        self.calls.append("between")
        count = sum(len(found["label"]) for found in outcomes.values())
        self.centre = sum(self.totals[split]["logits"] for split in SPLITS) / count

    def finish(self, outcomes):
        self.calls.append("finish")
        values = torch.cat([found["distance"] for found in outcomes.values()])
        return Report([Row("spread/distance", float(values.mean()), "length", len(values))])


def ask(processes):
    """What the suite found, and how it was called."""
    quieten()
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    suite = Spread()
    suite.context = Context(network, Digits("digits", limit_train=LIMIT_TRAIN, limit_test=LIMIT_TEST), Path())
    several = {"strategy": DDPStrategy(process_group_backend="gloo")} if processes > 1 else {}
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu", devices=processes, use_distributed_sampler=False, inference_mode=False, **silent, **several
    )
    outcomes = {}
    for number in range(suite.passes):
        for split in suite.splits:
            runner = SuiteRunner(suite, split, outcomes, number)
            trainer.test(runner, verbose=False)
    return {
        "outcomes": outcomes,
        "totals": suite.totals,
        "calls": suite.calls,
        "value": runner.report.rows[0].value,
        "world": trainer.world_size,
        "first": trainer.global_rank == 0,
    }


if __name__ == "__main__":
    found = ask(int(sys.argv[1]))
    if found.pop("first"):
        torch.save(found, sys.argv[2])
