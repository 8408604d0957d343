"""Variational autoencoders: the plain one, and Grad2VAE, which attends to second derivatives (Abukmeil et al. 2022).

The text fixes few sizes; these are the ones that give its counts of parameters: 3.25 M and 3.38 M for 28 by 28 pixels.
"""

import itertools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trust_exp.errors import UserError
from trust_exp.explain.attention import offline_attention
from trust_exp.explain.curvature import row_sums_of_chain, row_sums_of_each

FILTERS, DEEP, HIDDEN = 16, 64, 128
POOLED = 7  # places in both directions that fusion=pooled leaves
MOMENTUM = 0.01  # of the mean attention
TINY = 1e-30
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
Fusion = Literal["published", "none", "gated", "dropout", "pooled", "detached"]


class Code(NamedTuple):
    """The distribution of the latents of images: its mean and the logarithm of its variance, [B, d] each."""

    mean: Tensor
    log_variance: Tensor

    def drawn(self, noise: Tensor) -> Tensor:
        """Latents for standard normal noise [B, d]."""
        return self.mean + (self.log_variance / 2).exp() * noise


class Decoded(NamedTuple):
    """What a pass gives: pixels before the sigmoid [B, C, H, W], the code, and the attention, if the model has one.

    ``attention`` is its map before the sigmoid [B, C, H, W].
    """

    pixels: Tensor
    code: Code
    attention: Tensor | None = None


class Vae(nn.Module):
    """Two convolutions, one of stride 2, a dense layer; the decoder is their mirror.

    Args:
        shape: of one image: C, H, W, with H and W even.
        latents: d.
        activation: a key of ``ACTIVATIONS``.

    Raises:
        UserError: if the images have an odd side, or there are more latents than pixels.
    """

    def __init__(self, shape: tuple[int, ...], latents: int, activation: str) -> None:
        super().__init__()
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise UserError(f"a VAE halves images once, so their sides must be even; these are {tuple(shape)}")
        if latents > shape[0] * shape[1] * shape[2]:
            raise UserError(f"model.latents={latents} is more than the {shape[0] * shape[1] * shape[2]} pixel values")
        channels, height, width = shape
        self.shape, self.latents, small = tuple(shape), latents, (height // 2, width // 2)
        self.act, self.activation = ACTIVATIONS[activation](), activation
        self.conv1 = nn.Conv2d(channels, FILTERS, 3, padding=1)
        self.conv2 = nn.Conv2d(FILTERS, FILTERS, 3, padding=1)
        self.conv3 = nn.Conv2d(FILTERS, DEEP, 3, stride=2, padding=1)
        self.dense = nn.Linear(DEEP * small[0] * small[1], HIDDEN)
        self.mean, self.log_variance = nn.Linear(HIDDEN, latents), nn.Linear(HIDDEN, latents)
        self.decode1 = nn.Linear(latents, HIDDEN)
        self.decode2 = nn.Linear(HIDDEN, DEEP * small[0] * small[1])
        self.unflatten = nn.Unflatten(1, (DEEP, *small))
        self.decode3 = nn.ConvTranspose2d(DEEP, FILTERS, 3, stride=2, padding=1, output_padding=1)
        self.decode4 = nn.Conv2d(FILTERS, FILTERS, 3, padding=1)
        self.out = nn.Conv2d(FILTERS, channels, 1)

    def layers(self, image: Tensor) -> Tensor:
        """The first layer of the encoder, L_e1, [B, 16, H, W]."""
        found: Tensor = self.act(self.conv1(image))
        return found

    def encode_from(self, layer: Tensor, depth: int = 1) -> Code:
        """The code, computed from the output of the encoder's layer number ``depth``."""
        for conv in (self.conv2, self.conv3)[depth - 1 :]:
            layer = self.act(conv(layer))
        return self.coded(self.act(self.dense(layer.flatten(1))))

    def coded(self, hidden: Tensor) -> Code:
        """The code of the last hidden layer, [B, 128]."""
        return Code(self.mean(hidden), self.log_variance(hidden))

    def layer_of(self, image: Tensor) -> Tensor:
        """The layer whose second derivatives are taken, [B, F, h, w]."""
        return self.layers(image)

    def latents_of(self, layer: Tensor) -> Tensor:
        """The latents whose second derivatives are taken, computed from that layer, [B, d]."""
        return self.encode_from(layer).mean

    def curvature_of_each(self, image: Tensor) -> Tensor:
        """Row sums of the Hessian of each latent, [B, d, F, h, w]."""
        return row_sums_of_each(self.latents_of, self.layer_of(image))

    def offline_attention(self, image: Tensor) -> Tensor:
        """Where the means of the code look, [B, H, W]; of the second convolution."""

        def means(layer: Tensor) -> Tensor:
            return self.encode_from(self.act(layer), depth=2).mean

        return offline_attention(means, self.conv2(self.layers(image)))

    def penultimate(self, latents: Tensor) -> Tensor:
        """The last layer but one of the decoder, [B, 16, H, W]."""
        small = self.unflatten(self.act(self.decode2(self.act(self.decode1(latents)))))
        found: Tensor = self.act(self.decode4(self.act(self.decode3(small))))
        return found

    def decoded(self, latents: Tensor) -> Tensor:
        """Images in [0, 1] of latents alone, [B, C, H, W]: samples of the prior, if they are standard normal."""
        return self.out(self.penultimate(latents)).sigmoid()

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Decoded:
        """Encode and decode images [B, C, H, W] in [0, 1].

        Args:
            noise: standard normal [B, d]; None: decode the mean.
        """
        code = self.encode_from(self.layers(image))
        return Decoded(self.out(self.penultimate(code.mean if noise is None else code.drawn(noise))), code)


class Attention(nn.Module):
    """From second derivatives [B, F, H, W] to features [B, 16, H, W] and a picture of them [B, C, H, W].

    At half resolution it has as many parameters and takes less than half the time.
    """

    def __init__(self, filters: int, channels: int, activation: str, half: bool) -> None:
        super().__init__()
        first = nn.Conv2d(filters, DEEP, 3, stride=2 if half else 1, padding=1)
        inner = (nn.Conv2d(DEEP, DEEP, 3, padding=1) for _ in range(3))
        last: nn.Module = nn.Conv2d(DEEP, FILTERS, 3, padding=1)
        if half:
            last = nn.ConvTranspose2d(DEEP, FILTERS, 3, stride=2, padding=1, output_padding=1)
        act = ACTIVATIONS[activation]
        pairs = ((layer, act()) for layer in (first, *inner, last))
        self.body = nn.Sequential(*itertools.chain.from_iterable(pairs))
        self.picture = nn.Conv2d(FILTERS, channels, 1)

    def forward(self, curvature: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(curvature)
        return features, self.picture(features)


class Grad2Vae(Vae):
    """A VAE whose decoder is given the second derivatives of its latents with respect to a layer of the encoder.

    The row sums of the Hessians of all latents are added up, by learned weights if that is asked for, scaled to a mean
    square of 1 in each image (raw ones are 1e-5 and smaller) and put through ``Attention``; its features are added to
    the last layer but one of the decoder.

    Args:
        target: of the derivatives: "mean" of the code, a "sample" (with ReLU the only one that is not 0), or "sigma",
            the sample for noise of 1.
        layer: number of the encoder's layer, 1 to 3; the third is enlarged to the image.
        aggregation: "convolution" with learned weights, "add" or "mean".
        fusion: what the decoder sees: "published", the features; "none"; "gated", the features times a learned number
            that begins at 0; "dropout", those of half of each batch in training; "pooled", those of derivatives that
            are averaged to 7 by 7 places; "detached", the features, without a gradient to the encoder.
        resolution: of the attention, "half" or "full".
        others: see ``Vae``.

    Raises:
        UserError: as ``Vae``; if the derivatives are 0 everywhere.
    """

    mean_features: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        latents: int,
        activation: str,
        *,
        target: str,
        layer: int,
        aggregation: str,
        fusion: Fusion,
        resolution: str,
    ) -> None:
        super().__init__(shape, latents, activation)
        if activation == "relu" and target == "mean":
            raise UserError(
                "with ReLU the second derivative of the mean is 0 everywhere: choose model.activation=silu, or "
                "model.target=sample or sigma"
            )
        self.target, self.layer, self.aggregation, self.fusion = target, layer, aggregation, fusion
        self.attention = Attention(DEEP if layer == 3 else FILTERS, shape[0], activation, resolution == "half")
        self.weights = nn.Parameter(torch.ones(1, latents)) if aggregation == "convolution" else None
        self.gate = nn.Parameter(torch.zeros(())) if fusion == "gated" else None
        self.register_buffer("mean_features", torch.zeros(FILTERS, *shape[1:]))

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Decoded:
        code, features, picture = self.attend(image, noise)
        if self.training:
            self._remember(features)
        latents = code.mean if noise is None else code.drawn(noise)
        return Decoded(self.out(self.fused(self.penultimate(latents), features)), code, picture)

    def attend(self, image: Tensor, noise: Tensor | None = None) -> tuple[Code, Tensor, Tensor]:
        """The code of images, and the features and the picture of their attention."""
        code, curvature = self.curvature(image, noise)
        return (code, *self.attention(self._scaled(curvature)))

    def curvature(self, image: Tensor, noise: Tensor | None = None) -> tuple[Code, Tensor]:
        """The code of images, and the row sums of its Hessians, [B, F, h, w] of the layer."""
        layer = self.layer_of(image)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.fusion != "detached"):
            found, hidden = row_sums_of_chain(
                (self.conv2, self.conv3, self.dense)[self.layer - 1 :],
                self.activation,
                lambda values: self._weighted(self._target(self.coded(values), noise)),
                layer,
            )
        code = self.encode_from(layer, self.layer) if self.fusion == "detached" else self.coded(hidden)
        return code, found

    def _weighted(self, latents: Tensor) -> Tensor:
        if self.weights is not None:
            return latents * self.weights
        return latents / self.latents if self.aggregation == "mean" else latents

    def layer_of(self, image: Tensor) -> Tensor:
        layer = self.layers(image)
        for conv in (self.conv2, self.conv3)[: self.layer - 1]:
            layer = self.act(conv(layer))
        return layer

    def latents_of(self, layer: Tensor) -> Tensor:
        return self._target(self.encode_from(layer, self.layer), None)

    def decoded(self, latents: Tensor) -> Tensor:
        """The same, with the features of the attention at their mean over the training."""
        return self.out(self.fused(self.penultimate(latents), self.mean_features[None])).sigmoid()

    def _target(self, code: Code, noise: Tensor | None) -> Tensor:
        if self.target == "mean":
            return code.mean
        if self.target == "sigma":
            return code.drawn(torch.ones_like(code.mean))
        return code.drawn(torch.ones_like(code.mean) if noise is None else noise)

    def _scaled(self, curvature: Tensor) -> Tensor:
        curvature = curvature * (curvature.square().mean((1, 2, 3), keepdim=True) + TINY).rsqrt()
        if self.fusion == "pooled":
            curvature = F.adaptive_avg_pool2d(curvature, POOLED)
        size = self.shape[1:]
        return curvature if curvature.shape[2:] == size else F.interpolate(curvature, size, mode="bilinear")

    def fused(self, penultimate: Tensor, features: Tensor) -> Tensor:
        """The decoder's last layer but one with the features [B or 1, 16, H, W] that it may see."""
        if self.fusion == "none":
            return penultimate
        if self.gate is not None:
            features = self.gate * features
        if self.fusion == "dropout" and self.training:
            keep = torch.arange(len(features), device=features.device) % 2  # batches are shuffled
            features = features * keep[:, None, None, None]
        return penultimate + features

    @torch.no_grad()
    def _remember(self, features: Tensor) -> None:
        self.mean_features += MOMENTUM * (features.detach().mean(0) - self.mean_features)


def vae(shape: tuple[int, ...], classes: int, latents: int, activation: str) -> Vae:
    """The model ``vae``; the number of classes plays no role."""
    return Vae(shape, latents, activation)


def grad2vae(shape: tuple[int, ...], classes: int, **options: Any) -> Grad2Vae:
    """The model ``grad2vae``."""
    return Grad2Vae(shape, **options)
