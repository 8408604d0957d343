"""Settings of one-class anomaly detection. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig
from trust_exp.schema import added_later, outside_identity


@dataclass
class OneClassConfig(MethodConfig):
    """Fields of the methods that train a model of normal images by gradients."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    gives: ClassVar[tuple[str, ...]] = ("scores", "maps")

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    ensemble: str = added_later("in_turn")  # models of several classes; together: stacked, for GPUs

    def __post_init__(self) -> None:
        check_choice("method.ensemble", self.ensemble, ("in_turn", "together"))


@dataclass
class CaeConfig(OneClassConfig):
    """An autoencoder of normal images; the score is the error of the reconstruction."""

    needs: ClassVar[tuple[str, ...]] = ("reconstruction",)

    _target_: str = "trust_exp.methods.anomaly.cae.CaeTraining"


@dataclass
class CaeOcsvmConfig(CaeConfig):
    """A one-class support vector machine on the codes of an autoencoder (Schoelkopf et al. 2001)."""

    _target_: str = "trust_exp.methods.anomaly.cae.CaeOcsvm"
    nu: float = 0.5  # fraction of normal samples that may lie outside

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("method.nu", self.nu, above=0, most=1)


@dataclass
class InceptionCaeConfig(CaeConfig):
    """The nearest neighbour among pooled codes of an autoencoder (Sarafijanovic-Djukic and Davis 2019)."""

    _target_: str = "trust_exp.methods.anomaly.cae.CaeNearest"


@dataclass
class DeepSvddConfig(OneClassConfig):
    """The distance of codes to the centre of normal ones, after an autoencoder (Ruff et al. 2018)."""

    needs: ClassVar[tuple[str, ...]] = ("reconstruction",)
    gives: ClassVar[tuple[str, ...]] = ("scores",)

    _target_: str = "trust_exp.methods.anomaly.svdd.DeepSvdd"
    boundary: str = "hard"  # mean distance to the centre; or soft, a sphere that a fraction nu may leave
    nu: float = 0.1
    pretraining: float = 0.5  # fraction of the training in which the autoencoder is trained
    pretraining_weight_decay: float = 0.0
    radius_from: float = 0.0  # soft: fraction of what follows in which the radius stays 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.boundary", self.boundary, ("hard", "soft"))
        check_range("method.nu", self.nu, above=0, most=1)
        check_range("method.pretraining", self.pretraining, least=0, most=0.99)
        check_range("method.pretraining_weight_decay", self.pretraining_weight_decay, least=0)
        check_range("method.radius_from", self.radius_from, least=0, most=1)


@dataclass
class VaeConfig(OneClassConfig):
    """A variational autoencoder of normal images; the score is the error of the reconstruction."""

    needs: ClassVar[tuple[str, ...]] = ("code",)

    _target_: str = "trust_exp.methods.anomaly.autoencoders.VaeTraining"
    loss: str = "bce"  # of pixels, summed over an image; or mse
    kl: str = "sum"  # over latents, as the evidence bound has it; or mean, as the authors' code of a sister paper
    beta: float = 1.0  # weight of the divergence
    draws: int = 4  # of latents for the evidence bound as a score
    bound: str = added_later("elbo")  # or importance: weighted draws (Burda et al. 2016)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("method.loss", self.loss, ("bce", "mse"))
        check_choice("method.kl", self.kl, ("sum", "mean"))
        check_range("method.beta", self.beta, least=0)
        check_range("method.draws", self.draws, least=1)
        check_choice("method.bound", self.bound, ("elbo", "importance"))


@dataclass
class Grad2VaeConfig(VaeConfig):
    """A VAE whose decoder sees second derivatives of its latents (Abukmeil et al. 2022)."""

    needs: ClassVar[tuple[str, ...]] = ("code", "attention")

    _target_: str = "trust_exp.methods.anomaly.autoencoders.Grad2VaeTraining"
    attention: float = 1.0  # weight of the reconstruction by the attention alone, Eq. 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("method.attention", self.attention, least=0)


@dataclass
class MemoryConfig(MethodConfig):
    """Fields of the methods that keep what normal features are like; nothing is trained by gradients."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    needs: ClassVar[tuple[str, ...]] = ("trained",)
    gives: ClassVar[tuple[str, ...]] = ("scores",)

    fit: str = outside_identity("closed_form")


@dataclass
class NearestConfig(MemoryConfig):
    """The mean distance to the nearest normal samples, of pixels or of a network's pooled features."""

    _target_: str = "trust_exp.methods.anomaly.module.Nearest"
    neighbours: int = 1

    def __post_init__(self) -> None:
        check_range("method.neighbours", self.neighbours, least=1)


@dataclass
class PatchCoreConfig(MemoryConfig):
    """The distance of patches to normal ones, of which a few that cover all are kept (Roth et al. 2022)."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "trained")
    gives: ClassVar[tuple[str, ...]] = ("scores", "maps")

    _target_: str = "trust_exp.methods.anomaly.patchcore.PatchCore"
    layers: list[str] = field(default_factory=lambda: ["stage3", "stage4"])  # of a ResNet of timm: layer2, layer3
    neighbourhood: int = 3  # a patch is the mean of so many places in both directions
    coreset: float = 0.1  # fraction of the normal patches that is kept
    projection: int = 128  # random directions in which the coreset is searched; 0: all of them
    distance: str = "l2"  # or cosine
    image_score: str = "reweighted"  # of the patches of an image: reweighted, largest, or worst: mean of the worst 1 %
    smooth: float = 4.0  # of maps, standard deviation in pixels

    def __post_init__(self) -> None:
        check_choice("method.distance", self.distance, ("l2", "cosine"))
        check_choice("method.image_score", self.image_score, ("reweighted", "largest", "worst"))
        check_range("method.coreset", self.coreset, above=0, most=1)
        check_range("method.projection", self.projection, least=0)
        check_range("method.smooth", self.smooth, least=0)
        check_range("method.neighbourhood", self.neighbourhood, least=1)
        if self.neighbourhood % 2 == 0:
            raise UserError(f"method.neighbourhood must be odd; got {self.neighbourhood}")
        if not self.layers:
            raise UserError("method.layers must name at least one layer")


@dataclass
class PcaConfig(MemoryConfig):
    """The squared distance to the subspace in which normal samples vary most."""

    _target_: str = "trust_exp.methods.anomaly.module.Pca"
    directions: int = 32

    def __post_init__(self) -> None:
        check_range("method.directions", self.directions, least=1)
