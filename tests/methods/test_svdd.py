"""Deep SVDD: its input, its centre, and both parts of its training against a plain loop."""

import copy

import lightning.pytorch as L
import pytest
import torch
from torch.nn import functional as F

from tests.methods.one_class import SavedAt, trained, untrained
from trust_exp.errors import UserError
from trust_exp.methods.anomaly.core import contrasted, distant_centre

GIVEN = ("method=deep_svdd", "method.optimizer.lr=0.01", "method.optimizer.weight_decay=0.01")
SOFT = ("method.boundary=soft", "method.nu=0.2", "method.radius_from=0.3")


def test_contrast_is_normalised_as_the_formula_says():
    images = torch.rand(5, 2, 4, 3, dtype=torch.float64)
    for image, found in zip(images, contrasted(images), strict=True):
        centred = image - image.mean()
        torch.testing.assert_close(found, centred / centred.abs().mean())
    assert contrasted(torch.full((1, 1, 3, 3), 0.1)).abs().max() < 1e-6, "not what is rounded, made large"


def test_a_centre_stays_away_from_zero():
    codes = torch.tensor([[0.04, -0.02, 2.0, -3.0, 0.0], [0.06, -0.04, 4.0, -5.0, 0.0]])
    assert distant_centre(codes).tolist() == pytest.approx([0.1, -0.1, 3.0, -4.0, 0.1])


class Seen(L.Callback):
    """The images of each step."""

    def __init__(self):
        self.images = []

    def on_train_batch_start(self, trainer, method, batch, *_):
        self.images.append(batch[0][1].image.clone())


def normal_images(method):
    data = method.batches.data
    return data.samples("train", method.batches.rows[0]).image


@pytest.mark.parametrize("boundary", ["hard", "soft"])
def test_the_training_is_that_of_a_plain_loop(composed, quiet_trainer, boundary):
    """As in the authors' code: two trainings, each with an optimiser of its own whose rate falls after a third."""
    given = (*GIVEN, "dataset.normal_class=8", *(SOFT if boundary == "soft" else ()))
    start = copy.deepcopy(untrained(composed, *given)[0].model.members[0].autoencoder)
    method = trained(composed, quiet_trainer, *given, epochs=4, callbacks=[seen := Seen()])
    normal = contrasted(normal_images(method))
    low, high = normal.min(), normal.max()
    half, steps = len(seen.images) // 2, len(seen.images)
    assert steps == method.global_step > 8

    def optimizer(network, decay, steps):
        made = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=decay)
        return made, torch.optim.lr_scheduler.MultiStepLR(made, [round(steps * 0.3333333)], 0.1)

    start.train()
    adam, schedule = optimizer(start, 5e-4, half)
    for image in seen.images[:half]:
        wanted = (contrasted(image) - low) / (high - low)
        adam.zero_grad()
        (start(wanted) - wanted).square().sum((1, 2, 3)).mean().backward()
        adam.step()
        schedule.step()
    with torch.no_grad():
        codes = start.eval().encode((normal - low) / (high - low))
    centre = distant_centre(codes)
    start.train()
    adam, schedule, radius = *optimizer(start.encoder, 0.01, steps - half), torch.tensor(0.0)
    for number, image in enumerate(seen.images[half:]):
        distance = (start.encode((contrasted(image) - low) / (high - low)) - centre).square().sum(1)
        loss = radius**2 + F.relu(distance - radius**2).mean() / 0.2 if boundary == "soft" else distance.mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
        if boundary == "soft" and number >= 0.3 * (steps - half):
            radius = torch.quantile(distance.detach().sqrt(), 0.8)
    sphere = method.model.members[0]
    torch.testing.assert_close(sphere.centre, centre, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sphere.radius, radius, rtol=1e-4, atol=1e-5)
    for (key, one), other in zip(
        sphere.autoencoder.encoder.named_parameters(), start.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    image = method.batches.data.samples("test", torch.arange(9)).image
    with torch.no_grad():
        found = method.model.eval()(image)["scores"][:, 0]
        slow = (start.eval().encode((contrasted(image) - low) / (high - low)) - centre).square().sum(1) - radius**2
    torch.testing.assert_close(found, slow, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("step", [5, 12, 20])
def test_a_training_that_is_stopped_goes_on(composed, quiet_trainer, tmp_path, step):
    """In its first part, where the parts of the models change, and in its second part."""
    given = (*GIVEN, *SOFT, "dataset.normal_class=each")
    whole = trained(composed, quiet_trainer, *given, callbacks=[SavedAt(step, tmp_path / "a.ckpt")])
    method = trained(composed, quiet_trainer, *given, resume=tmp_path / "a.ckpt")
    assert method.global_step == whole.global_step > 20
    for (key, one), other in zip(method.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_each_class_at_once_ends_as_in_a_run_of_its_own(composed, quiet_trainer):
    together = trained(composed, quiet_trainer, *GIVEN, "dataset.normal_class=each")
    alone = trained(composed, quiet_trainer, *GIVEN, "dataset.normal_class=1")
    pairs = zip(
        alone.model.members[0].state_dict().items(), together.model.members[1].state_dict().values(), strict=True
    )
    for (key, one), other in pairs:
        assert torch.equal(one, other), key


def test_before_the_second_part_there_is_no_score(composed):
    method, data = untrained(composed, *GIVEN, "dataset.normal_class=8")
    with pytest.raises(UserError, match=r"the centre is found after method.pretraining of the training"):
        method.model.eval()(data.samples("test", torch.arange(2)).image)


def test_constant_images_are_refused(composed, quiet_trainer):
    method, data = untrained(composed, *GIVEN, "dataset.normal_class=8")
    data.arrays("train").images.fill_(7)
    with pytest.raises(UserError, match="every normal training image is constant"):
        quiet_trainer(max_epochs=1).fit(method, datamodule=method.training_data(data))
