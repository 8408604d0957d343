"""Models of several classes that are trained together: stacked, they end where they end in turn."""

import pytest
import torch

from tests.methods.one_class import SavedAt, trained, untrained
from trust_exp.methods.anomaly.training import stacked

EACH = ("dataset.normal_class=each", "method.optimizer.lr=0.003")
SLOW_STEPS = ("method.optimizer.name=sgd", "method.optimizer.lr=0.001")  # of Adam the first ones are all of one length
METHODS = {
    "cae": SLOW_STEPS,
    "inception_cae": SLOW_STEPS,
    "deep_svdd": (*SLOW_STEPS, "method.boundary=soft", "method.radius_from=0.3"),
    "vae": (*SLOW_STEPS, "model.latents=4", "method.loss=mse"),
    "grad2vae": (*SLOW_STEPS, "model.latents=4", "method.loss=mse"),
}


@pytest.mark.parametrize("method", METHODS)
def test_together_they_end_as_in_turn(composed, quiet_trainer, method):
    """Classes differ in size, so that some rest; statistics of batch norm, centres and mean features included."""
    given = (f"method={method}", *EACH, *METHODS[method])
    in_turn = trained(composed, quiet_trainer, *given)
    together = trained(composed, quiet_trainer, *given, "method.ensemble=together")
    lengths = [in_turn.batches.consumed(number, in_turn.global_step) for number in range(3)]
    assert len(set(lengths)) > 1
    assert (in_turn.global_step, together.global_step) == (sum(lengths), max(lengths))
    for (key, one), other in zip(in_turn.state_dict().items(), together.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("method", ["deep_svdd", "grad2vae"])
def test_a_training_together_that_is_stopped_goes_on(composed, quiet_trainer, tmp_path, method):
    given = (f"method={method}", *EACH, "method.ensemble=together")
    whole = trained(composed, quiet_trainer, *given, callbacks=[SavedAt(7, tmp_path / "a.ckpt")])
    again = trained(composed, quiet_trainer, *given, resume=tmp_path / "a.ckpt")
    assert again.global_step == whole.global_step > 7
    for (key, one), other in zip(again.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


@pytest.mark.parametrize("ensemble", ["in_turn", "together"])
def test_gradients_of_each_model_are_clipped_by_themselves(composed, quiet_trainer, ensemble):
    given = ("method=cae", *EACH, f"method.ensemble={ensemble}", "method.optimizer.name=sgd", "method.optimizer.lr=1")
    start = untrained(composed, *given)[0].model.state_dict()
    method = trained(
        composed, quiet_trainer, *given, epochs=None, max_steps=method_steps(ensemble), gradient_clip_val=1e-3
    )
    for number, member in enumerate(method.model.members):
        moved = torch.cat(
            [(value - start[f"members.{number}.{name}"]).flatten() for name, value in member.named_parameters()]
        )
        assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2), number


def method_steps(ensemble):
    """So that each of three models takes one step."""
    return 1 if ensemble == "together" else 3


def test_stacked_losses_are_those_of_each():
    """Gradients reach the members' own parameters, and buffers are written back."""
    torch.manual_seed(0)
    members = [torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)) for _ in range(3)]
    given = [(torch.randn(5, 3), torch.randn(5, 1)) for _ in members]

    def loss(member, image, noise):
        found = (member(image) * noise).square()
        return found.mean(), {"each": found.sum(1)}

    found = stacked(loss, members, given)
    sum(value for value, _ in found).backward()
    kept = [{name: value.clone() for name, value in member.state_dict().items()} for member in members]
    gradients = [[parameter.grad.clone() for parameter in member.parameters()] for member in members]
    for number, member in enumerate(members):
        member.zero_grad()
        member[1].reset_running_stats()
        value, parts = loss(member, *given[number])
        value.backward()
        torch.testing.assert_close(found[number][0], value)
        torch.testing.assert_close(found[number][1]["each"], parts["each"])
        torch.testing.assert_close(gradients[number], [parameter.grad for parameter in member.parameters()])
        torch.testing.assert_close(kept[number], member.state_dict())
