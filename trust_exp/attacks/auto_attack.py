"""AutoAttack (Croce & Hein 2020) as one function, with one verdict per image and attack.

The package's own attacks decide as the official library does, but leave an image as soon as it is broken and draw its
random numbers from a generator of its own. The library is the reference.
"""

import importlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Any, Literal, Unpack, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from trust_exp.attacks.arguments import ImageOptions, check_labels, check_per_image, under_attack
from trust_exp.attacks.auto_pgd_released import apgd_ce, apgd_t
from trust_exp.attacks.ball import Ball, Norm, rowwise
from trust_exp.attacks.fast_adaptive_boundary import fab
from trust_exp.attacks.square_attack import square
from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.verdicts import predicted

log = logging.getLogger(__name__)

Version = Literal["standard", "fast"]
Implementation = Literal["own", "official"]
Attack = Callable[[Ball, Tensor, Tensor], Tensor]  # balls, labels and names of images -> candidate points


@dataclass(frozen=True)
class AutoAttackResult:
    """The verdicts; every tensor is on the device of the images, in their order.

    Attributes:
        correct: [B] bool, the clean prediction is right.
        survived: for each attack, in order, [B] bool: still right after it and all attacks before it.
        x_adv: shape and dtype of x; a point that breaks the image, or the image itself if none was found.
        implementation: name and version of the code that ran, e.g. "trust_exp 0.1.0" or "pyautoattack 0.2.0".
    """

    correct: Bool[Tensor, " B"]
    survived: dict[str, Bool[Tensor, " B"]]
    x_adv: Float[Tensor, "B *shape"]
    implementation: str

    @property
    def robust(self) -> Bool[Tensor, " B"]:
        """[B] bool: right under every attack."""
        return next(reversed(self.survived.values()))


def attacks_of(
    version: Version, classes: int, *, norm: Norm = "Linf", shape: Sequence[int] | None = None
) -> tuple[str, ...]:
    """Names of the attacks, in order; "fast" is the standard version without FAB and Square.

    Args:
        version: "standard" or "fast".
        classes: number of logits, >= 2.
        norm: "L2" or "Linf".
        shape: shape of an image; None: an image of at least 5 x 5 pixels.

    Raises:
        ValueError: if version is unknown or there is only one class.
    """
    check_choice("version", version, get_args(Version))
    if classes < 2:
        raise ValueError(f"AutoAttack needs at least 2 classes; the model has {classes}")
    # APGD-T's loss needs the fourth largest logit. With two or three classes cross-entropy goes towards the only rivals
    # anyway, and FAB runs untargeted, over all of them at once.
    gradient, boundary = (("apgd-ce", "apgd-t"), "fab-t") if classes >= 4 else (("apgd-ce",), "fab")
    if version == "fast":
        return gradient
    # For L2 Square tiles the image by fifths of its height, which a vector or an image below 5 pixels does not have.
    tiled = shape is None or (len(shape) == 3 and min(shape[1:]) >= 5)
    return (*gradient, boundary, "square") if norm == "Linf" or tiled else (*gradient, boundary)


def autoattack(
    model: nn.Module,
    x: Float[Tensor, "B *shape"],
    y: Int64[Tensor, " B"],
    epsilon: float,
    *,
    version: Version = "standard",
    steps: int = 100,
    batch_size: int = 250,
    implementation: Implementation = "own",
    skip: Bool[Tensor, " B"] | None = None,
    **options: Unpack[ImageOptions],
) -> AutoAttackResult:
    """Run AutoAttack, attack after attack, each on the images that are still robust.

    Every break is checked: the point must lie in ball (up to 1e-6 relative) and domain, is pulled into them if rounding
    left it outside, and counts only if the model is wrong there. Autocast is off meanwhile, and the global random
    states are restored.

    Args:
        model: maps [B, ...] to logits [B, N]; attacked in :func:`attack_mode`, left as it was.
        x: images, [B, C, H, W] or any other [B, ...], float32 or float64, inside the domain.
        y: labels, [B], int64.
        epsilon: radius in the units of x, finite, >= 0; 0: the clean prediction.
        version: "standard", or "fast" without FAB and Square, which rarely change a verdict and take most of the time.
        steps: of its two APGD attacks, >= 1; fewer are quicker and weaker, and no AutoAttack.
        batch_size: images per batch; in the official library the random draws depend on it.
        implementation: "own": the package's attacks, with random numbers per image, so that no verdict depends on the
            other images. "official": the library, with the verdicts of its ``run_standard_evaluation`` for equal seed
            and batch size; it ignores ``index``.
        skip: images that are not attacked and count as robust if classified correctly, [B] bool; None: none.
        options: ``norm``, ``domain``, ``seed`` and ``index``, see :class:`ImageOptions`.

    Raises:
        UserError: if implementation is "official" and the library is not installed.
        ValueError: if an argument is out of range, or the model has fewer than 2 classes.
    """
    check_choice("implementation", implementation, get_args(Implementation))
    if batch_size < 1 or len(x) == 0:
        raise ValueError(f"AutoAttack needs at least one image and batch_size >= 1; got {len(x)} and {batch_size}")
    check_range("steps", steps, least=1)
    skip = torch.zeros(len(x), dtype=torch.bool, device=y.device) if skip is None else skip.to(y.device)
    check_per_image("skip", skip, x, torch.bool)
    library, ran = _library() if implementation == "official" else (None, f"trust_exp {installed_version('trust_exp')}")
    attacked = under_attack(model, x, y, epsilon, **options)
    with attacked as (ball, y, index, seed), torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        logits = torch.cat([model(batch) for batch in ball.center.split(batch_size)])
        check_labels(y, logits)
        names = attacks_of(version, logits.shape[1], norm=ball.norm, shape=x.shape[1:])
        correct = predicted(logits) == y
        if epsilon == 0:
            return AutoAttackResult(correct, dict.fromkeys(names, correct), ball.center, ran)
        if library is None:
            offered = _own_attacks(model, epsilon, seed, logits.shape[1], steps)
        else:
            offered = _official_attacks(library, model, ball, epsilon, seed, logits.shape[1], steps)
        attacks = {name: offered[name] for name in names}
        with _global_random_state_kept():
            survived, x_adv = _in_turn(model, attacks, ball, y, index, correct & ~skip, batch_size)
    survived = {name: held | (correct & skip) for name, held in survived.items()}
    return AutoAttackResult(correct, survived, x_adv, ran)


def _in_turn(
    model: nn.Module,
    attacks: dict[str, Attack],
    ball: Ball,
    y: Tensor,
    index: Tensor,
    attacked: Tensor,
    batch_size: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Run each attack on the survivors of the previous ones, batched as in the official loop."""
    alive, x_adv, survived = attacked.clone(), ball.center.clone(), {}
    for name, perturb in attacks.items():
        left = alive.nonzero().squeeze(1)
        for rows in left.split(batch_size) if len(left) else ():
            allowed = ball[rows]
            candidate = perturb(allowed, y[rows], index[rows.cpu()])
            # Only points outside are moved: on a quantised model the last bit of a point may be what breaks the image.
            point = rowwise(allowed.contains(candidate), candidate, allowed.project(candidate))
            broken = allowed.contains(point) & (predicted(model(point)) != y[rows])
            x_adv[rows[broken]] = point[broken]
            alive[rows[broken]] = False
        survived[name] = alive.clone()
        log.debug("%s: %d of %d images survive", name, int(alive.sum()), len(alive))
    return survived, x_adv


def _own_attacks(model: nn.Module, epsilon: float, seed: int, classes: int, steps: int) -> dict[str, Attack]:
    """The package's attacks by name, with the settings of the official standard version but for ``steps``."""
    targets = min(9, classes - 1)

    def on_balls(attack: Callable[..., Tensor], **own: Any) -> Attack:
        def perturb(ball: Ball, y: Tensor, index: Tensor) -> Tensor:
            options = ImageOptions(norm=ball.norm, domain=ball.domain, seed=seed, index=index)
            return attack(model, ball.center, y, epsilon, **options, **own)

        return perturb

    return {
        "apgd-ce": on_balls(apgd_ce, steps=steps),
        "apgd-t": on_balls(apgd_t, targets=targets, steps=steps),
        "fab": on_balls(fab, targets=None),
        "fab-t": on_balls(fab, targets=targets),
        "square": on_balls(square),
    }


@dataclass(frozen=True)
class _UnitView:
    """The data as the library needs them: float32 images in [0, 1], shifted and scaled uniformly."""

    low: float
    width: float
    shape: torch.Size  # of one image
    dtype: torch.dtype
    classes: int

    @classmethod
    def of(cls, ball: Ball, epsilon: float, classes: int) -> "_UnitView":
        if ball.domain is None:
            # With room around the balls, as FAB walks outside them before it comes back.
            low, high = ball.center.min().item(), ball.center.max().item()
            room = (high - low) / 2 + 2 * epsilon
            low, high = low - room, high + room
        else:
            low, high = ball.domain
        return cls(low, high - low, ball.center.shape[1:], ball.center.dtype, classes)

    def encode(self, x: Tensor) -> Tensor:
        unit = ((x - self.low) / self.width).float()
        return unit.contiguous() if x.ndim == 4 else unit.reshape(len(x), -1, 1, 1)

    def decode(self, unit: Tensor) -> Tensor:
        return unit.to(self.dtype).reshape(len(unit), *self.shape) * self.width + self.low

    def wrap(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(unit: Tensor) -> Tensor:
            if len(unit) == 0:  # Square does this on a tie, and many models cannot flatten an empty batch
                return unit.new_zeros(0, self.classes)
            logits: Tensor = model(self.decode(unit))
            return logits.float()

        return forward


def _official_attacks(
    library: Callable[..., Any], model: nn.Module, ball: Ball, epsilon: float, seed: int, classes: int, steps: int
) -> dict[str, Attack]:
    """The library's attacks by name, with the settings of its standard version but for ``steps``."""
    view = _UnitView.of(ball, epsilon, classes)
    # "custom" so that the constructor neither prints nor presets; these arguments exist in both distributions.
    suite = library(
        view.wrap(model),
        norm=ball.norm,
        eps=epsilon / view.width,
        seed=seed,
        version="custom",
        device=ball.center.device,
    )
    suite.apgd.n_restarts = 1
    for attack in (suite.apgd, suite.apgd_targeted):  # the gaps between checkpoints follow from the steps
        attack.n_iter = steps
        attack.n_iter_2, attack.n_iter_min, attack.size_decr = (
            max(int(share * steps), 1) for share in (0.22, 0.06, 0.03)
        )
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(9, classes - 1)
    suite.fab.targeted = classes >= 4
    # Untargeted FAB stands in for the targeted runs: the library's five restarts instead of nine targets.
    suite.fab.n_restarts = 1 if suite.fab.targeted else 5
    suite.apgd.logger = suite.apgd_targeted.logger = _DebugLog()

    def on_balls(attack: Any) -> Attack:
        return lambda ball, y, _: view.decode(attack.perturb(view.encode(ball.center), y))

    return {
        "apgd-ce": on_balls(suite.apgd),
        "apgd-t": on_balls(suite.apgd_targeted),
        "fab": on_balls(suite.fab),
        "fab-t": on_balls(suite.fab),
        "square": on_balls(suite.square),
    }


class _DebugLog:
    """Sends the library's reports, through either of its methods, to this module's log at level DEBUG."""

    def warning(self, message: str) -> None:
        log.debug(message)

    log = warning


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    # The library seeds the CPU and every CUDA device before each batch.
    initialized = torch.cuda.is_initialized()
    with torch.random.fork_rng(devices=list(range(torch.cuda.device_count())) if initialized else []):
        yield
    if (
        not initialized
    ):  # the library's seed waits in a queue: replace it by the one a later start of CUDA would have used
        torch.cuda.manual_seed_all(torch.initial_seed())


def _library() -> tuple[Callable[..., Any], str]:
    for name in ("pyautoattack", "autoattack"):  # the second is the authors' repository
        try:
            library = importlib.import_module(name).AutoAttack
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            continue
        try:
            return library, f"{name} {installed_version(name)}"
        except PackageNotFoundError:
            return library, f"{name} (version unknown)"
    raise UserError("AutoAttack needs the package pyautoattack; install it with: pip install 'pyautoattack>=0.2,<0.3'")
