"""What a training promises, whatever the method: where it may run, that it stops at a bad loss, what it draws."""

import random

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from torch import nn

from trust_exp import engine
from trust_exp.callbacks import FiniteLoss, SafePoint, StepDraws, StopRequest
from trust_exp.data.digits import Digits
from trust_exp.errors import UserError
from trust_exp.evals.certify.suite import Certify
from trust_exp.evals.clean.suite import Clean
from trust_exp.evals.suite import Report
from trust_exp.identity import run_id
from trust_exp.job import Job
from trust_exp.jobs import carry_out
from trust_exp.messages import RunFailed
from trust_exp.methods.standard.module import Standard
from trust_exp.networks import make_network
from trust_exp.rng import drawing_from
from trust_exp.runs import Run, open_run, write_json

RESNET = ["method=standard", "model=cifar_resnet20", "model.depth=8", "model.mean=null", "model.std=null"]


@pytest.fixture
def trained(composed, tmp_path):
    """Trains and evaluates a run of given overrides, in a folder of a given name; returns the run."""

    def train(name, *overrides) -> Run:
        config = composed("size=smoke", "eval=[clean]", *overrides)
        job = Job(config, open_run(config, tmp_path / name, []), [])
        engine.execute_and_record(job)
        return job.run

    return train


def weights(run: Run) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.weights, weights_only=True)["state_dict"]
    return state


def test_batch_norm_over_all_processes_is_refused_where_torch_has_none(composed, tmp_path):
    config = composed("size=smoke", "accelerator=ddp", "accelerator.kind=cpu", "accelerator.sync_batchnorm=true")
    with pytest.raises(UserError, match="sync_batchnorm=true needs GPUs for several processes"):
        engine.execute(Job(config, Run(tmp_path / "run"), []))


def test_batch_norm_over_one_process_changes_the_id_and_no_number(trained, composed):
    one, other = trained("one", *RESNET), trained("other", *RESNET, "accelerator.sync_batchnorm=true")
    for name, value in weights(one).items():
        assert torch.equal(weights(other)[name], value), name
    assert run_id(composed("accelerator.sync_batchnorm=true")) != run_id(composed())
    assert run_id(composed("accelerator.sync_batchnorm=false")) == run_id(composed())


# --- a loss that is not finite ----------------------------------------------------------------------------------------

ABSURD = ["dataset=digits", "method=standard", "method.optimizer.lr=1e30", "fit.checkpoint_seconds=0"]


def test_an_absurd_learning_rate_fails_at_its_step_and_leaves_a_good_safe_point(trained, tmp_path):
    for _ in range(2):  # the same command again ends in the same way
        with pytest.raises(RunFailed, match=r"the loss is not finite \(\S+\) at step 2 of 5; .* makes another run"):
            trained("run", *ABSURD)
        result = Run(tmp_path / "run").read("result.json") or {}
        assert result["status"] == "failed"
        assert "not finite" in result["error"]
        safe = torch.load(tmp_path / "run" / "checkpoint.ckpt", weights_only=True)
        assert safe["global_step"] == 1
        assert all(value.isfinite().all() for value in safe["state_dict"].values() if value.is_floating_point())
        assert not (tmp_path / "run" / "weights.pt").exists()


class Poisoned(Standard):
    """Goes wrong at a step: ``of`` says whether its loss does, or only the weights that it leaves."""

    def __init__(self, *, at: int, of: str, **shared) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Digits(name="digits").info, **shared)
        self.at, self.of = at, of

    def training_step(self, batch, number):
        loss = super().training_step(batch, number)
        return loss * float("inf") if self.of == "loss" and self.global_step + 1 == self.at else loss

    def on_before_optimizer_step(self, optimizer) -> None:
        if self.of == "weights" and self.global_step + 1 == self.at:
            self.model[1].weight.grad.fill_(float("nan"))


class Waiting(FiniteLoss):
    """As where reading a loss waits for a device."""

    @staticmethod
    def costs_nothing(trainer) -> bool:
        return False


@pytest.fixture
def fit_with(quiet_trainer, tmp_path):
    """Trains ``Poisoned`` for 20 steps under some callbacks, with safe points after each step or at one."""

    def fit(losses, *, safe_every=True, safe_at=None, **poison) -> None:
        class Sometimes(SafePoint):
            def on_train_batch_end(self, trainer, *rest) -> None:
                if safe_every or trainer.global_step == safe_at:
                    super().on_train_batch_end(trainer, *rest)

        safe = Sometimes(tmp_path / "safe.ckpt", 0, StopRequest(), losses)
        method = Poisoned(optimizer={"name": "sgd", "lr": 0.1}, **poison)
        trainer = quiet_trainer(max_steps=20, callbacks=[losses, safe])
        trainer.fit(method, datamodule=Digits(name="digits", batch_size=100))

    return fit


def saved_step(path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def test_weights_that_a_step_loses_do_not_replace_the_last_good_safe_point(fit_with, tmp_path):
    with pytest.raises(FloatingPointError, match="the weights are not finite after step 5 of 20"):
        fit_with(FiniteLoss(50), at=5, of="weights")
    assert saved_step(tmp_path / "safe.ckpt") == 4


def test_lost_weights_show_in_the_next_loss_where_nothing_is_saved(fit_with):
    with pytest.raises(FloatingPointError, match=r"the loss is not finite \(nan\) at step 6 of 20"):
        fit_with(FiniteLoss(50), safe_every=False, at=5, of="weights")


@pytest.mark.parametrize(
    "losses", [FiniteLoss(50), Waiting(8), Waiting(50)], ids=["at once", "at step 8", "at the end"]
)
def test_the_first_bad_loss_is_named_whenever_losses_are_read(fit_with, losses):
    with pytest.raises(FloatingPointError, match=r"the loss is not finite \(inf\) at step 5 of 20"):
        fit_with(losses, safe_every=False, at=5, of="loss")


def test_unread_losses_are_read_before_a_safe_point(fit_with, tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is not finite \(inf\) at step 5 of 20"):
        fit_with(Waiting(50), safe_every=False, safe_at=7, at=5, of="loss")
    assert not (tmp_path / "safe.ckpt").exists()


@pytest.mark.slow
def test_two_processes_stop_together_at_a_bad_loss(command_line):
    process = command_line("size=smoke", "eval=[clean]", *ABSURD, "accelerator=ddp", "accelerator.kind=cpu")
    assert process.returncode == 1, process.stderr
    assert process.stderr.count("error: ") == 1
    result = command_line.result()
    assert "the loss is not finite" in result["error"]
    assert "at step 2 of 5" in result["error"]
    assert saved_step(command_line.folder() / "checkpoint.ckpt") == 1


# --- what a run draws -------------------------------------------------------------------------------------------------


def test_a_context_draws_by_its_key_alone_and_leaves_the_rest_as_it_was():
    def draw() -> tuple[float, ...]:
        return float(torch.rand(())), float(np.random.rand()), random.random()  # noqa: NPY002

    draw()
    with drawing_from(1, "outside"):
        first = draw()
        with drawing_from(0, "part"):
            inside = draw()
        rest = draw()
    with drawing_from(1, "outside"):
        assert draw() == first
        assert draw() == rest, "what lay between drew nothing from outside"
    with drawing_from(0, "part"):
        assert draw() == inside
    with drawing_from(0, "other"):
        assert not set(draw()) & set(inside)


def test_a_network_that_a_method_makes_itself_is_the_same_whatever_the_model(trained, monkeypatch):
    def network(cls, model, info, options):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10))

    monkeypatch.setattr(Standard, "network", classmethod(network))
    models = (["model=conv_2c2f"], RESNET[1:], ["model=mlp_two_moons", "model.widths=[5,10]"])
    data = ["dataset.limit_train=100", "dataset.limit_test=60"]
    runs = [trained(f"run{number}", "method=standard", *data, *model) for number, model in enumerate(models)]
    for run in runs[1:]:
        for name, value in weights(runs[0]).items():
            assert torch.equal(weights(run)[name], value), name
    assert len({(run.read("result.json") or {})["metrics"]["clean/accuracy"] for run in runs}) == 1


def test_the_same_model_starts_alike_under_two_methods_and_otherwise_with_another_seed(composed):
    def start(*overrides) -> torch.Tensor:
        config = composed("dataset=digits", "model=conv_2c2f", *overrides)
        torch.rand(7)  # what came before does not matter
        return next(make_network(config, Digits(name="digits").info).parameters()).detach()

    one = start("method=standard")
    assert torch.equal(one, start("method=sat"))
    assert not torch.equal(one, start("method=standard", "seed=1"))


def test_dropout_of_a_resumed_training_is_that_of_an_uninterrupted_one(quiet_trainer, tmp_path):
    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            if trainer.global_step == 5:
                trainer.save_checkpoint(tmp_path / "safe.ckpt")

    def fit(*callbacks, resume=None) -> dict[str, torch.Tensor]:
        with drawing_from(0, "start"):
            model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
        method = Standard(model, Digits(name="digits").info, optimizer={"lr": 0.1})
        trainer = quiet_trainer(max_steps=12, callbacks=[StepDraws(0), *callbacks])
        trainer.fit(method, datamodule=Digits(name="digits", batch_size=100), ckpt_path=resume, weights_only=True)
        return model.state_dict()

    whole, resumed = fit(Save()), fit(resume=tmp_path / "safe.ckpt")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_an_eval_draws_the_same_whatever_ran_before_it(trained, monkeypatch):
    drawn = []

    def draw(suite, outcomes):
        drawn.append((suite.name, float(torch.rand(()))))
        return Report([])

    for kind in (Certify, Clean):
        monkeypatch.setattr(kind, "finish", draw)
    trained("one", "method=cll", "dataset=digits", "eval=[clean]")
    trained("other", "method=cll", "dataset=digits", "eval=[certify,clean]")
    assert len(drawn) == 3
    assert len(set(drawn)) == 2


def test_a_stopped_run_that_drew_in_another_way_starts_anew_and_a_done_one_stays_done(
    composed, tmp_path, monkeypatch, capsys
):
    config = composed("size=smoke", "eval=[clean]", "fit.checkpoint_seconds=0")
    job = Job(config, open_run(config, tmp_path / "run", []), [])

    def as_of_an_older_version() -> None:
        result = job.run.read("result.json") or {}
        assert result.pop("draws") == 2
        write_json(job.run.result, result)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Pipeline, "_keep", lambda *_: 1 / 0)
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            carry_out(job)
    as_of_an_older_version()
    capsys.readouterr()
    carry_out(job)
    said = capsys.readouterr().err
    assert "run was begun by a version that drew other random numbers; it starts anew" in said
    assert "resuming" not in said
    as_of_an_older_version()
    before = job.run.weights.read_bytes()
    carry_out(job)
    assert "is done" in capsys.readouterr().err
    assert job.run.weights.read_bytes() == before
