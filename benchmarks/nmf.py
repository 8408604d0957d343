"""Non-negative factorisations of many classes: the package against scikit-learn's ``mu`` solver, class by class.

    python benchmarks/nmf.py [--quick] [--device cuda]

Both in float32 on the same features: rectified sums of few sparse parts and noise. scikit-learn starts at random and
does 100 iterations. The package does the same 100 (``inner=1``), or as many as it takes to reach errors that are no
worse where each product with the features serves several updates.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trust_exp.explain.factorisation import nmf_many

RANK, STEPS = 3, 100
FASTER = [(1, 100), (2, 50), (3, 40), (4, 33), (6, 26), (8, 22)]  # updates for one product, iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small classes: a smoke test")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    classes, rows, columns = (4, 100, 64) if options.quick else (100, 800, 512)
    matrices = [features(rows, columns, seed) for seed in range(classes)]
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    print(f"{classes} classes of {rows} x {columns}, {RANK} prototypes")
    theirs, errors = timed(lambda: [by_sklearn(matrix) for matrix in matrices])
    print(f"scikit-learn, {STEPS} iterations: {theirs:.2f} s, mean error {mean(errors):.3f}")
    there = [matrix.to(options.device) for matrix in matrices]
    nmf_many(there[:4], RANK, steps=2)  # threads and kernels are made
    for inner, steps in FASTER:
        ours, found = timed(lambda: nmf_many(there, RANK, steps=steps, tolerance=0, inner=inner))  # noqa: B023
        error = mean([factors.error for factors in found])
        print(f"inner={inner}, {steps} iterations: {ours:.2f} s, ratio {theirs / ours:.2f}, mean error {error:.3f}")


def features(rows: int, columns: int, seed: int) -> Tensor:
    """Like features behind a rectifier: three sparse parts and noise, [rows, columns], float32, >= 0."""
    generator = torch.Generator().manual_seed(seed)
    parts = torch.rand(rows, RANK, generator=generator) ** 3 @ torch.rand(RANK, columns, generator=generator) ** 3
    return (parts + 0.1 * torch.randn(rows, columns, generator=generator)).clamp_min_(0)


def by_sklearn(matrix: Tensor) -> float:
    """The error of its ``mu`` solver."""
    from sklearn.decomposition import NMF

    solver = NMF(RANK, init="random", solver="mu", max_iter=STEPS, tol=0, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        solver.fit_transform(matrix.numpy())
    return float(solver.reconstruction_err_)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
