import importlib
import importlib.util
import logging
import random
import sys
from contextlib import nullcontext

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from trust_exp.attacks import auto_attack as module
from trust_exp.attacks.auto_attack import attacks_of, autoattack
from trust_exp.attacks.auto_pgd_released import apgd_ce, apgd_t
from trust_exp.attacks.ball import Ball
from trust_exp.errors import UserError
from trust_exp.schema import ROOT

specification = importlib.util.spec_from_file_location("same_noise", ROOT / "benchmarks" / "same_noise.py")
assert specification is not None
assert specification.loader is not None
benchmark = importlib.util.module_from_spec(specification)
specification.loader.exec_module(benchmark)


def linear(scale: float = 1.0, shift: float = 0.0) -> nn.Module:
    """Two classes of points [B, 2], split by the line x_0 = shift."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(scale * torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model.bias.copy_(scale * torch.tensor([-shift, shift]))
    return model


def official(model, x, y, epsilon, norm, attacks, batch_size) -> Tensor:
    """[B] bool: right after the official evaluation with these attacks."""
    classes = model(x[:1]).shape[1]
    suite = pyautoattack.AutoAttack(model, norm=norm, eps=epsilon, seed=0, version="standard")
    suite.attacks_to_run = list(attacks)
    suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(9, classes - 1)
    suite.fab.n_restarts = 5 if "fab" in attacks else 1
    suite.logger.setLevel(logging.ERROR)
    x_adv, _ = suite.run_standard_evaluation(x, y, batch_size=batch_size)
    return model(x_adv).argmax(1) == y


class Rounded(nn.Module):
    """Has no gradient, which blinds all attacks but Square."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model((20 * x).round() / 20)


@pytest.mark.parametrize(
    ("kind", "classes", "norm", "epsilon", "count"),
    [
        pytest.param("mlp", 10, "L2", 0.5, 16, marks=pytest.mark.slow),
        pytest.param("mlp", 5, "Linf", 0.12, 16, marks=pytest.mark.slow),
        pytest.param("mlp", 2, "Linf", 0.2, 8, marks=pytest.mark.slow),
        pytest.param("rounded mlp", 4, "Linf", 0.15, 6, marks=pytest.mark.slow),
        pytest.param("conv", 10, "Linf", 0.04, 30, marks=pytest.mark.slow),
        pytest.param("conv", 10, "L2", 0.3, 30, marks=pytest.mark.slow),
        pytest.param("conv", 3, "L2", 0.6, 30, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("implementation", ["own", pytest.param("official", marks=pytest.mark.slow)])
def test_verdicts_are_the_official_ones(trained, kind, classes, norm, epsilon, count, implementation):
    model, x, y = trained(kind.split()[-1], classes)
    model = Rounded(model) if kind.startswith("rounded") else model
    x, y = x[-count:], y[-count:].clone()
    y[4] = (y[4] + 1) % classes
    result = autoattack(model, x, y, epsilon, norm=norm, batch_size=10, implementation=implementation)
    names = attacks_of("standard", classes)
    assert tuple(result.survived) == names
    assert torch.equal(result.correct, model(x).argmax(1) == y)
    assert not result.correct[4]
    for run in sorted({1, len(names)} | ({len(names) - 2} if len(names) == 4 else set())):  # FAB alone only repeats
        with benchmark.same_noise(x) if implementation == "own" else nullcontext():
            expected = official(model, x, y, epsilon, norm, names[:run], batch_size=10)
        assert torch.equal(result.survived[names[run - 1]], expected)
    assert 0 < result.robust.sum() < result.correct.sum()
    assert not kind.startswith("rounded") or result.robust.sum() < result.survived["fab-t"].sum()
    broken = result.correct & ~result.robust
    assert torch.equal(model(result.x_adv).argmax(1) != y, broken | ~result.correct)
    assert torch.equal((result.x_adv != x).flatten(1).any(1), broken)
    order = torch.inf if norm == "Linf" else 2
    assert torch.linalg.vector_norm((result.x_adv.double() - x).flatten(1), order, dim=1).max() <= epsilon * (1 + 1e-6)


@pytest.mark.parametrize("implementation", ["own", pytest.param("official", marks=pytest.mark.slow)])
@pytest.mark.parametrize("norm", ["L2", "Linf"])
@pytest.mark.parametrize(
    ("dtype", "domain"),
    [
        (torch.float32, None),
        (torch.float64, (-4.0, 4.0)),
        pytest.param(torch.float32, (-4.0, 4.0), marks=pytest.mark.slow),
        pytest.param(torch.float64, None, marks=pytest.mark.slow),
    ],
)
def test_points_of_any_scale_break_exactly_beyond_the_margin(norm, domain, dtype, implementation):
    model = linear(shift=0.3).to(dtype)
    x = 3 * torch.rand(24, 2, generator=torch.Generator().manual_seed(0), dtype=dtype) - 1.5
    y = (x[:, 0] < 0.3).long()
    result = autoattack(model, x, y, 0.5, norm=norm, domain=domain, implementation=implementation)
    assert result.correct.all()
    assert torch.equal(result.robust, (x[:, 0] - 0.3).abs() > 0.5)
    assert result.x_adv.dtype == dtype
    assert tuple(result.survived) == (("apgd-ce", "fab", "square") if norm == "Linf" else ("apgd-ce", "fab"))


def test_a_saturated_cross_entropy_does_not_hide_broken_points():
    x, y = torch.tensor([[0.4, 0.0], [-0.4, 0.0], [2.0, 0.0]]), torch.tensor([0, 1, 0])
    result = autoattack(linear(scale=1000), x, y, 0.5, norm="L2", domain=None, implementation="official")
    assert result.survived["apgd-ce"].all()
    assert result.robust.tolist() == [False, False, True]
    result = autoattack(linear(scale=1000), x, y, 0.5, norm="L2", domain=None, seed=2)
    assert result.survived["apgd-ce"].all()
    assert result.robust.tolist() == [False, False, True]


def test_fewer_steps_are_those_of_both_gradient_attacks(trained):
    model, x, y = trained("mlp", 10)
    x, y, options = x[:150], y[:150], {"norm": "L2", "seed": 3}
    result = autoattack(model, x, y, 0.2, version="fast", steps=1, **options)
    left = result.correct.nonzero().flatten()
    for name, attack in (("apgd-ce", apgd_ce), ("apgd-t", apgd_t)):
        found = attack(model, x[left], y[left], 0.2, steps=1, index=left, **options)
        left = left[model(found).argmax(1) == y[left]]
        assert result.survived[name].nonzero().flatten().tolist() == left.tolist()
    assert result.robust.sum() > autoattack(model, x, y, 0.2, version="fast", **options).robust.sum()
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        autoattack(model, x, y, 0.2, steps=0)


def test_the_library_with_fewer_steps_is_as_if_made_with_them(trained):
    model, x, y = trained("mlp", 10)
    x, y = x[:100], y[:100]
    result = autoattack(model, x, y, 0.07, version="fast", steps=15, norm="Linf", implementation="official")
    right = result.correct
    made = pyautoattack.autopgd_base.APGDAttack(
        model, n_restarts=1, n_iter=15, norm="Linf", eps=0.07, seed=0, device="cpu"
    )
    found = made.perturb(x[right], y[right])
    assert torch.equal(result.survived["apgd-ce"][right], model(found).argmax(1) == y[right])
    assert 0 < result.survived["apgd-ce"].sum() < right.sum()


def test_a_single_image(trained):
    model, x, y = trained("mlp", 10)
    for count in (1, 2):  # two images: the second batch and the survivors hold one
        result = autoattack(model, x[:count], y[:count], 0.01, version="fast", batch_size=1)
        assert result.robust.tolist() == [True] * count


def test_nothing_is_attacked_when_everything_is_wrong_or_epsilon_is_zero(trained):
    model, x, y = trained("mlp", 10)
    x, y = x[:8], model(x[:8]).argmax(1)
    wrong = autoattack(model, x, (y + 1) % 10, 0.1)
    assert not any(held.any() for held in wrong.survived.values())
    assert torch.equal(wrong.x_adv, x)
    clean = autoattack(model, x, (y + (torch.arange(8) == 3)) % 10, 0.0)
    assert all(torch.equal(held, clean.correct) for held in clean.survived.values())
    assert clean.robust.sum() == 7
    assert tuple(clean.survived) == tuple(wrong.survived) == attacks_of("standard", 10)


def test_later_attacks_are_skipped_when_nothing_is_left(trained):
    model, x, y = trained("mlp", 10)
    result = autoattack(model, x[:6], y[:6], 0.9)
    assert not result.robust.any()
    assert tuple(result.survived) == ("apgd-ce", "apgd-t", "fab-t", "square")


def test_a_constant_model_with_a_view_survives_ties():
    class Dead(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 0 * x.view(len(x), -1)[:, :3]

    x = torch.rand(3, 1, 5, 5)
    assert autoattack(Dead(), x, torch.zeros(3, dtype=torch.int64), 0.1).robust.all()


def test_a_claimed_break_that_does_not_hold_does_not_count(monkeypatch, trained):
    model, x, y = trained("mlp", 10)
    x, y = x[:4], model(x[:4]).argmax(1)
    lies = [lambda u, _: u + 1, lambda u, _: u * torch.nan, lambda u, _: torch.zeros_like(u)]
    for lie in lies:
        monkeypatch.setattr(pyautoattack.autoattack.APGDAttack, "perturb", lambda self, u, y, lie=lie: lie(u, y))
        monkeypatch.setattr(pyautoattack.autoattack.APGDAttack_targeted, "perturb", lambda self, u, y: u)
        result = autoattack(model, x, y, 1e-4, version="fast", implementation="official")
        assert result.robust.all()
        assert torch.equal(result.x_adv, x)


@pytest.mark.usefixtures("unchecked_shapes")  # the check draws numbers of its own
def test_equal_seeds_give_equal_results_and_no_global_state_changes(trained):
    model, x, y = trained("conv", 10)
    model.train().zero_grad()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.initial_seed()  # noqa: NPY002
    try:
        runs = [autoattack(model, x[:4], y[:4], 0.05, version="fast", seed=seed) for seed in (0, 0, 1)]
        assert all(module.training for module in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    finally:
        model.eval()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert (random.getstate(), torch.initial_seed()) == before[2:]
    assert torch.equal(runs[0].x_adv, runs[1].x_adv)
    assert not torch.equal(runs[0].x_adv, runs[2].x_adv)


def test_works_in_inference_mode_and_below_autocast(trained):
    model, x, y = trained("conv", 10)
    expected = autoattack(model, x[:6], y[:6], 0.05, version="fast")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        result = autoattack(model, x[:6].clone(), y[:6].clone(), 0.05, version="fast")
    assert torch.equal(result.x_adv, expected.x_adv)
    assert torch.equal(result.robust, expected.robust)


def test_the_library_is_silent_unless_debug(trained, caplog, capsys, recwarn):
    model, x, y = trained("mlp", 10)
    with caplog.at_level(logging.INFO):
        result = autoattack(model, x[:10], y[:10], 0.02, version="fast", implementation="official")
    assert (caplog.records, capsys.readouterr().out, len(recwarn)) == ([], "", 0)
    with caplog.at_level(logging.DEBUG):
        autoattack(model, x[:10], y[:10], 0.02, version="fast", implementation="official")
    assert f"apgd-t: {result.robust.sum()} of 10 images survive" in caplog.text
    assert result.implementation == f"pyautoattack {pyautoattack.__version__}"


def test_attacks_of():
    assert attacks_of("standard", 10) == attacks_of("standard", 4) == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert attacks_of("standard", 3) == attacks_of("standard", 2) == ("apgd-ce", "fab", "square")
    assert (attacks_of("fast", 4), attacks_of("fast", 3)) == (("apgd-ce", "apgd-t"), ("apgd-ce",))
    assert attacks_of("standard", 2, norm="L2", shape=(2,)) == ("apgd-ce", "fab")
    assert attacks_of("standard", 2, norm="L2", shape=(3, 32, 32)) == ("apgd-ce", "fab", "square")
    assert attacks_of("standard", 2, norm="L2", shape=(1, 5, 5)) == ("apgd-ce", "fab", "square")
    for small in ((1, 4, 9), (1, 9, 4), (9, 9)):
        assert attacks_of("standard", 2, norm="L2", shape=small) == ("apgd-ce", "fab")
        assert attacks_of("standard", 2, shape=small) == ("apgd-ce", "fab", "square")
    assert attacks_of("standard", 2, norm="L2") == ("apgd-ce", "fab", "square")


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "torchattacks"}, "implementation must be one of own, official; got 'torchattacks'"),
        ({"skip": torch.zeros(3, dtype=torch.bool)}, r"skip must be bool of shape \[2\]; got torch.bool \[3\]"),
        ({"index": torch.zeros(2)}, r"index must be int64 of shape \[2\]; got torch.float32 \[2\]"),
        ({"version": "plus"}, "version must be one of standard, fast; got 'plus'"),
        ({"norm": "L1"}, "norm must be one of L2, Linf"),
        ({"epsilon": -0.1}, "epsilon must be finite and at least 0; got -0.1"),
        ({"y": torch.zeros(2, 1, dtype=torch.int64)}, r"y must be int64 of shape \[2\]; got torch.int64 \[2, 1\]"),
        ({"y": torch.tensor([0, 9])}, "y must be labels from 0 to [0-9]; got 0 to 9"),
        ({"y": torch.tensor([-1, 0])}, "y must be labels from 0 to [0-9]; got -1 to 0"),
        ({"batch_size": 0}, "batch_size >= 1; got 2 and 0"),
        ({"x": torch.zeros(0, 2), "y": torch.zeros(0, dtype=torch.int64)}, "at least one image"),
        ({"model": nn.Linear(2, 1)}, "at least 2 classes; the model has 1"),
    ],
)
def test_refusals(change, message):
    arguments = {"model": linear(), "x": torch.zeros(2, 2), "y": torch.zeros(2, dtype=torch.int64), "epsilon": 0.1}
    with pytest.raises(ValueError, match=message):
        autoattack(**(arguments | change))


def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch):
    def refuse(name: str, *_):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(UserError, match=r"install it with: pip install 'pyautoattack>=0.2,<0.3'"):
        autoattack(linear(), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), 0.1, implementation="official")


def test_the_repository_of_the_authors_serves_too(monkeypatch):
    """Its class takes the same arguments and has the same attack objects under another module name."""
    monkeypatch.setitem(sys.modules, "autoattack", pyautoattack)
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    x, y = torch.tensor([[0.4, 0.0], [2.0, 0.0]]), torch.tensor([0, 0])
    result = autoattack(linear(), x, y, 0.5, norm="L2", domain=None, implementation="official")
    assert result.implementation.startswith("autoattack ")
    assert result.robust.tolist() == [False, True]


@pytest.mark.parametrize(
    ("norm", "version"),
    [
        ("L2", "fast"),
        ("Linf", "fast"),
        pytest.param("L2", "standard", marks=pytest.mark.slow),
        pytest.param("Linf", "standard", marks=pytest.mark.slow),
    ],
)
def test_no_verdict_depends_on_the_other_images(trained, norm, version):
    model, x, y = trained("mlp", 10)
    x, y = x[-20:], y[-20:]
    options = {"norm": norm, "seed": 3, "version": version}
    epsilon = 0.4 if norm == "L2" else 0.08
    together = autoattack(model, x, y, epsilon, **options)
    assert 0 < together.robust.sum() < together.correct.sum()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    apart = autoattack(model, x[order], y[order], epsilon, batch_size=7, index=order, **options)
    for name, held in together.survived.items():
        assert torch.equal(apart.survived[name], held[order]), name
    torch.testing.assert_close(apart.x_adv, together.x_adv[order], atol=1e-4, rtol=0)


class Counting(nn.Module):
    """Counts the images that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.asked = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self.model(x)


def test_broken_images_leave_at_once(trained):
    model, x, y = trained("mlp", 10)
    count = Counting(model)
    right = (model(x).argmax(1) == y).nonzero().squeeze(1)[:10]
    result = autoattack(count, x[right], y[right], 0.9)
    assert not result.robust.any()
    assert count.asked < 10 * 20  # the official code asks 100 times about each
    with_library = Counting(model)
    autoattack(with_library, x[right], y[right], 0.9, implementation="official")
    assert with_library.asked > 10 * 100


@pytest.mark.parametrize("implementation", ["own", "official"])
def test_skipped_images_are_not_attacked_and_count_as_robust_if_they_are_right(trained, implementation):
    model, x, y = trained("mlp", 10)
    x, y = x[:8], model(x[:8]).argmax(1)
    y[0] = (y[0] + 1) % 10
    skip = torch.arange(8) < 4
    options = {"version": "fast", "implementation": implementation}
    result = autoattack(model, x, y, 0.9, skip=skip, **options)
    assert result.robust.tolist() == [False, True, True, True, False, False, False, False]
    assert torch.equal(result.x_adv[:4], x[:4])
    assert not autoattack(model, x, y, 0.9, **options).robust.any()
    everything = autoattack(count := Counting(model), x, y, 0.9, skip=torch.ones(8, dtype=torch.bool), **options)
    assert torch.equal(everything.robust, everything.correct)
    assert count.asked == 8


@pytest.mark.parametrize(("classes", "targets"), [(2, 1), (4, 3), (10, 9), (11, 9)])
def test_the_attacks_have_the_settings_of_the_standard_version(monkeypatch, classes, targets):
    seen = {}
    for name in ("apgd_ce", "apgd_t", "fab", "square"):
        monkeypatch.setattr(
            module, name, lambda *given, name=name, **options: seen.setdefault(name, []).append(options)
        )
    x = torch.rand(3, 2)
    for attack in module._own_attacks(nn.Identity(), 0.1, 5, classes, steps=70).values():
        attack(Ball.around(x, 0.1, norm="L2", domain=(0.0, 2.0)), torch.zeros(3), torch.arange(3))
    shared = {"norm": "L2", "domain": (0.0, 2.0), "seed": 5}
    for options in (each for given in seen.values() for each in given):
        assert torch.equal(options.pop("index"), torch.arange(3))
    assert seen == {
        "apgd_ce": [shared | {"steps": 70}],
        "apgd_t": [shared | {"targets": targets, "steps": 70}],
        "fab": [shared | {"targets": None}, shared | {"targets": targets}],
        "square": [shared],
    }


@pytest.mark.parametrize(("classes", "targeted"), [(2, False), (3, False), (4, True), (12, True)])
@pytest.mark.parametrize("domain", [(-1.0, 3.0), None])
def test_the_library_has_the_settings_of_its_standard_version(classes, targeted, domain):
    x = torch.tensor([[0.0, 1.0]])
    ball = Ball.around(x, 0.5, norm="L2", domain=domain)
    made = {}

    def library(model, **options):
        made.update(options, suite=pyautoattack.AutoAttack(model, **options))
        return made["suite"]

    offered = module._official_attacks(library, nn.Identity(), ball, 0.5, 7, classes, steps=100)
    assert list(offered) == ["apgd-ce", "apgd-t", "fab", "fab-t", "square"]
    low, high = domain or (-1.5, 2.5)  # the data, half their range, and twice epsilon
    assert made["eps"] == pytest.approx(0.5 / (high - low))
    assert (made["norm"], made["seed"], made["version"]) == ("L2", 7, "custom")
    suite = made["suite"]
    assert suite.apgd.n_restarts == 1
    for name in ("n_iter", "n_iter_2", "n_iter_min", "size_decr"):  # the gaps between checkpoints follow from the steps
        usual = pyautoattack.autopgd_base.APGDAttack(nn.Identity(), eps=0.1)
        assert getattr(suite.apgd, name) == getattr(suite.apgd_targeted, name) == getattr(usual, name)
    assert suite.apgd_targeted.n_target_classes == suite.fab.n_target_classes == min(9, classes - 1)
    assert suite.fab.targeted is targeted
    assert suite.fab.n_restarts == (1 if targeted else 5)
    view = module._UnitView.of(ball, 0.5, classes)
    torch.testing.assert_close(view.encode(x), ((x - low) / (high - low)).view(1, 2, 1, 1))
    torch.testing.assert_close(view.decode(view.encode(x)), x)
    assert view.wrap(nn.Identity())(torch.zeros(0, 2, 1, 1)).shape == (0, classes)
    assert view.encode(torch.rand(2, 3, 8, 6)).shape == (2, 3, 8, 6), "images stay images"


def test_a_library_that_lacks_something_itself_says_what(monkeypatch):
    def fail(name: str) -> None:
        raise ModuleNotFoundError("No module named 'its_own'", name="its_own")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ModuleNotFoundError, match="its_own"):
        module._library()
