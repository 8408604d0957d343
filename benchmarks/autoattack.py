"""AutoAttack's verdicts by the package's attacks and by the official library: how much faster, and where they differ.

    python benchmarks/autoattack.py [--quick] [--device cuda] [--images 64] [--norms L2 Linf] [--mnist FOLDER]

Both sides get the same random numbers per image (``same_noise.py``). The library runs as its users run it: one call of
``run_standard_evaluation`` with its own batch size. Networks: one trained adversarially, attacked as a whole; one with
certificates (CLL), where the package skips what is certified (``skip_certified``) and the library attacks all images.
On a CPU the seconds are those of the process, so that other work on the machine counts little.
"""

import argparse
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pyautoattack
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.auto_attack import attacks_of, autoattack
from trust_exp.attacks.auto_pgd import apgd
from trust_exp.build import build
from trust_exp.compose import check, register
from trust_exp.data.batch import as_floats
from trust_exp.data.sources import import_dataset
from trust_exp.evals.suite import Context, SuiteRunner
from trust_exp.schema import CONF

sys.path.insert(0, str(Path(__file__).parent))
from same_noise import same_noise

EPSILON = {"digits": {"L2": 0.5, "Linf": 0.08}, "mnist": {"L2": 1.5, "Linf": 0.2}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images, the two APGD attacks only: a smoke test")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--norms", nargs="+", default=["L2", "Linf"], choices=["L2", "Linf"])
    parser.add_argument("--mnist", type=Path, help="the folder of the MNIST files; without it the embedded digits")
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/trust_exp_benchmark"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    name, count = ("mnist", options.images) if options.mnist else ("digits", options.images)
    version = "standard"
    if options.quick:
        count, version = 12, "fast"
    options.scratch.mkdir(exist_ok=True)
    if options.mnist:
        import_dataset("mnist", options.mnist, options.scratch)
    config = composed(name, options.scratch)
    data = build(config["dataset"], name=name, root=options.scratch, seed=0)
    train, test = data.arrays("train"), data.arrays("test")
    x, y = as_floats(test.images[:count]), test.labels[:count]
    print(f"torch {torch.__version__}, {options.device}, 1 thread, {name}, {count} test images, version {version}")
    for norm in options.norms:
        epsilon = EPSILON[name][norm]
        model = adversarially_trained(as_floats(train.images), train.labels, epsilon, norm, options.quick)
        print(f"adversarially trained, {norm} {epsilon}")
        compare(model.to(options.device), x.to(options.device), y.to(options.device), epsilon, norm, version, None)
    if "L2" in options.norms:
        model, radius = certified(config, data, options.scratch, epochs=1 if options.quick else None)
        epsilon = config["eval"]["certify"]["radii"][1]
        skip = (radius[:count] > epsilon).to(options.device)
        print(f"certified (CLL), L2 {epsilon}: {int(skip.sum())} of {count} images certified")
        compare(model.to(options.device), x.to(options.device), y.to(options.device), epsilon, "L2", version, skip)


def composed(name: str, folder: Path) -> dict[str, Any]:
    from hydra import compose, initialize_config_dir

    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = ["method=cll", f"dataset={name}", "eval.certify.tightness_pairs=0", f"paths.runs={folder}"]
        return check(compose("config", chosen))


def adversarially_trained(x: Tensor, y: Tensor, epsilon: float, norm: str, quick: bool) -> nn.Module:
    """Three convolutions with batch norm, trained on few-step APGD examples."""
    torch.manual_seed(0)
    side = -(-x.shape[-1] // 4)
    layers: list[nn.Module] = []
    for before, after, stride in ((x.shape[1], 32, 1), (32, 64, 2), (64, 128, 2)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * side * side, 10))
    steps = 20 if quick else 300
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(x), (64,))
        generator = torch.Generator().manual_seed(step)
        attacked = apgd(model, x[rows], y[rows], epsilon, norm=norm, steps=4, generator=generator)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(attacked), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def certified(config: dict[str, Any], data: Any, folder: Path, epochs: int | None) -> tuple[nn.Module, Tensor]:
    """A CLL network and the certified L2 radius of every test image."""

    def trainer(**given: Any) -> L.Trainer:
        quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        return L.Trainer(accelerator="cpu", logger=False, inference_mode=False, **quiet, **given)

    L.seed_everything(0, verbose=False)
    model = build(config["model"], shape=data.info.shape, classes=len(data.info.classes))
    method = build(config["method"], model=model, info=data.info)
    few = 2 if data.name == "mnist" else 40
    trainer(max_epochs=epochs or few, use_distributed_sampler=False).fit(method, datamodule=data)
    suite = build(config["eval"]["certify"])
    suite.context = Context(model.eval(), data, folder)
    runner = SuiteRunner(suite, "test", {})
    trainer().test(runner, verbose=False)
    return model, runner.outcomes["test"]["radius"]


def compare(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: float, norm: str, version: str, skip: Tensor | None
) -> None:
    """Seconds of both, their ratio, what they call robust, and the images on which they differ."""
    with torch.no_grad():
        classes = model(x[:1]).shape[1]
    suite = pyautoattack.AutoAttack(model, norm=norm, eps=epsilon, seed=0, version="standard", device=x.device)
    suite.attacks_to_run = list(attacks_of(version, classes, norm=norm, shape=x.shape[1:]))
    with same_noise(x):
        (points, _), theirs = timed(lambda: suite.run_standard_evaluation(x, y), x.device)
    with torch.no_grad():
        official = model(points).argmax(1) == y
    result, ours = timed(lambda: autoattack(model, x, y, epsilon, norm=norm, version=version, skip=skip), x.device)
    differ = (official != result.robust).nonzero().flatten().tolist()
    right, robust = int(result.correct.sum()), int(result.robust.sum())
    print(
        f"  right {right} of {len(x)}, robust: official {int(official.sum())}, own {robust}; differ: {differ or 'none'}"
    )
    print(f"  official {theirs:.1f} s, own {ours:.1f} s, ratio {theirs / ours:.2f}", flush=True)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float]:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begin = clock()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, clock() - begin


if __name__ == "__main__":
    main()
