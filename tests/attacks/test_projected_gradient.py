import itertools
import math

import pytest
import torch
from captum.robust import FGSM, PGD
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.attacks.auto_pgd import LOSSES
from trust_exp.attacks.ball import Ball
from trust_exp.attacks.projected_gradient import fgsm_rs, pgd, trades_attack
from trust_exp.rng import keyed_generator

NORMS = ["L2", "Linf"]
RELEASED = {"random_start": False, "keep": "best", "score_last": False}
RADII = {"L2": (0.5, 0.1), "Linf": (0.06, 0.0125)}  # epsilon and step size


def distance(a: Tensor, b: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm((a.double() - b.double()).flatten(1), torch.inf if norm == "Linf" else 2, dim=1)


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x), y, reduction="none").detach()


def slow_step(point: Tensor, gradient: Tensor, center: Tensor, norm: str, epsilon: float, step_size: float) -> Tensor:
    """One step for one image, float64, by the book."""
    if norm == "Linf":
        moved = point + step_size * gradient.sign()
        return moved.clamp(center - epsilon, center + epsilon).clamp(0, 1)
    length = math.sqrt(sum(value**2 for value in gradient.flatten().tolist()))
    moved = point + step_size * gradient / length if length > 0 else point
    delta = moved - center
    far = math.sqrt(sum(value**2 for value in delta.flatten().tolist()))
    return (center + delta * min(1.0, epsilon / far) if far > 0 else moved).clamp(0, 1)


def slow_path(model, objective, start: Tensor, center: Tensor, norm: str, epsilon: float, step_size: float, steps: int):
    """All iterates of one image and their losses."""
    points, losses = [start], []
    for step in range(steps + 1):
        point = points[-1][None].clone().requires_grad_()
        loss = objective(model(point))
        losses.append(loss.item())
        if step < steps:
            (gradient,) = torch.autograd.grad(loss, point)
            points.append(slow_step(point[0].detach(), gradient[0], center, norm, epsilon, step_size))
    return points, losses


def first_largest(losses: list[float]) -> int:
    return max(range(len(losses)), key=lambda i: (losses[i], -i))


@pytest.fixture
def double(trained):
    """(kind) -> the trained network in float64, with images and labels."""
    changed = []

    def get(kind: str, count: int):
        model, x, y = trained(kind, 10)
        changed.append(model.double())
        return model, x[:count].double(), y[:count]

    yield get
    for model in changed:
        model.float()


@given(
    epsilon=st.lists(st.one_of(st.just(0.0), st.floats(1e-7, 3.0)), min_size=1, max_size=6),
    norm=st.sampled_from(NORMS),
    step_size=st.floats(1e-4, 10.0),
    attack=st.sampled_from(["best", "released", "last", "fgsm_rs", "trades"]),
    bounded=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_points_stay_in_ball_and_domain(epsilon, norm, step_size, attack, bounded, seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.rand(len(epsilon), 3, 2, 2, generator=generator).mul(1.5).sub(0.25).clamp(0, 1)
    y = torch.randint(4, (len(epsilon),), generator=generator)
    radius = torch.tensor(epsilon, dtype=torch.float64)
    given = {"norm": norm, "step_size": step_size, "domain": (0.0, 1.0) if bounded else None, "generator": generator}
    if attack == "fgsm_rs":
        x_adv = fgsm_rs(model, x, y, radius, **given)
    elif attack == "trades":
        x_adv = trades_attack(model, x, radius, steps=3, **given)
    else:
        keep = "last" if attack == "last" else "best"
        random_start = attack != "released"
        x_adv = pgd(
            model, x, y, radius, steps=3, keep=keep, random_start=random_start, score_last=attack == "best", **given
        )
    assert (x_adv.dtype, x_adv.shape, x_adv.requires_grad) == (x.dtype, x.shape, False)
    assert (distance(x_adv, x, norm) <= radius).all()
    assert not bounded or (x_adv.min() >= 0 and x_adv.max() <= 1)
    assert torch.equal(x_adv[radius == 0], x[radius == 0])


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("random_start", [False, True])
def test_agrees_with_the_slow_version_image_by_image(double, kind, norm, random_start):
    model, x, y = double(kind, 12)
    epsilon, step_size = RADII[norm]
    step_size *= 2  # far enough beyond the ball that the last step is not always the best
    ball = Ball.around(x, epsilon, norm=norm, domain=(0.0, 1.0))
    start = ball.sample_inside(keyed_generator("start")) if random_start else x
    given = {"norm": norm, "step_size": step_size, "steps": 5, "random_start": random_start}

    def attack(**choice) -> Tensor:
        return pgd(model, x, y, epsilon, generator=keyed_generator("start"), **given, **choice)

    last, best, released = attack(keep="last"), attack(), attack(score_last=False)
    for i in range(len(x)):
        points, losses = slow_path(
            model, lambda logits, i=i: F.cross_entropy(logits, y[i, None]), start[i], x[i], norm, epsilon, step_size, 5
        )
        assert torch.allclose(last[i], points[-1], atol=1e-9)
        assert torch.allclose(best[i], points[first_largest(losses)], atol=1e-9)
        assert torch.allclose(released[i], points[first_largest(losses[:-1])], atol=1e-9)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_linf_agrees_with_captum(double, kind):
    model, x, y = double(kind, 200)
    epsilon, step_size = RADII["Linf"]

    def loss(logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label, reduction="none")

    captum = PGD(model, loss, 0.0, 1.0)
    captum.fgsm.zero_thresh = 0.0  # it takes gradients below 1e-6 for zero, which those of confident images are
    theirs = captum.perturb(x, epsilon, step_size, 7, y, norm="Linf")
    ours = pgd(model, x, y, epsilon, norm="Linf", step_size=step_size, steps=7, keep="last")
    assert torch.allclose(ours, theirs, atol=1e-9)
    assert (model(ours).argmax(1) != y).float().mean() > 0.1
    # A single step inside the ball is FGSM.
    single = FGSM(model, loss, 0.0, 1.0)
    single.zero_thresh = 0.0
    theirs = single.perturb(x, step_size, y)
    ours = pgd(model, x, y, epsilon, norm="Linf", step_size=step_size, steps=1, keep="last")
    assert torch.allclose(ours, theirs, atol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("choice", [RELEASED, {"score_last": True}, {"keep": "last"}], ids=["released", "best", "last"])
def test_a_part_of_the_batch_equals_those_images_alone(double, norm, choice):
    model, x, y = double("conv", 60)
    epsilon, step_size = RADII[norm]
    rows = torch.arange(60) % 7 < 2
    given = {"norm": norm, "step_size": step_size, "steps": 4} | choice
    whole = pgd(model, x, y, epsilon, **given)
    part = pgd(model, x[rows], y[rows], epsilon, **given)
    alone = torch.cat([pgd(model, x[i, None], y[i, None], epsilon, **given) for i in rows.nonzero().flatten()])
    assert torch.allclose(whole[rows], part, atol=1e-9)
    assert torch.allclose(part, alone, atol=1e-9)
    per_image = torch.where(rows, epsilon, 0.0)
    masked = pgd(model, x, y, per_image, **given)
    assert torch.allclose(masked[rows], part, atol=1e-9)
    assert torch.equal(masked[~rows], x[~rows])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_the_best_loss_never_falls_with_more_steps(double, norm, loss):
    model, x, y = double("conv", 100)
    epsilon, step_size = RADII[norm]
    reached = [LOSSES[loss](model(x), y)]
    for steps in range(1, 7):
        x_adv = pgd(model, x, y, epsilon, norm=norm, step_size=2 * step_size, steps=steps, loss=loss)
        reached.append(LOSSES[loss](model(x_adv), y).detach())
    assert all((after >= before).all() for before, after in itertools.pairwise(reached))
    assert (reached[-1] > reached[0]).float().mean() > 0.9


def test_best_takes_the_clean_image_where_steps_only_overshoot():
    class Peak(nn.Module):
        """The cross entropy of class 0 is highest at 0.5; the gradient is not zero there."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([(x - 0.5).abs().sum(1) + 1e-3 * x.sum(1), torch.zeros(len(x))], 1)

    x, y = torch.tensor([[0.5]]), torch.zeros(1, dtype=torch.int64)
    given = {"step_size": 0.1, "steps": 1, "domain": None}
    assert torch.equal(pgd(Peak(), x, y, 0.3, **given), x)
    assert pgd(Peak(), x, y, 0.3, keep="last", **given).item() == pytest.approx(0.4)


@pytest.mark.parametrize("norm", NORMS)
def test_the_released_choice_never_returns_the_last_iterate(norm):
    """On a linear model every step raises the loss: x_6 is the best of x_0 .. x_6, so seven steps reach as six do."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, dtype=torch.float64))
    x, y = torch.full((5, 1, 8, 8), 0.5, dtype=torch.float64), torch.arange(5)
    given = {"norm": norm, "step_size": 0.01}
    seven = pgd(model, x, y, 0.07, steps=7, **given, **RELEASED)
    assert torch.allclose(distance(seven, x, norm), torch.tensor(0.06, dtype=torch.float64), rtol=0.02)
    assert torch.equal(seven, pgd(model, x, y, 0.07, steps=6, keep="last", **given))
    scored = pgd(model, x, y, 0.07, steps=7, **given)
    assert torch.allclose(distance(scored, x, norm), torch.tensor(0.07, dtype=torch.float64), rtol=0.02)


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, _: Tensor) -> None:
        self.backwards += 1


@pytest.mark.parametrize(
    ("choice", "forwards"), [(RELEASED, 7), ({"keep": "last"}, 7), ({"score_last": True, "random_start": True}, 8)]
)
def test_seven_steps_cost_seven_passes_and_a_scored_last_iterate_one_more_forward(trained, choice, forwards):
    model, x, y = trained("mlp", 10)
    counting = Counting(model)
    pgd(counting, x[:8], y[:8], 0.5, step_size=0.1, steps=7, **choice)
    assert (counting.forwards, counting.backwards) == (forwards, 7)


def test_the_attack_of_trades_costs_one_forward_more_than_its_steps(trained):
    model, x, _ = trained("mlp", 10)
    counting = Counting(model)
    trades_attack(counting, x[:8], 0.5, step_size=0.1, steps=7)
    assert (counting.forwards, counting.backwards) == (8, 7)


@pytest.mark.parametrize("attack", ["pgd", "fgsm_rs", "trades"])
def test_the_model_is_left_as_it_was(trained, attack):
    model, x, y = trained("conv", 10)
    x, y = x[:20], y[:20]
    F.cross_entropy(model(x), y).backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    try:
        if attack == "pgd":
            pgd(model, x, y, 0.5, step_size=0.1, steps=3)
        elif attack == "fgsm_rs":
            fgsm_rs(model, x, y, 0.5, step_size=0.625)
        else:
            trades_attack(model, x, 0.5, step_size=0.1, steps=3)
        assert [module.training for module in model.modules()] == [True, True, False] + [True] * 5
        assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 7
        assert all(torch.equal(p.grad, before) for p, before in zip(model.parameters(), gradients, strict=True))
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    finally:
        model.eval().requires_grad_(True).zero_grad()


def test_the_model_is_attacked_in_evaluation_mode():
    class Recording(nn.Linear):
        seen: list

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append((self.training, self.weight.requires_grad))
            return super().forward(x)

    model = Recording(6, 3).train()
    model.seen = []
    pgd(model, torch.rand(2, 6), torch.tensor([0, 1]), 0.1, step_size=0.1, steps=2)
    assert model.seen == [(False, False)] * 3


def test_equal_keys_give_equal_points_and_the_global_state_is_untouched(trained):
    model, x, y = trained("mlp", 10)
    x, y, before = x[:20], y[:20], torch.get_rng_state()
    for attack in (
        lambda key: fgsm_rs(model, x, y, 0.5, step_size=0.1, generator=key and keyed_generator(key)),
        lambda key: trades_attack(model, x, 0.5, step_size=0.1, steps=1, generator=key and keyed_generator(key)),
        lambda key: pgd(
            model, x, y, 0.5, step_size=0.1, steps=1, random_start=True, generator=key and keyed_generator(key)
        ),
    ):
        assert torch.equal(attack("a"), attack("a"))
        assert not torch.equal(attack("a"), attack("b"))
        assert torch.equal(attack(None), attack(None))
    assert torch.equal(torch.get_rng_state(), before)


def test_random_starts_fill_the_ball():
    """Linf: uniform in the cube. L2: any direction, the distance uniform in [0, radius]."""
    x = torch.full((4000, 6), 0.5, dtype=torch.float64)
    cube = Ball.around(x, 0.2, norm="Linf", domain=(0.0, 1.0)).sample_inside(keyed_generator(0)) - x
    assert cube.abs().max() <= 0.2
    assert torch.allclose(cube.mean(0), torch.zeros(6, dtype=torch.float64), atol=0.01)
    assert torch.allclose(cube.std(0), torch.full((6,), 0.2 / math.sqrt(3), dtype=torch.float64), rtol=0.03)
    ball = Ball.around(x, 0.2, norm="L2", domain=(0.0, 1.0)).sample_inside(keyed_generator(0)) - x
    length = ball.norm(dim=1)
    quantiles = torch.quantile(length / 0.2, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    assert torch.allclose(quantiles, torch.linspace(0, 1, 5, dtype=torch.float64), atol=0.03)
    direction = ball / length[:, None]
    assert torch.allclose(direction.T @ direction / len(x), torch.eye(6, dtype=torch.float64) / 6, atol=0.02)
    edge = Ball.around(torch.zeros(10, 6), 0.2, norm="L2", domain=(0.0, 1.0)).sample_inside(keyed_generator(0))
    assert edge.min() == 0


@pytest.mark.parametrize("norm", NORMS)
def test_fgsm_rs_is_one_step_from_the_random_start(double, norm):
    model, x, y = double("conv", 10)
    epsilon = RADII[norm][0]
    start = Ball.around(x, epsilon, norm=norm, domain=(0.0, 1.0)).sample_inside(keyed_generator("s"))
    x_adv = fgsm_rs(model, x, y, epsilon, norm=norm, step_size=1.25 * epsilon, generator=keyed_generator("s"))
    for i in range(len(x)):
        point = start[i, None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), y[i, None]), point)
        expected = slow_step(start[i], gradient[0], x[i], norm, epsilon, 1.25 * epsilon)
        assert torch.allclose(x_adv[i], expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_attack_of_trades_agrees_with_the_slow_version(double, kind, norm):
    model, x, _ = double(kind, 10)
    epsilon, step_size = RADII[norm]
    noise = torch.randn(x.shape, generator=keyed_generator("noise")).double()
    x_adv = trades_attack(
        model, x, epsilon, norm=norm, step_size=step_size, steps=4, generator=keyed_generator("noise")
    )
    raised = []
    for i in range(len(x)):
        clean = model(x[i, None]).detach().softmax(1)

        def divergence(logits: Tensor, clean: Tensor = clean) -> Tensor:
            return (clean * (clean.log() - logits.softmax(1).log())).sum()

        start = (x[i] + 0.001 * noise[i]).clamp(0, 1)
        points, losses = slow_path(model, divergence, start, x[i], norm, epsilon, step_size, 4)
        assert torch.allclose(x_adv[i], points[-1], atol=1e-6)
        raised.append(losses[-1] > 10 * losses[0])
    assert all(raised)


def test_the_attack_of_trades_starts_with_noise_of_a_thousandth():
    x = torch.full((50, 400), 0.5, dtype=torch.float64)
    model = nn.Linear(400, 2, dtype=torch.float64)
    moved = trades_attack(model, x, 1.0, step_size=1e-9, steps=1) - x
    assert moved.std().item() == pytest.approx(0.001, rel=0.02)
    small = trades_attack(model, x, 0.004, step_size=1e-9, steps=1)
    assert (distance(small, x, "L2") <= 0.004).all()


def test_the_attack_of_trades_leaves_its_start_in_bfloat16_too(trained):
    """Rounded to bfloat16, some outputs at the start are those of the clean image: the first step is random."""
    model, x, _ = trained("mlp", 10)
    x = x[:200]
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = trades_attack(model, x, 0.5, step_size=0.1, steps=7)
        start = trades_attack(model, x, 0.5, step_size=1e-12, steps=1)
        assert (model(start) == model(x)).all(1).any()
    assert distance(x_adv, x, "L2").min() > 0.1
    divergence = F.kl_div(model(x_adv).log_softmax(1), model(x).log_softmax(1), reduction="none", log_target=True)
    assert (divergence.sum(1) > 1e-3).float().mean() > 0.9


def test_under_autocast_points_are_exact_and_training_goes_on(trained, monkeypatch):
    model, x, y = trained("conv", 10)
    x, y, seen = x[:50], y[:50], set()

    def recorded(logits: Tensor, label: Tensor, loss=LOSSES["ce"]) -> Tensor:
        seen.add(logits.dtype)
        return loss(logits, label)

    monkeypatch.setitem(LOSSES, "ce", recorded)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = pgd(model, x, y, 0.5, step_size=0.1, steps=7)
        loss = F.cross_entropy(model(x_adv), y)
    assert seen == {x_adv.dtype} == {torch.float32}
    assert (distance(x_adv, x, "L2") <= 0.5).all()
    plain = pgd(model, x, y, 0.5, step_size=0.1, steps=7)
    reached = [cross_entropy(model, point, y).mean().item() for point in (x_adv, plain)]
    assert reached[0] == pytest.approx(reached[1], rel=0.05)
    # Casts of frozen weights must not stay in autocast's cache: the step after the attack would train nothing.
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("norm", NORMS)
def test_saturated_losses_are_climbed_all_the_same(norm):
    """Margins of thousands: in float32 the cross entropy, the divergence and their gradients are 0."""
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight.copy_(1e4 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
        x = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
        y = model(x).argmax(1)
    given = {"norm": norm, "step_size": 0.03, "steps": 5, "domain": None}
    for x_adv in (pgd(model, x, y, 0.1, keep="last", **given), trades_attack(model, x, 0.1, **given)):
        assert torch.allclose(distance(x_adv, x, norm), torch.tensor(0.1, dtype=torch.float64), rtol=1e-4)


def test_a_model_without_gradient_or_with_nan_keeps_the_start():
    class Spiky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1), (x - x).sqrt().sum(1)], 1)  # the derivative of sqrt at 0 is infinite

    class Nan(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum(1), x.sum(1) * torch.nan], 1)

    x, y = torch.rand(3, 4) + 0.1, torch.zeros(3, dtype=torch.int64)
    for model in (Spiky(), Nan()):
        assert torch.equal(pgd(model, x, y, 0.1, step_size=0.1, steps=2, domain=None), x)


@pytest.mark.parametrize("choice", [RELEASED, {"random_start": True}, {"keep": "last"}])
def test_an_empty_batch_comes_back_empty(choice):
    model, x, y = nn.BatchNorm1d(6), torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)
    assert pgd(model, x, y, 0.1, step_size=0.1, steps=2, **choice).shape == (0, 6)
    assert trades_attack(model, x, torch.zeros(0), step_size=0.1, steps=2).shape == (0, 6)


def test_works_on_inference_tensors_and_on_channels_last(trained):
    model, x, y = trained("conv", 10)
    expected = pgd(model, x[:20], y[:20], 0.3, step_size=0.1, steps=3)
    with torch.inference_mode():
        images, labels, epsilon = x[:20].clone(), y[:20].clone(), torch.full((20,), 0.3)
        assert torch.equal(pgd(model, images, labels, epsilon, step_size=0.1, steps=3), expected)
        trades_attack(model, images, epsilon, step_size=0.1, steps=3)
    columns = x[:20].to(memory_format=torch.channels_last)
    x_adv = pgd(model, columns, y[:20], 0.3, step_size=0.1, steps=3)
    assert x_adv.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(x_adv, expected, atol=1e-4)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": "first"}, "keep must be one of best, last; got 'first'"),
        ({"loss": "dlr_targeted"}, "loss must be one of ce, dlr; got 'dlr_targeted'"),
        ({"loss": "dlr"}, "loss='dlr' needs at least 3 classes; the model has 2; use loss='ce'"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
        ({"step_size": 0.0}, "step_size must be positive and finite; got 0"),
        ({"step_size": math.nan}, "step_size must be positive and finite; got nan"),
        ({"step_size": math.inf}, "step_size must be positive and finite; got inf"),
        ({"y": torch.zeros(2)}, r"y must be int64 of shape \[2\]; got torch.float32 \[2\]"),
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0; got -0.1"),
        ({"norm": "L1"}, "norm must be one of L2, Linf; got 'L1'"),
        ({"x": torch.full((2, 6), 1.5)}, "outside domain"),
    ],
)
def test_refusals(change, message):
    given = {
        "x": torch.zeros(2, 6),
        "y": torch.zeros(2, dtype=torch.int64),
        "epsilon": 0.1,
        "step_size": 0.1,
        "steps": 2,
    }
    with pytest.raises(ValueError, match=message):
        pgd(nn.Linear(6, 2), **(given | change))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("change", "message"), [({"steps": 0}, "steps must be at least 1"), ({"step_size": -1.0}, "step_size must be")]
)
def test_refusals_of_the_attack_of_trades(change, message):
    with pytest.raises(ValueError, match=message):
        trades_attack(nn.Linear(6, 2), torch.zeros(2, 6), 0.1, **({"step_size": 0.1, "steps": 2} | change))


def test_the_classes_of_a_loss_are_those_of_the_model():
    """Not the number of images: one image of ten classes has a ratio of logits, ten images of two classes none."""
    x, y = torch.rand(10, 6), torch.zeros(10, dtype=torch.int64)
    pgd(nn.Linear(6, 10), x[:1], y[:1], 0.1, step_size=0.1, steps=1, loss="dlr")
    with pytest.raises(ValueError, match="dlr"):
        pgd(nn.Linear(6, 2), x, y, 0.1, step_size=0.1, steps=1, loss="dlr")
