"""One-class anomaly detection: steps of Grad2VAE, second derivatives of each latent, PatchCore's search, ten models.

    python benchmarks/anomaly.py [--quick] [--device cuda]

A VAE of 28x28 pixels at batch 128. Plain ways: a loop over latents with two backward passes each; the distances of each
image's patches to the bank by ``torch.cdist``, one image after the other; ten models trained in turn. On a CPU seconds
are those of the process, as other programs may run.
"""

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from trust_exp.explain.curvature import row_sums_of_each
from trust_exp.methods.anomaly.core import divergence, nearest, pixel_error
from trust_exp.methods.anomaly.training import stacked
from trust_exp.models.vae import Grad2Vae, Vae

PUBLISHED = {"target": "mean", "layer": 1, "aggregation": "convolution", "fusion": "published", "resolution": "half"}
STEPS = {  # a VAE has ReLU, as the paper's
    "vae": None,
    "grad2vae": PUBLISHED,
    "grad2vae, full resolution": {**PUBLISHED, "resolution": "full"},
    "grad2vae, detached": {**PUBLISHED, "fusion": "detached"},
    "grad2vae, without fusion": {**PUBLISHED, "fusion": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes: a smoke test")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    steps(options.device, options.quick)
    maps(options.device, options.quick)
    search(options.device, options.quick)
    ensemble(options.device, options.quick)


def steps(device: str, quick: bool) -> None:
    side, batch = (8, 8) if quick else (28, 128)
    image = torch.rand(batch, 1, side, side, device=device)
    noise = torch.randn(batch, 16, device=device)
    works = {}
    for name, options in STEPS.items():
        model = made(options, side).to(device)
        works[name] = step_of(model, torch.optim.Adam(model.parameters(), fused=True), image, noise)
    found = in_turn(works, device, 2 if quick else 7)
    for name, seconds in found.items():
        print(f"step, {name}: {1e3 * seconds:.0f} ms, {seconds / found['vae']:.2f} times a VAE's")


def made(options: dict[str, Any] | None, side: int) -> Vae:
    shape = (1, side, side)
    return Vae(shape, 16, "relu") if options is None else Grad2Vae(shape, 16, "silu", **options)


def loss_of(model: Vae, image: Tensor, noise: Tensor) -> Tensor:
    found = model(image, noise)
    loss = pixel_error(found.pixels, image, "bce").mean() + divergence(*found.code).mean()
    return loss if found.attention is None else loss + pixel_error(found.attention, image, "bce").mean()


def with_no_parts(model: Vae, image: Tensor, noise: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    return loss_of(model, image, noise), {}


def step_of(model: Vae, optimizer: torch.optim.Optimizer, image: Tensor, noise: Tensor) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad()
        loss_of(model, image, noise).backward()
        optimizer.step()

    return step


def maps(device: str, quick: bool) -> None:
    side, batch = (8, 4) if quick else (28, 32)
    model = made(PUBLISHED, side).to(device)
    layer = model.layer_of(torch.rand(batch, 1, side, side, device=device)).detach().requires_grad_()

    def plain() -> Tensor:
        latents, found = model.latents_of(layer), []
        for number in range(latents.shape[1]):
            (slope,) = torch.autograd.grad(latents[:, number].sum(), layer, create_graph=True)
            found.append(torch.autograd.grad(slope.sum(), layer, retain_graph=True)[0])
        return torch.stack(found, dim=1)

    def ours() -> Tensor:
        with torch.no_grad():
            return row_sums_of_each(model.latents_of, layer)

    torch.testing.assert_close(ours(), plain().detach(), rtol=1e-3, atol=1e-6)
    found = in_turn({"plain": plain, "ours": ours}, device, 2 if quick else 5)
    told("second derivatives of each of 16 latents", found)


def search(device: str, quick: bool) -> None:
    images, bank_size, values = (10, 50, 16) if quick else (1000, 2000, 64)
    patches = torch.randn(images, 784, values, device=device)
    bank = torch.randn(bank_size, values, device=device)

    def plain() -> Tensor:
        return torch.stack([torch.cdist(one, bank).min(1).values for one in patches])

    def ours() -> Tensor:
        return nearest(patches.flatten(0, 1), bank)[0].view(images, 784)

    torch.testing.assert_close(ours(), plain(), rtol=1e-3, atol=1e-3)
    told(f"search of {images} images' patches among {bank_size}", in_turn({"plain": plain, "ours": ours}, device, 3))


def ensemble(device: str, quick: bool) -> None:
    side, batch = (8, 4) if quick else (28, 128)
    for name in ("vae", "grad2vae"):
        members = [made(STEPS[name], side).to(device) for _ in range(10)]
        others = copy.deepcopy(members)
        given = [
            (torch.rand(batch, 1, side, side, device=device), torch.randn(batch, 16, device=device)) for _ in members
        ]
        optimizers = [
            torch.optim.Adam([parameter for member in kind for parameter in member.parameters()], fused=True)
            for kind in (members, others)
        ]

        def plain(members: Any = members, given: Any = given, optimizer: Any = optimizers[0]) -> None:
            for member, own in zip(members, given, strict=True):
                optimizer.zero_grad()
                loss_of(member, *own).backward()
                optimizer.step()

        def ours(members: Any = others, given: Any = given, optimizer: Any = optimizers[1]) -> None:
            optimizer.zero_grad()
            torch.stack([loss for loss, _ in stacked(with_no_parts, members, given)]).sum().backward()
            optimizer.step()

        told(f"a step of ten models, {name}", in_turn({"plain": plain, "ours": ours}, device, 2 if quick else 5))


def in_turn(works: dict[str, Callable[[], Any]], device: str, times: int) -> dict[str, float]:
    """Median seconds of each, measured one after the other again and again; the first time does not count."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(times + 1):
        for name, work in works.items():
            begin = clock()
            work()
            if device != "cpu":
                torch.cuda.synchronize()
            found[name].append(clock() - begin)
    return {name: median(seconds[1:]) for name, seconds in found.items()}


def told(what: str, found: dict[str, float]) -> None:
    plain, ours = found["plain"], found["ours"]
    print(f"{what}: plain {1e3 * plain:.0f} ms, package {1e3 * ours:.0f} ms, ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
