"""What a training promises, whatever the method: where it may run, that it stops at a bad loss, what it draws."""

import pytest
import torch
from torch import nn

from trust_exp import engine
from trust_exp.callbacks import FiniteLoss, SafePoint, StopRequest
from trust_exp.data.digits import Digits
from trust_exp.errors import UserError
from trust_exp.identity import run_id
from trust_exp.job import Job
from trust_exp.messages import RunFailed
from trust_exp.methods.standard.module import Standard
from trust_exp.runs import Run, open_run

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
        with pytest.raises(RunFailed, match=r"the loss is not finite \(\S+\) at step 2 of 20; .* makes another run"):
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
    assert "at step 2 of 20" in result["error"]
    assert saved_step(command_line.folder() / "checkpoint.ckpt") == 1
