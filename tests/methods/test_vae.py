"""Training of VAEs of normal images: each model as if it were alone, its loss, and its scores."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F

from tests.methods.one_class import SavedAt, trained, untrained
from trust_exp.methods.anomaly.autoencoders import VaeScores
from trust_exp.methods.anomaly.core import divergence, importance_bound, log_ratio, pixel_error
from trust_exp.methods.anomaly.training import rounds_of
from trust_exp.models.vae import Vae

LATENTS = "model.latents=4"


@pytest.mark.parametrize("method", ["vae", "grad2vae"])
def test_each_class_at_once_is_trained_as_in_a_run_of_its_own(composed, quiet_trainer, method):
    """Of other sizes, so that one model rests while another goes on; the learning rate falls half way."""
    together = trained(composed, quiet_trainer, LATENTS, f"method={method}", "dataset.normal_class=each")
    lengths = [together.batches.consumed(number, len(together.batches.steps)) for number in range(3)]
    assert len(set(lengths)) > 1
    for number, name in enumerate(("0", "1", "8")):
        alone = trained(composed, quiet_trainer, LATENTS, f"method={method}", f"dataset.normal_class={name}")
        assert alone.global_step == 2 * lengths[number]
        pairs = zip(
            alone.model.members[0].state_dict().items(),
            together.model.members[number].state_dict().items(),
            strict=True,
        )
        for (key, one), (_, other) in pairs:
            assert torch.equal(one, other), key


def test_a_number_of_steps_is_that_of_each_model(composed):
    method, _ = untrained(composed, LATENTS, "method=vae", "dataset.normal_class=each")
    assert method.steps_for(20) == 60


def test_a_training_that_is_stopped_within_an_epoch_goes_on(composed, quiet_trainer, tmp_path):
    given = (LATENTS, "method=vae", "dataset.normal_class=each")
    whole = trained(composed, quiet_trainer, *given, callbacks=[SavedAt(7, tmp_path / "a.ckpt")])
    method = trained(composed, quiet_trainer, *given, resume=tmp_path / "a.ckpt")
    assert method.global_step == whole.global_step
    for (key, one), other in zip(method.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other), key


def test_the_models_take_turns():
    assert rounds_of([3, 1, 2]) == [[0, 1, 2], [0, 2], [0]]
    assert rounds_of([2]) == [[0], [0]]


def test_the_divergence_is_that_of_torchs_distributions():
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(5, 3), torch.ones(5, 3)), 1)
    torch.testing.assert_close(divergence(mean, log_variance), kl_divergence(posterior, prior))


def test_the_bound_of_importance_weights_is_that_of_torchs_distributions():
    """Of one draw it is the plain bound; of more it is tighter, and at most the evidence (Burda et al. 2016)."""
    torch.manual_seed(0)
    mean, log_variance, noise = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(50, 3).double()
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    weights = []
    for own in noise:
        latents = mean + (log_variance / 2).exp() * own
        ratio = posterior.log_prob(latents) - prior.log_prob(latents)
        torch.testing.assert_close(log_ratio(mean, log_variance, own), ratio)
        weights.append(latents.square().sum(1) + ratio)  # some error of a reconstruction
    weights = torch.stack(weights)
    torch.testing.assert_close(importance_bound(weights), -(-weights).exp().mean(0).log())
    torch.testing.assert_close(importance_bound(weights[:1]), weights[0])
    assert (importance_bound(weights) < weights.mean(0)).all()


@pytest.mark.parametrize("method", ["vae", "grad2vae"])
def test_a_network_has_the_bound_that_is_asked_for(composed, quiet_trainer, method):
    given = (LATENTS, f"method={method}", "dataset.normal_class=0", "method.draws=3")
    plain, tight = (
        trained(composed, quiet_trainer, *given, f"method.bound={kind}", epochs=1).model.eval()
        for kind in ("elbo", "importance")
    )
    image = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(plain(image)["scores"], tight(image)["scores"])
        assert (tight(image)["scores_elbo"] < plain(image)["scores_elbo"] + 1).all()
        member = tight.members[0]
        code = member.vae.encode_from(member.vae.layers(image))
        weights = [
            pixel_error(member.decoder(image)(code.drawn(noise)), image, "bce") + log_ratio(*code, noise)
            for noise in member.draws
        ]
        slow = -torch.stack(weights).neg().exp().mean(0).log()
    torch.testing.assert_close(tight(image)["scores_elbo"][:, 0], slow, rtol=1e-4, atol=1e-3)


def test_the_error_of_pixels_is_that_of_the_formula():
    pixels, image = torch.randn(4, 1, 6, 6) * 5, torch.rand(4, 1, 6, 6)
    share = pixels.double().sigmoid()
    slow = -(image * share.log() + (1 - image) * (1 - share).log()).sum((1, 2, 3))
    torch.testing.assert_close(pixel_error(pixels, image, "bce").double(), slow, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pixel_error(pixels, image, "mse"), (pixels.sigmoid() - image).square().sum((1, 2, 3)))


@pytest.mark.parametrize(
    ("overrides", "weights"),
    [
        ((), (1.0, 1.0, 1.0)),
        (("method.beta=3",), (1.0, 3.0, 1.0)),
        (("method.kl=mean", "method.attention=0.5"), (1.0, 0.25, 0.5)),
    ],
)
def test_the_loss_is_that_of_equation_3(composed, quiet_trainer, overrides, weights):
    given = ("method=grad2vae", "dataset.normal_class=0", *overrides)
    method = trained(composed, quiet_trainer, LATENTS, *given, epochs=0)
    image = torch.rand(6, 1, 8, 8)
    found = method.model.members[0].vae(image, torch.randn(6, 4))
    loss, parts = method.of(found, image)
    error = F.binary_cross_entropy(found.pixels.sigmoid(), image, reduction="sum") / 6
    attention = F.binary_cross_entropy(found.attention.sigmoid(), image, reduction="sum") / 6
    kl = divergence(*found.code).mean()
    slow = weights[0] * error + weights[1] * kl + weights[2] * attention
    torch.testing.assert_close(loss, slow, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(parts["kl"], kl)


def test_the_scores_are_those_of_their_definitions():
    torch.manual_seed(0)
    network = VaeScores(Vae((1, 8, 8), 3, "relu"), "bce", draws=5, bound="elbo").eval()
    image = torch.rand(7, 1, 8, 8)
    found = network(image)
    code = network.vae(image).code
    rebuilt = network.vae(image).pixels.sigmoid()
    torch.testing.assert_close(found["scores"], (rebuilt - image).square().mean((1, 2, 3)))
    torch.testing.assert_close(found["maps"].mean((1, 2)), found["scores"])
    torch.testing.assert_close(found["scores_latent"], code.mean.square().sum(1))
    slow = divergence(*code)
    for noise in network.draws:
        pixels = network.vae.out(network.vae.penultimate(code.drawn(noise)))
        slow = slow + pixel_error(pixels, image, "bce") / 5
    torch.testing.assert_close(found["scores_elbo"], slow)


@pytest.mark.slow
def test_a_trained_vae_rebuilds_normal_images_better(composed, quiet_trainer):
    method = trained(composed, quiet_trainer, LATENTS, "method=vae", "dataset.normal_class=0", epochs=60)
    data = method.batches.data
    batch = data.arrays("test").batch()
    with torch.no_grad():
        scores = method.model.eval()(batch.image)["scores"][:, 0]
    assert scores[batch.label == 0].mean() < 0.8 * scores[batch.label != 0].mean()
