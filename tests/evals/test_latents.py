"""eval=latents: divergence, active latents, and its pictures."""

import pytest
import torch
from torch import nn

from trust_exp.data.digits import Digits
from trust_exp.errors import UserError
from trust_exp.evals.latents.suite import Latents
from trust_exp.evals.suite import Context, run_within
from trust_exp.models.vae import Vae


@pytest.fixture
def data():
    return Digits(name="digits", normal_class=["each"], hold_out=0.1, classes=["1", "2"])


def asked(vaes, data, tmp_path, quiet_trainer, samples=3, latents=(), pictures=10):
    suite = Latents(samples, latents, pictures)
    suite.context = Context(nn.ModuleList(vaes).eval(), data, tmp_path, method="vae")
    report, _ = run_within(suite, quiet_trainer())
    return {row.metric: row.value for row in report.rows}, [path.name for path in report.figures]


def made():
    torch.manual_seed(0)
    vaes = [Vae((1, 8, 8), 3, "silu") for _ in range(2)]
    for vae in vaes:
        nn.init.zeros_(vae.mean.weight)
        nn.init.zeros_(vae.log_variance.weight)
        nn.init.zeros_(vae.mean.bias)
        nn.init.zeros_(vae.log_variance.bias)
    return vaes


def test_a_code_that_is_the_prior_holds_nothing(data, tmp_path, quiet_trainer):
    rows, figures = asked(made(), data, tmp_path, quiet_trainer)
    assert rows == {f"latents/{name}": 0 for name in ("divergence", "active", "response", "slope", "bend")}
    assert figures == ["latents_prior.png", "latents_curvature_0.png", "latents_curvature_1.png"]


def test_divergence_and_active_latents_are_those_of_the_formula(data, tmp_path, quiet_trainer):
    vaes = made()
    nn.init.normal_(vaes[0].mean.weight[:2], std=100)  # two of three depend on the image, in one of two models
    vaes[1].log_variance.bias.data.fill_(0.5)
    rows, _ = asked(vaes, data, tmp_path, quiet_trainer, samples=0, pictures=0)
    assert rows["latents/active"] == 1
    image = data.arrays("test").batch().image[data.served_labels("test") == 0]
    first = (
        vaes[0]
        .mean(
            vaes[0].act(
                vaes[0].dense(
                    vaes[0].act(vaes[0].conv3(vaes[0].act(vaes[0].conv2(vaes[0].act(vaes[0].conv1(image)))))).flatten(1)
                )
            )
        )
        .square()
        .sum(1)
        .mean()
        / 2
    )
    second = 3 * (torch.tensor(0.5).exp() - 1 - 0.5) / 2
    assert rows["latents/divergence"] == pytest.approx(float((first + second) / 2), rel=1e-5)


def test_derivatives_are_those_of_autograd(data, tmp_path, quiet_trainer):
    torch.manual_seed(1)
    vaes = [Vae((1, 8, 8), 3, "silu") for _ in range(2)]
    rows, _ = asked(vaes, data, tmp_path, quiet_trainer, samples=0, pictures=0)
    slope, bend, response = [], [], []
    for label, vae in enumerate(vaes):
        layer = vae.layers(data.arrays("test").batch().image[data.served_labels("test") == label]).detach()
        layer.requires_grad_()
        mean = vae.encode_from(layer).mean
        (first,) = torch.autograd.grad(mean.sum(), layer, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), layer)
        for found, value in ((response, mean), (slope, first), (bend, second)):
            found.append(value.double().square().flatten(1).mean(1).mean())
    for name, found in (("response", response), ("slope", slope), ("bend", bend)):
        assert rows[f"latents/{name}"] == pytest.approx(float((sum(found) / 2).sqrt()), rel=1e-4)


def test_a_latent_that_there_is_not_is_one_sentence(data, tmp_path, quiet_trainer):
    with pytest.raises(UserError, match=r"eval.latents.latents: there is no latent 4 among 3"):
        asked(made(), data, tmp_path, quiet_trainer, latents=[1, 4])
    with pytest.raises(UserError, match="needs a variational autoencoder for each normal class"):
        asked(made()[:1], data, tmp_path, quiet_trainer)
