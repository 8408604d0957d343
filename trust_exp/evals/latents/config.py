"""Settings of eval=latents. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.errors import UserError, check_range
from trust_exp.evals.config import EvalConfig


@dataclass
class LatentsConfig(EvalConfig):
    """What the code of a variational autoencoder holds: its divergence, its samples, and where each latent bends."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    needs: ClassVar[tuple[str, ...]] = ("code",)

    _target_: str = "trust_exp.evals.latents.suite.Latents"
    samples: int = 10  # of the prior, for each model, that are drawn; 0: none
    latents: list[int] = field(default_factory=list)  # whose second derivatives are drawn, from 1; []: second and last
    pictures: int = 10  # models that have a page of second derivatives, the first ones; 0: none

    def __post_init__(self) -> None:
        check_range("eval.latents.samples", self.samples, least=0)
        check_range("eval.latents.pictures", self.pictures, least=0)
        if any(number < 1 for number in self.latents):
            raise UserError(f"eval.latents.latents are counted from 1; got {self.latents}")
