"""Variational autoencoders: their sizes, their second derivatives, and what each fusion lets through."""

import pytest
import torch

from trust_exp.errors import UserError
from trust_exp.models.vae import ACTIVATIONS, FILTERS, Grad2Vae, Vae

SHAPE = (1, 8, 8)
OPTIONS = {"target": "mean", "layer": 1, "aggregation": "add", "fusion": "published", "resolution": "half"}


def made(shape=SHAPE, latents=4, activation="silu", **options):
    torch.manual_seed(0)
    return Grad2Vae(shape, latents, activation, **{**OPTIONS, **options})


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_counts_are_those_of_the_paper():
    plain = Vae((1, 28, 28), 16, "relu")
    assert count(plain) == 3_253_569
    for resolution in ("half", "full"):
        model = made((1, 28, 28), 16, resolution=resolution)
        assert count(model.attention) == 129_313
        assert count(model) == 3_253_569 + 129_313
    assert (round(count(plain) / 1e6, 2), round(count(model) / 1e6, 2)) == (3.25, 3.38)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 10, 14)])
def test_images_of_any_even_size_and_colour_are_rebuilt_in_their_shape(shape):
    images = torch.rand(2, *shape)
    for model in (Vae(shape, 5, "elu"), made(shape, 5)):
        found = model(images, torch.randn(2, 5))
        assert found.pixels.shape == images.shape
        assert found.code.mean.shape == found.code.log_variance.shape == (2, 5)


@pytest.mark.parametrize("target", ["mean", "sigma", "sample"])
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_the_curvature_is_that_of_the_explicit_hessian(target, layer):
    model = made((1, 4, 4), 2, layer=layer, target=target).double().eval()
    image, noise = torch.rand(1, 1, 4, 4, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    at = model.layers(image)
    for conv in (model.conv2, model.conv3)[: layer - 1]:
        at = model.act(conv(at))

    def summed(values):
        code = model.encode_from(values, layer)
        return {"mean": code.mean, "sigma": code.drawn(torch.ones(1, 2).double()), "sample": code.drawn(noise)}[
            target
        ].sum()

    hessian = torch.autograd.functional.hessian(summed, at.detach())
    expected = hessian.view(at.numel(), at.numel()).sum(1).view_as(at)
    torch.testing.assert_close(model.curvature(image, noise)[1], expected, rtol=1e-8, atol=1e-12)


def test_weights_of_latents_weigh_their_hessians():
    image = torch.rand(2, *SHAPE)
    added, averaged, learned = (made(aggregation=how).eval() for how in ("add", "mean", "convolution"))
    total = added.curvature(image)[1]
    torch.testing.assert_close(averaged.curvature(image)[1], total / 4)
    torch.testing.assert_close(learned.curvature(image)[1], total, msg="the weights begin at 1")


def test_relu_with_the_mean_is_refused_with_the_reason():
    with pytest.raises(UserError, match="with ReLU the second derivative of the mean is 0 everywhere"):
        made(activation="relu")
    image = torch.rand(2, *SHAPE)
    published = made(activation="relu", target="sample").eval()
    assert published.curvature(image, torch.randn(2, 4))[1].abs().max() > 0
    assert published.curvature(image, torch.zeros(2, 4))[1].abs().max() == 0, "the sample at the mean is the mean"


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "relu"])
def test_every_smooth_activation_trains_through_the_third_order(activation):
    model = made(activation=activation, aggregation="convolution").train()
    found = model(torch.rand(4, *SHAPE), torch.randn(4, 4))
    (found.pixels.square().sum() + found.attention.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def gradient_through_attention(fusion):
    """Of the encoder's first layer by the picture of the attention alone."""
    model = made(fusion=fusion).train()
    picture = model(torch.rand(4, *SHAPE), torch.randn(4, 4)).attention
    (found,) = torch.autograd.grad(picture.square().sum(), model.conv1.weight, allow_unused=True)
    return found


def test_detached_attention_leaves_the_encoder_alone():
    assert gradient_through_attention("published").abs().max() > 0
    assert gradient_through_attention("detached") is None


def moved_by_attention(fusion, training=False):
    """How far each image's reconstruction moves when the features of the attention are doubled, [B]."""
    model = made(fusion=fusion).train(training)
    image = torch.rand(4, *SHAPE)
    code, features, _ = model.attend(image)
    penultimate = model.penultimate(code.mean)
    one, other = (model.fused(penultimate, factor * features) for factor in (1, 2))
    return (one - other).abs().amax((1, 2, 3))


def test_what_each_fusion_lets_through():
    assert (moved_by_attention("published") > 0).all()
    assert (moved_by_attention("detached") > 0).all()
    assert (moved_by_attention("none") == 0).all()
    assert (moved_by_attention("gated") == 0).all(), "the gate begins closed"
    assert (moved_by_attention("dropout", training=True) > 0).tolist() == [False, True, False, True]
    assert (moved_by_attention("dropout") > 0).all()


def test_pooled_attention_has_few_places():
    model = made((1, 28, 28), fusion="pooled").eval()
    curvature = torch.randn(1, FILTERS, 28, 28)
    scaled = model._scaled(curvature)
    again = torch.nn.functional.interpolate(torch.nn.functional.adaptive_avg_pool2d(scaled, 7), 28, mode="bilinear")
    assert scaled.shape == (1, FILTERS, 28, 28)
    assert scaled.var() < 0.2 * made((1, 28, 28)).eval()._scaled(curvature).var()
    assert again.shape == scaled.shape


def test_scaled_curvature_has_a_mean_square_of_1_whatever_its_size():
    model = made().eval()
    for factor in (1e-9, 1.0, 1e6):
        scaled = model._scaled(factor * torch.randn(3, FILTERS, 8, 8))
        torch.testing.assert_close(scaled.square().mean((1, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)
    assert torch.equal(model._scaled(torch.zeros(1, FILTERS, 8, 8)), torch.zeros(1, FILTERS, 8, 8))


@pytest.mark.parametrize("how", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(how):
    model, image = made().eval(), torch.rand(2, *SHAPE)
    wanted = model(image).pixels
    with how():
        found = model(image)
    assert torch.equal(found.pixels, wanted)
    assert not found.pixels.requires_grad


def test_the_mean_attention_is_that_of_the_training():
    model = made().train()
    for _ in range(2000):
        model._remember(torch.full((4, FILTERS, 8, 8), 3.0))
    torch.testing.assert_close(model.mean_features, torch.full((FILTERS, 8, 8), 3.0))
    before = model.mean_features.clone()
    model.eval()(torch.rand(2, *SHAPE))
    assert torch.equal(model.mean_features, before)


@pytest.mark.parametrize(
    ("shape", "latents", "sentence"),
    [
        ((1, 7, 8), 4, r"sides must be even; these are \(1, 7, 8\)"),
        ((64,), 4, "sides must be even"),
        ((1, 4, 4), 17, "model.latents=17 is more than the 16 pixel values"),
    ],
)
def test_what_cannot_be_made_is_said(shape, latents, sentence):
    with pytest.raises(UserError, match=sentence):
        Vae(shape, latents, "relu")


@pytest.mark.parametrize("layer", [1, 3])
def test_the_curvature_of_each_latent_sums_up_to_that_of_all(layer):
    model, image = made(layer=layer).double().eval(), torch.rand(2, *SHAPE, dtype=torch.float64)
    each = model.curvature_of_each(image)
    assert each.shape == (2, 4, *model.layer_of(image).shape[1:])
    torch.testing.assert_close(each.sum(1), model.curvature(image)[1])
    assert not Vae(SHAPE, 4, "relu").curvature_of_each(torch.rand(1, *SHAPE)).any(), "linear in pieces"


def test_images_of_latents_alone_see_the_mean_attention():
    plain, model, latents = Vae(SHAPE, 4, "silu"), made(), torch.randn(3, 4)
    torch.testing.assert_close(plain.decoded(latents), plain.out(plain.penultimate(latents)).sigmoid())
    before = model.decoded(latents)
    assert before.shape == (3, *SHAPE)
    model.mean_features.add_(1)
    assert not torch.allclose(model.decoded(latents), before)
