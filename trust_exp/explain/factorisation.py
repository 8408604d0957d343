"""Non-negative matrix factorisation of many matrices at once: A ~ E B, with E >= 0 and B >= 0.

A [N, D] holds one feature a row, B [p, D] the parts, E [N, p] how much of each part. Each iteration reads A once, in
tiles of rows that fit the processor's cache, and allocates nothing of the size of A.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from trust_exp.rng import keyed_generator

Init = Literal["abs_scaled", "nndsvda", "paper"]
Stop = Literal["update", "tenth"]

_TILE = 2**20  # bytes of rows in a tile, so that both products find them in the cache
_LEAST = {torch.float32: 1e-7, torch.float64: 1e-12}  # added to denominators, for an A of mean 1; zeros stay exact


@dataclass(frozen=True)
class Factors:
    """A factorisation of one matrix, the best of its restarts.

    Attributes:
        encoding: E, [N, p].
        basis: B, [p, D].
        error: ‖A - E B‖, the Frobenius norm.
        steps: iterations until it stopped.
        errors: of each restart.
        bases: of each restart, [R, p, D].
    """

    encoding: Float[Tensor, "N p"]
    basis: Float[Tensor, "p D"]
    error: float
    steps: int
    errors: tuple[float, ...]
    bases: Float[Tensor, "R p D"]


def nmf(
    matrix: Float[Tensor, "N D"],
    rank: int,
    *,
    init: Init | Float[Tensor, "p D"] = "abs_scaled",
    steps: int = 200,
    tolerance: float = 1e-4,
    stop: Stop = "update",
    inner: int = 1,
    restarts: int = 1,
    seed: int = 0,
    name: int = 0,
) -> Factors:
    """Factorise one matrix by multiplicative updates, E first.

    Args:
        matrix: A, [N, D], float32 or float64, finite and >= 0.
        rank: p, in [1, min(N, D)].
        init: "abs_scaled": |N(0, 1)| sqrt(mean(A) / p); "nndsvda": from the singular vectors, zeros filled with the
            mean of A; "paper": N(0, 1) with negative values set to 0, which stay 0 for ever; or a first B, [p, D], with
            E drawn as in "abs_scaled".
        steps: iterations at most, >= 1.
        tolerance: stop when the error falls by less than this fraction of the first error, >= 0; 0: never.
        stop: "update": check the squared error after every iteration; "tenth": the error after every tenth.
        inner: updates of each factor for one product with A, >= 1; more than one is Gillis & Glineur's acceleration.
        restarts: the best is returned; a fixed start is used once.
        seed, name: keys of the random start; ``name`` is that of the matrix.

    Raises:
        ValueError: if an argument is out of range.

    Source: Lee & Seung 2000; Gillis & Glineur 2012; "nndsvda": Boutsidis & Gallopoulos 2008. "paper" and "update" as in
    ProtoNMF (2023), sec. 3.1; "abs_scaled" and "tenth" as in the code of Collins et al. 2018.
    """
    check_matrix(matrix, rank)
    _check(steps, tolerance, inner, restarts)
    _check_start(matrix, rank, init, stop)
    matrix, root = _of_ordinary_size(matrix)
    init = init / root if isinstance(init, Tensor) else init
    several = restarts if isinstance(init, str) and init != "nndsvda" else 1
    starts = [_start(matrix, rank, init, seed, name, restart) for restart in range(several)]
    encoding = torch.stack([start[0].mT for start in starts])
    basis = torch.stack([start[1] for start in starts])
    return _of_first_size(_factorise(matrix, encoding, basis, steps, tolerance, stop, inner), root)


def nmf_many(
    matrices: Sequence[Float[Tensor, "_ _"]], rank: int, *, names: Sequence[int] | None = None, **options: object
) -> list[Factors]:
    """``nmf`` of several matrices, on a CPU one a thread.

    Args:
        names: of the matrices; None: their places.
        options: further arguments of ``nmf``.
    """
    named = list(zip(matrices, names or range(len(matrices)), strict=True))
    threads = torch.get_num_threads()
    if len(named) < 2 or threads < 2 or matrices[0].device.type != "cpu":
        return [nmf(matrix, rank, name=name, **options) for matrix, name in named]  # type: ignore[arg-type]

    def alone(item: tuple[Tensor, int]) -> Factors:
        torch.set_num_threads(1)  # a product with so few columns gains nothing from a second thread
        return nmf(item[0], rank, name=item[1], **options)  # type: ignore[arg-type]

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, named))
    finally:
        torch.set_num_threads(threads)


def semi_nmf(
    matrix: Float[Tensor, "N D"], rank: int, *, steps: int = 200, tolerance: float = 1e-6, seed: int = 0, name: int = 0
) -> Factors:
    """A ~ E B with E >= 0 and B of any sign, for features with negative values.

    Args:
        matrix: A, [N, D], finite.
        rank, steps, tolerance, seed, name: as of ``nmf``; the rule is "update".

    Source: Ding, Li & Jordan 2010, sec. 2.2, with their updates transposed.
    """
    check_matrix(matrix, rank, signed=True)
    _check(steps, tolerance, 1, 1)
    matrix, root = _of_ordinary_size(matrix)
    generator = keyed_generator(seed, "nmf", name, 0)
    encoding = torch.rand(rank, len(matrix), generator=generator).to(matrix) + 0.2
    squares = _squares(matrix)
    before = first = float("inf")
    least, done = _LEAST[matrix.dtype], 0
    for done in range(1, steps + 1):
        basis = torch.linalg.lstsq(encoding @ encoding.mT, encoding @ matrix).solution
        gram, target = basis @ basis.mT, basis @ matrix.mT
        error = squares - 2 * _inner(encoding, target) + _inner(encoding @ encoding.mT, gram)
        first = error if done == 1 else first
        if before - error < tolerance * first:
            break
        before = error
        over = target.clamp_min(0) + (-gram).clamp_min(0) @ encoding
        under = (-target).clamp_min(0) + gram.clamp_min(0) @ encoding
        encoding = encoding * (over / under.clamp_min(least)).sqrt()
    basis = torch.linalg.lstsq(encoding @ encoding.mT, encoding @ matrix).solution
    error = float((matrix - encoding.mT @ basis).norm())
    return _of_first_size(Factors(encoding.mT, basis, error, done, (error,), basis[None]), root)


def check_matrix(matrix: Tensor, rank: int, *, signed: bool = False) -> None:
    """Raise ValueError unless a matrix can be factorised.

    Args:
        signed: whether it may have negative values.
    """
    if matrix.dim() != 2 or matrix.dtype not in _LEAST:
        raise ValueError(f"a matrix [N, D] of float32 or float64 is needed; got {list(matrix.shape)} {matrix.dtype}")
    low, high = matrix.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise ValueError("the matrix has values that are not finite")
    if low < 0 and not signed:
        raise ValueError(f"the matrix has negative values; the least is {float(low):g}")
    if low == high == 0:
        raise ValueError("the matrix is zero")
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"the rank must be between 1 and {min(matrix.shape)}, the matrix's smaller side; got {rank}")


def _of_ordinary_size(matrix: Tensor) -> tuple[Tensor, float]:
    """The matrix, divided by the square of a power of two if its products could overflow or vanish, and that power."""
    largest = float(matrix.abs().amax())
    root = 1.0 if 1e-6 <= largest <= 1e6 else 2.0 ** round(math.log2(largest) / 2)
    return matrix if root == 1 else matrix / root**2, root


def _of_first_size(factors: Factors, root: float) -> Factors:
    if root == 1:
        return factors
    errors = tuple(error * root**2 for error in factors.errors)
    sized = (factors.encoding * root, factors.basis * root, factors.error * root**2, factors.steps)
    return Factors(*sized, errors, factors.bases * root)


def _check_start(matrix: Tensor, rank: int, init: Init | Tensor, stop: Stop) -> None:
    if stop not in get_args(Stop):
        raise ValueError(f"stop must be one of {', '.join(get_args(Stop))}; got {stop!r}")
    if isinstance(init, str) and init not in get_args(Init):
        raise ValueError(f"init must be one of {', '.join(get_args(Init))}, or a first B; got {init!r}")
    if isinstance(init, Tensor) and (init.shape != (rank, matrix.shape[1]) or bool((init < 0).any())):
        raise ValueError(f"a first B must be [{rank}, {matrix.shape[1]}] and >= 0; got {list(init.shape)}")


def _check(steps: int, tolerance: float, inner: int, restarts: int) -> None:
    if min(steps, inner, restarts) < 1:
        raise ValueError(f"steps, inner and restarts must be at least 1; got {steps}, {inner} and {restarts}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0; got {tolerance:g}")


# --- starts ---------------------------------------------------------------------------------------------------------


def _start(matrix: Tensor, rank: int, init: Init | Tensor, seed: int, name: int, restart: int) -> tuple[Tensor, Tensor]:
    """First E [N, p] and B [p, D]."""
    if init == "nndsvda":
        return _nndsvda(matrix, rank)
    rows, columns = matrix.shape
    generator = keyed_generator(seed, "nmf", name, restart)
    encoding = torch.randn(rows, rank, generator=generator).to(matrix)
    basis = torch.randn(rank, columns, generator=generator).to(matrix)
    if isinstance(init, str) and init == "paper":
        return encoding.clamp_(min=0), basis.clamp_(min=0)
    scale = (matrix.mean() / rank).sqrt()
    given = init.to(matrix).clone() if isinstance(init, Tensor) else basis.abs_().mul_(scale)
    return encoding.abs_().mul_(scale), given


def _nndsvda(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The heavier sign of each pair of singular vectors; zeros become the mean of the matrix.

    The right vectors come from the Gram matrix [D, D], so A itself need not be decomposed.
    """
    values, vectors = torch.linalg.eigh(gram_of(matrix))
    singular = values[-rank:].flip(0).clamp_min(0).sqrt()
    right = vectors[:, -rank:].flip(1).mT
    left = (matrix @ right.mT.to(matrix)).double() / singular.clamp_min(1e-300)
    encoding, basis = torch.zeros_like(left), torch.zeros_like(right)
    for part in range(rank):
        u, v = left[:, part], right[part]
        if part == 0:
            u, v, weight = u.abs(), v.abs(), torch.ones((), dtype=u.dtype, device=u.device)
        else:
            signs = [(u.clamp_min(0), v.clamp_min(0)), ((-u).clamp_min(0), (-v).clamp_min(0))]
            u, v = max(signs, key=lambda pair: float(pair[0].norm() * pair[1].norm()))
            weight = u.norm() * v.norm()
            u, v = u / u.norm().clamp_min(1e-300), v / v.norm().clamp_min(1e-300)
        scale = (singular[part] * weight).sqrt()
        encoding[:, part], basis[part] = scale * u, scale * v
    mean = matrix.mean().double()
    return tuple(torch.where(factor > 1e-6, factor, mean).to(matrix) for factor in (encoding, basis))  # type: ignore[return-value]


# --- updates --------------------------------------------------------------------------------------------------------


def _factorise(
    matrix: Tensor, encoding: Tensor, basis: Tensor, steps: int, tolerance: float, stop: Stop, inner: int
) -> Factors:
    """The best restart, from E transposed, [R, p, N], and B, [R, p, D], which is changed in place."""
    # the denominators' scale is that of A to the power 1.5
    squares, least = _squares(matrix), (_LEAST[matrix.dtype] * matrix.mean() ** 1.5).view(1, 1, 1)
    tiles = _tiles(matrix)
    parts = [part.contiguous() for part in encoding.split([len(rows) for rows in tiles], 2)]
    sums = _Sums(torch.zeros_like(basis), basis.new_zeros(*basis.shape[:2], basis.shape[1]))
    for rows, part in zip(tiles, parts, strict=True):
        sums.add(rows, part)
    first = before = sums.error(squares, basis)
    flat = basis.view(-1, basis.shape[2])  # the same memory
    every, squared = (1, True) if stop == "update" else (10, False)
    done = torch.zeros(len(basis), dtype=torch.bool, device=matrix.device)
    lasted = torch.full((len(basis),), steps)
    running: Tensor | None = None
    for step in range(1, steps + 1):
        gram = torch.bmm(basis, basis.mT)
        sums.clear()
        for rows, part in zip(tiles, parts, strict=True):
            _update(part, torch.mm(flat, rows.mT).view_as(part), gram, least, inner, running)
            sums.add(rows, part)
        _update(basis, sums.weighted, sums.moments, least, inner, running)
        if tolerance and step % every == 0:
            error = sums.error(squares, basis)
            falls = (before - error) / first if squared else (before.sqrt() - error.sqrt()) / first.sqrt()
            ends = ~done & (falls < tolerance)
            before = error
            if ends.any():
                lasted[ends.cpu()] = step
                done |= ends
                running = ~done[:, None, None]
                if done.all():
                    break
    errors = _exact_errors(parts, tiles, basis)
    best = int(errors.argmin())
    found = torch.cat([part[best] for part in parts], 1).mT
    return Factors(found, basis[best], float(errors[best]), int(lasted[best]), tuple(errors.tolist()), basis)


@dataclass(frozen=True)
class _Sums:
    """E^T A, [R, p, D], and E^T E, [R, p, p], over the tiles."""

    weighted: Tensor
    moments: Tensor

    def clear(self) -> None:
        self.weighted.zero_()
        self.moments.zero_()

    def add(self, rows: Tensor, part: Tensor) -> None:
        """Add a tile of A, [n, D], with its E transposed, [R, p, n]."""
        self.weighted.view(-1, rows.shape[1]).addmm_(part.view(-1, len(rows)), rows)
        self.moments.baddbmm_(part, part.mT)

    def error(self, squares: float, basis: Tensor) -> Tensor:
        """Squared errors of the restarts, float64 [R]: ‖A‖² - 2 <E^T A, B> + <E^T E, B B^T>."""
        basis = basis.double()
        cross = (self.weighted.double() * basis).sum((1, 2))
        return squares - 2 * cross + (self.moments.double() * (basis @ basis.mT)).sum((1, 2))


def _update(factor: Tensor, target: Tensor, gram: Tensor, least: Tensor, times: int, running: Tensor | None) -> None:
    """Multiply a factor [R, p, M] by target / (gram factor), where ``running`` ([R, 1, 1]) says so, in place."""
    for _ in range(times):
        ratio = torch.div(target, torch.baddbmm(least, gram, factor))
        factor.mul_(ratio if running is None else torch.where(running, ratio, 1.0))


def gram_of(matrix: Float[Tensor, "N D"]) -> Float64[Tensor, "D D"]:
    """A^T A, float64 [D, D], without a copy of A."""
    gram = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64, device=matrix.device)
    for rows in _tiles(matrix):
        gram += rows.mT.double() @ rows.double()
    return gram


def _tiles(matrix: Tensor) -> tuple[Tensor, ...]:
    """The rows in tiles that fit a processor's cache; on another device in one."""
    rows = len(matrix) if matrix.device.type != "cpu" else _TILE // (matrix.shape[1] * matrix.element_size())
    parts = max(1, round(len(matrix) / max(rows, 1)))
    return matrix.split(-(-len(matrix) // parts))


def _squares(matrix: Tensor) -> float:
    return sum(float(rows.double().square().sum()) for rows in _tiles(matrix))


def _inner(one: Tensor, other: Tensor) -> float:
    return float((one.double() * other.double()).sum())


def _exact_errors(parts: Sequence[Tensor], tiles: Sequence[Tensor], basis: Tensor) -> Tensor:
    """‖A - E B‖ of the restarts, float64 [R], from the residuals: near a perfect fit the moments cancel."""
    total = torch.zeros(len(basis), dtype=torch.float64, device=basis.device)
    for rows, part in zip(tiles, parts, strict=True):
        for restart in range(len(basis)):
            total[restart] += (rows - part[restart].mT @ basis[restart]).square().sum(dtype=torch.float64)
    return total.sqrt()
