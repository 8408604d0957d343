"""Autoencoders of normal images as methods: what is lost in them is anomalous."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trust_exp.data.batch import DatasetInfo
from trust_exp.methods.anomaly.core import divergence, importance_bound, log_ratio, pixel_error
from trust_exp.methods.anomaly.training import OneClass, OneClassTraining
from trust_exp.models.vae import Decoded, Grad2Vae, Vae
from trust_exp.rng import keyed_generator


class VaeScores(nn.Module):
    """A VAE and the scores of images by it.

    ``scores``: mean squared error of the reconstruction, the code at its mean; ``scores_elbo``: the negative evidence
    bound in nats; ``scores_latent``: squared length of the code's mean. ``maps`` [B, H, W] are errors of pixels,
    ``attention_offline`` [B, H, W] is that of Liu et al. 2020.

    Args:
        draws: of latents for the evidence bound, the same for all images.
        bound: "elbo", or "importance" for the tighter one of importance weights.
    """

    def __init__(self, vae: Vae, loss: str, draws: int, bound: str) -> None:
        super().__init__()
        self.vae, self.loss, self.bound = vae, loss, bound
        noise = torch.randn(draws, vae.latents, generator=keyed_generator("elbo"))
        self.register_buffer("draws", noise, persistent=False)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.vae(image)
        rebuilt = found.pixels.sigmoid()
        errors = (rebuilt - image).square()
        return {
            "scores": errors.mean((1, 2, 3)),
            "scores_elbo": self._bound(image, found),
            "scores_latent": found.code.mean.square().sum(1),
            "maps": errors.mean(1),
            "attention_offline": self.vae.offline_attention(image),
            "reconstruction": rebuilt,
            **self.further(image, found),
        }

    def _bound(self, image: Tensor, found: Decoded) -> Tensor:
        """The negative bound of the evidence of images, in nats, [B]."""
        decode, draws, code = self.decoder(image), [], found.code
        for noise in self.draws:  # type: ignore[union-attr]
            draws.append((pixel_error(decode(code.drawn(noise)), image, self.loss), noise))
        if self.bound == "elbo":
            return torch.stack([error for error, _ in draws]).mean(0) + divergence(*code)
        return importance_bound(torch.stack([error + log_ratio(*code, noise) for error, noise in draws]))

    def decoder(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Maps latents of these images to the decoder's pixels, before the sigmoid."""
        return lambda latents: self.vae.out(self.vae.penultimate(latents))

    def further(self, image: Tensor, found: Decoded) -> dict[str, Tensor]:
        """Scores that only some models have."""
        return {}


class Grad2VaeScores(VaeScores):
    """Also ``scores_attention``, the error of what the attention alone rebuilds, and ``scores_mean_attention``.

    The latter is the error of the reconstruction with the features of the attention at their mean over the training, so
    that they cannot carry an anomaly around the code.
    """

    vae: Grad2Vae

    def decoder(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        _, features, _ = self.vae.attend(image)  # once for all draws: it takes longer than the decoder
        return lambda latents: self.vae.out(self.vae.fused(self.vae.penultimate(latents), features))

    def further(self, image: Tensor, found: Decoded) -> dict[str, Tensor]:
        vae = self.vae
        picture = found.attention.sigmoid()  # type: ignore[union-attr]
        blind = vae.decoded(found.code.mean)
        return {
            "scores_attention": (picture - image).square().mean((1, 2, 3)),
            "scores_mean_attention": (blind - image).square().mean((1, 2, 3)),
            "attention": picture.mean(1),
        }


class VaeTraining(OneClassTraining):
    """Evidence bound of the normal images."""

    def __init__(
        self,
        model: OneClass,
        info: DatasetInfo,
        *,
        loss: str,
        kl: str,
        beta: float,
        draws: int,
        bound: str,
        **shared: Any,
    ) -> None:
        super().__init__(model, info, **shared)
        self.error, self.kl, self.beta = loss, kl, beta

    @classmethod
    def scorer(cls, model: Any, options: Mapping[str, Any]) -> VaeScores:
        return VaeScores(model, options["loss"], options["draws"], options["bound"])

    def further(self, number: int, samples: int) -> tuple[Tensor, ...]:
        return (self.noise(number, samples, self.model.members[number].vae.latents),)  # type: ignore[union-attr, arg-type]

    def loss(self, member: VaeScores, image: Tensor, noise: Tensor, *, stage: int) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[override]
        return self.of(member.vae(image, noise), image)

    def of(self, found: Decoded, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of what the network gives, and its parts."""
        error = pixel_error(found.pixels, image, self.error).mean()
        kl = divergence(*found.code).mean()
        weight = self.beta / found.code.mean.shape[1] if self.kl == "mean" else self.beta
        return error + weight * kl, {"error": error, "kl": kl}


class Grad2VaeTraining(VaeTraining):
    """The same and the reconstruction by the attention alone (Abukmeil et al. 2022, Eq. 3)."""

    def __init__(self, model: OneClass, info: DatasetInfo, *, attention: float, **others: Any) -> None:
        super().__init__(model, info, **others)
        self.attention = attention

    @classmethod
    def scorer(cls, model: Any, options: Mapping[str, Any]) -> Grad2VaeScores:
        return Grad2VaeScores(model, options["loss"], options["draws"], options["bound"])

    def of(self, found: Decoded, image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, parts = super().of(found, image)
        attention = pixel_error(found.attention, image, self.error).mean()  # type: ignore[arg-type]
        return loss + self.attention * attention, {**parts, "attention": attention}
