"""The learning rate over a training, against torch's own schedulers; and the optimisers that are built from options."""

from dataclasses import asdict

import lightning.pytorch as L
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from trust_exp.data.digits import Digits
from trust_exp.errors import UserError
from trust_exp.identity import run_id
from trust_exp.methods.config import OptimizerConfig
from trust_exp.methods.schedules import lr_factor
from trust_exp.methods.standard.module import Standard

STEPS, LR = 40, 0.3


def of_torch(make) -> list[float]:
    """The learning rates of a scheduler of torch that ``make`` puts around an optimiser."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, found = make(optimizer), []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(**options) -> list[float]:
    values = asdict(OptimizerConfig(lr=LR, **options))
    return [LR * lr_factor(values, step, STEPS) for step in range(STEPS)]


def after_warmup(make, steps: int):
    """``make`` after a linear warm-up of some steps."""

    def both(optimizer):
        rise = lr_scheduler.LinearLR(optimizer, 1 / (steps + 1), total_iters=steps)
        return lr_scheduler.SequentialLR(optimizer, [rise, make(optimizer, STEPS - steps)], milestones=[steps])

    return both


TORCH = {  # for a number of steps; each beside our options
    "cosine": (
        lambda optimizer, steps: lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.05 * LR),
        {"schedule": "cosine", "end": 0.05},
    ),
    "polynomial": (
        lambda optimizer, steps: lr_scheduler.PolynomialLR(optimizer, steps, power=0.9),
        {"schedule": "polynomial", "power": 0.9},
    ),
    "exponential": (
        lambda optimizer, steps: lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / steps)),
        {"schedule": "exponential", "end": 0.01},
    ),
    "linear to a tenth": (
        lambda optimizer, steps: lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps),
        {"schedule": "polynomial", "end": 0.1},
    ),
}


@pytest.mark.parametrize(("make", "options"), TORCH.values(), ids=TORCH)
@pytest.mark.parametrize("warm", [0, 6])
def test_a_schedule_gives_the_values_of_torch_s_at_every_step(make, options, warm):
    expected = of_torch(after_warmup(make, warm) if warm else lambda optimizer: make(optimizer, STEPS))
    assert ours(warmup=warm / STEPS, **options) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("peak", [0.5, 0.3])
@pytest.mark.parametrize("end", [0.0, 0.1])
def test_a_triangle_is_one_cycle_of_torch_s_cyclic_scheduler(peak, end):
    def cycle(optimizer):
        up, down = peak * STEPS, (1 - peak) * STEPS
        return lr_scheduler.CyclicLR(optimizer, end * LR, LR, up, down, cycle_momentum=False)

    assert ours(schedule="triangular", peak=peak, end=end) == pytest.approx(of_torch(cycle), rel=1e-9, abs=1e-12)


def test_steps_are_those_of_torch_s_milestones_with_and_without_warm_up():
    def falls(optimizer):
        return lr_scheduler.MultiStepLR(optimizer, [20, 30], gamma=0.2)

    found = ours(milestones=[0.5, 0.75], gamma=0.2)
    assert found == pytest.approx(of_torch(falls), rel=1e-12)
    warm = ours(milestones=[0.5, 0.75], gamma=0.2, warmup=0.1)
    assert warm[:4] == pytest.approx([LR * part / 5 for part in (1, 2, 3, 4)])
    assert warm[4:] == found[4:], "milestones are fractions of the whole training"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"schedule": "cosine", "power": 2.0},
            "method.optimizer.power=2 means nothing with method.optimizer.schedule=cosine; leave out what was given, "
            "or undo what a recipe gives: method.optimizer.power=1",
        ),
        (
            {"schedule": "cosine", "milestones": [0.5], "gamma": 0.2},
            "method.optimizer.milestones=[0.5] and method.optimizer.gamma=0.2 mean nothing with "
            "method.optimizer.schedule=cosine; leave out what was given, or undo what a recipe gives: "
            "method.optimizer.milestones=[] method.optimizer.gamma=0.1",
        ),
        ({"end": 0.1}, "method.optimizer.end=0.1 means nothing with method.optimizer.schedule=steps"),
        ({"schedule": "polynomial", "peak": 0.2}, "method.optimizer.peak=0.2 means nothing with"),
        ({"schedule": "triangular", "warmup": 0.2}, "method.optimizer.warmup=0.2 means nothing with"),
        ({"nesterov": True}, "method.optimizer.nesterov=true means nothing with method.optimizer.name=adamw"),
        ({"name": "sgd", "betas": [0.8, 0.9]}, "method.optimizer.betas=[0.8,0.9] means nothing with"),
        ({"name": "sgd", "nesterov": True, "momentum": 0.0}, "needs method.optimizer.momentum greater than 0"),
        ({"schedule": "exponential"}, "needs method.optimizer.end, the factor of lr that it ends with"),
        ({"schedule": "linear"}, "must be one of steps, polynomial, cosine, exponential, triangular; got 'linear'"),
        ({"betas": [0.9, 1.0]}, "method.optimizer.betas must be two numbers in"),
        ({"warmup": 0.2, "milestones": [0.1, 0.5]}, "milestones must not lie within method.optimizer.warmup"),
        ({"warmup": 1.5}, "method.optimizer.warmup must be at most 1; got 1.5"),
        ({"schedule": "triangular", "peak": 0.0}, "method.optimizer.peak must be greater than 0; got 0"),
    ],
)
def test_what_means_nothing_or_does_not_go_together_is_refused(options, complaint):
    with pytest.raises(UserError) as refused:
        OptimizerConfig(**options)
    assert complaint in str(refused.value)


def test_the_new_options_leave_the_ids_of_earlier_runs_as_they_were(composed):
    """A value at its default leaves no trace, another one does."""
    plain = composed("method=standard", "dataset=digits")
    assert run_id(plain) == "4d7280a061", "as it was before there were schedules"
    for override in (
        "schedule=steps",
        "warmup=0",
        "nesterov=false",
        "betas=[0.9,0.999]",
        "power=1",
        "end=0",
        "peak=0.5",
    ):
        assert run_id(composed("method=standard", "dataset=digits", f"method.optimizer.{override}")) == run_id(plain)
    for override in ("schedule=cosine", "warmup=0.1", "betas=[0.9,0.99]", "name=nadam"):
        assert run_id(composed("method=standard", "dataset=digits", f"method.optimizer.{override}")) != run_id(plain)


# --- in a training ---------------------------------------------------------------------------------------------------


class Rates(L.Callback):
    """The learning rates of all groups at each step."""

    def __init__(self) -> None:
        self.seen: dict[int, list[float]] = {}

    def on_train_batch_start(self, trainer, *_) -> None:
        self.seen[trainer.global_step] = [group["lr"] for group in trainer.optimizers[0].param_groups]


class TwoGroups(Standard):
    """Weights and biases with learning rates of their own."""

    def parameter_groups(self):
        network = self.model[1]
        return [{"params": [network.weight]}, {"params": [network.bias], "lr": 0.02}]


def method_with(kind=Standard, **optimizer):
    torch.manual_seed(0)
    data = Digits(name="digits", batch_size=100)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return kind(model, data.info, optimizer=optimizer), data


def test_groups_with_learning_rates_of_their_own_keep_their_ratio(quiet_trainer):
    method, data = method_with(TwoGroups, lr=0.1, schedule="cosine", warmup=0.25)
    quiet_trainer(max_steps=8, callbacks=[rates := Rates()]).fit(method, datamodule=data)
    factors = [lr_factor(method.optimizer, step, 8) for step in range(8)]
    assert [rates.seen[step] for step in range(8)] == [[0.1 * factor, 0.02 * factor] for factor in factors]


def test_a_resumed_training_has_the_learning_rates_and_weights_of_an_uninterrupted_one(quiet_trainer, tmp_path):
    options = {"name": "nadam", "lr": 0.05, "schedule": "triangular", "peak": 0.3, "betas": [0.8, 0.99]}

    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "safe.ckpt")

    whole, data = method_with(**options)
    quiet_trainer(max_steps=12, callbacks=[rates := Rates(), Stop()]).fit(whole, datamodule=data)
    resumed, data = method_with(**options)
    quiet_trainer(max_steps=12, callbacks=[rest := Rates()]).fit(
        resumed, datamodule=data, ckpt_path=tmp_path / "safe.ckpt", weights_only=True
    )
    assert rest.seen == {step: rates.seen[step] for step in range(5, 12)}
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({"name": "sgd", "momentum": 0.8, "nesterov": True}, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
        ({"name": "adam", "betas": [0.5, 0.9]}, torch.optim.Adam, {"betas": (0.5, 0.9)}),
        ({"name": "nadam", "betas": [0.5, 0.9], "weight_decay": 0.1}, torch.optim.NAdam, {"weight_decay": 0.1}),
        ({"name": "adamw"}, torch.optim.AdamW, {"betas": (0.9, 0.999), "weight_decay": 0.0}),
    ],
)
def test_the_optimiser_is_torch_s_with_the_options_given(quiet_trainer, options, kind, expected):
    method, data = method_with(lr=0.1, **options)
    quiet_trainer(max_steps=1).fit(method, datamodule=data)
    optimizer = method.trainer.optimizers[0]
    assert type(optimizer) is kind
    assert {key: optimizer.defaults[key] for key in expected} == expected
