"""What the code of variational autoencoders holds."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from trust_exp.data.batch import Batch, Split
from trust_exp.errors import UserError
from trust_exp.evals.suite import Outcomes, Report, Suite
from trust_exp.explain.curvature import row_sums
from trust_exp.models.vae import Vae
from trust_exp.results.record import Row
from trust_exp.rng import keyed_generator
from trust_exp.viz.contact_sheet import Sheet, Tile, write_contact_sheet
from trust_exp.viz.prototypes import pixels

ACTIVE = 0.01  # variance of a latent's mean over images


class Latents(Suite):
    """The divergence of the codes of normal images from the prior, and how many latents vary with the image.

    A decoder that does not need the code lets both fall to 0. ``response``, ``slope`` and ``bend`` are root mean
    squares over the normal images: of the latents, of the gradient of their sum with respect to the layer, and of the
    row sums of its Hessian. Pictures: samples of the prior, and the second derivatives of single latents, filter by
    filter.

    Args:
        samples: of the prior, for each model.
        latents: whose second derivatives are drawn, from 1; empty: the second and the last.
        pictures: models that have a page of them.

    Source: active latents: Burda et al. 2016, sec. 5.2; figure: Abukmeil et al. 2022, Fig. 3.
    """

    name = "latents"

    def __init__(self, samples: int, latents: Sequence[int], pictures: int) -> None:
        super().__init__()
        self.drawn, self.latents, self.pictures = samples, latents, pictures

    def prepare(self) -> None:
        self.vaes = [module for module in self.context.model.modules() if isinstance(module, Vae)]
        if len(self.vaes) != len(self.context.info.normal):
            raise UserError("eval=latents needs a variational autoencoder for each normal class")
        most = min(vae.latents for vae in self.vaes)
        if beyond := [number for number in self.latents if number > most]:
            raise UserError(f"eval.latents.latents: there is no latent {beyond[0]} among {most}")

    def step(self, batch: Batch) -> Outcomes:
        codes = [vae.encode_from(vae.layers(batch.image)) for vae in self.vaes]
        slopes, bends = zip(*(_derivatives(vae, batch.image) for vae in self.vaes), strict=True)
        return {
            "slope": torch.stack(slopes, dim=1),
            "bend": torch.stack(bends, dim=1),
            "label": batch.label,
            "mean": torch.stack([code.mean for code in codes], dim=1).double(),
            "log_variance": torch.stack([code.log_variance for code in codes], dim=1).double(),
        }

    def finish(self, outcomes: Mapping[Split, Outcomes]) -> Report:
        found, kl, active = outcomes["test"], [], []
        squares: dict[str, list[Tensor]] = {"response": [], "slope": [], "bend": []}
        own = [torch.isin(found["label"], torch.tensor(normal)) for normal in self.context.info.normal]
        for model, normal in enumerate(own):
            mean, log_variance = found["mean"][normal, model], found["log_variance"][normal, model]
            kl.append(float((mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2))
            active.append(int((mean.var(0) > ACTIVE).sum()))
            squares["response"].append(mean.square().mean(1))
            squares["slope"].append(found["slope"][normal, model])
            squares["bend"].append(found["bend"][normal, model])
        count = int(sum(normal.sum() for normal in own))
        how = {"how": "normal test images" + (", mean over the models" if len(own) > 1 else "")}
        rows = [
            Row("latents/divergence", sum(kl) / len(kl), "nats", count, detail=how),
            Row("latents/active", sum(active) / len(active), "latents", count, detail=how),
        ]
        for name, parts in squares.items():
            size = torch.stack([own.mean() for own in parts]).mean().sqrt()
            rows.append(Row(f"latents/{name}", float(size), "", count, detail=how))
        return Report(rows, list(self._figures()) if self.context.rank == 0 else [])

    @torch.no_grad()
    def _figures(self) -> Iterator[Path]:
        context = self.context
        if self.drawn:
            strips = [self._samples(vae, number) for number, vae in enumerate(self.vaes)]
            title = f"{context.method}: samples of the prior"
            yield write_contact_sheet(context.figure("latents_prior"), title, Sheet(strips, self.drawn))
        for number, vae in enumerate(self.vaes[: self.pictures]):
            places = torch.isin(context.data.served_labels("test"), torch.tensor(context.info.normal[number]))
            if places.any():
                page = self._second_derivatives(vae, places.nonzero()[0])
                title = (
                    f"{context.method}: second derivatives of latents, filter by filter; normal: {self._name(number)}"
                )
                yield write_contact_sheet(
                    context.figure(f"latents_curvature_{context.info.normal[number][0]}"), title, page
                )

    def _name(self, model: int) -> str:
        return ", ".join(self.context.info.classes[label] for label in self.context.info.normal[model])

    def _samples(self, vae: Vae, model: int) -> list[Tile]:
        noise = torch.randn(self.drawn, vae.latents, generator=keyed_generator(self.context.seed, "prior", model))
        return [Tile(image, self._name(model)) for image in pixels(vae.decoded(noise.to(self.context.device)))]

    def _second_derivatives(self, vae: Vae, place: Tensor) -> Sheet:
        """A strip of the image, then for each chosen latent one of its filters: grey is 0, black negative."""
        image = self.context.data.samples("test", place).image
        curvature = vae.curvature_of_each(image.to(self.context.device))[0].float().cpu()
        chosen = list(self.latents) or sorted({min(2, vae.latents), vae.latents})
        strips = [[Tile(pixels(image)[0], "image")]]
        for number in chosen:
            own = curvature[number - 1]
            scaled = 0.5 + own / (2 * own.abs().max().clamp(min=torch.finfo(own.dtype).tiny))
            words = (f"z{number} ± {own.abs().max():.0e}", *[""] * (len(own) - 1))
            strips.append([Tile(*tile) for tile in zip(pixels(scaled[:, None]), words, strict=True)])
        return Sheet(strips, 16)


def _derivatives(vae: Vae, image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares of the first and of the second derivatives of the sum of latents, for each image, [B] each."""
    layer = vae.layer_of(image)
    slope = torch.func.grad(lambda values: vae.latents_of(values).sum())(layer)
    bend = row_sums(vae.latents_of, layer)[:, 0]
    return slope.double().square().flatten(1).mean(1), bend.double().square().flatten(1).mean(1)
