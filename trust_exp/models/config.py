"""Settings of the project's own networks. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.schema import added_later, reference


@dataclass
class ModelConfig:
    """Fields of all models; unless they say otherwise, they are classifiers of images.

    Anomalies are found in the features of a trained classifier, so classifiers are for them, too.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification", "anomaly")
    gives: ClassVar[tuple[str, ...]] = ("logits",)  # outputs by name; "lipschitz": layers with a known constant

    _target_: str = MISSING
    name: str = MISSING


@dataclass
class NoModelConfig(ModelConfig):
    """No model: for methods that bring their own network."""

    tasks: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[tuple[str, ...]] = ()

    _target_: str = "trust_exp.models.nets.nothing"


@dataclass
class RawPixelsConfig(ModelConfig):
    """No network: the pixels themselves, which need no training."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    gives: ClassVar[tuple[str, ...]] = ("trained",)

    _target_: str = "trust_exp.models.features.pixels"


@dataclass
class CaeModelConfig(ModelConfig):
    """A convolutional autoencoder (Sarafijanovic-Djukic and Davis 2019, baseline)."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    gives: ClassVar[tuple[str, ...]] = ("reconstruction",)

    _target_: str = "trust_exp.models.cae.cae"


@dataclass
class InceptionCaeModelConfig(CaeModelConfig):
    """The same of inception blocks (Sarafijanovic-Djukic and Davis 2019)."""

    _target_: str = "trust_exp.models.cae.inception_cae"


@dataclass
class SvddLenetConfig(CaeModelConfig):
    """The small network of Deep SVDD for MNIST and its decoder (Ruff et al. 2018)."""

    _target_: str = "trust_exp.models.cae.svdd_lenet"


@dataclass
class VaeModelConfig(ModelConfig):
    """A variational autoencoder of 3.25 million parameters at 28x28 (Abukmeil et al. 2022, sec. 4.2)."""

    tasks: ClassVar[tuple[str, ...]] = ("anomaly",)
    gives: ClassVar[tuple[str, ...]] = ("code",)

    _target_: str = "trust_exp.models.vae.vae"
    latents: int = 16
    activation: str = "relu"

    def __post_init__(self) -> None:
        check_range("model.latents", self.latents, least=1)
        check_choice("model.activation", self.activation, ("relu", "silu", "elu", "gelu", "softplus", "tanh"))


@dataclass
class Grad2VaeModelConfig(VaeModelConfig):
    """The same with an attention to second derivatives of the latents, 3.38 million parameters."""

    gives: ClassVar[tuple[str, ...]] = ("code", "attention")

    _target_: str = "trust_exp.models.vae.grad2vae"
    activation: str = "silu"
    target: str = "mean"  # of the derivatives: mean, sample or sigma
    layer: int = 1  # of the encoder
    aggregation: str = "convolution"  # of the latents' derivatives: convolution, add or mean
    fusion: str = "published"  # with the decoder: published, none, gated, dropout, pooled or detached
    resolution: str = "half"  # of the attention; or full, in more than twice the time

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("model.layer", self.layer, least=1, most=3)
        check_choice("model.target", self.target, ("mean", "sample", "sigma"))
        check_choice("model.aggregation", self.aggregation, ("convolution", "add", "mean"))
        check_choice("model.fusion", self.fusion, ("published", "none", "gated", "dropout", "pooled", "detached"))
        check_choice("model.resolution", self.resolution, ("half", "full"))
        if self.activation == "relu" and self.target == "mean":
            raise UserError(
                "with model.activation=relu the second derivative of the mean is 0 everywhere: choose silu, or "
                "model.target=sample or sigma"
            )


@dataclass
class NetConfig(ModelConfig):
    """Fields of the plain networks."""

    gives: ClassVar[tuple[str, ...]] = ("logits", "lipschitz")

    activation: str = "minmax"
    mean: list[float] | None = None  # give both or none: the first layer normalises, and the Lipschitz bound counts it
    std: list[float] | None = None

    def __post_init__(self) -> None:
        check_choice("model.activation", self.activation, ("minmax", "relu"))
        check_normalization(self.mean, self.std)


def check_normalization(mean: list[float] | None, std: list[float] | None) -> None:
    """Raise UserError unless both or neither are given, and ``std`` is positive."""
    if (mean is None) != (std is None):
        raise UserError(f"give both model.mean and model.std, or neither; got {mean} and {std}")
    if std is not None and not all(value > 0 for value in std):
        raise UserError(f"model.std must be positive; got {std}")


@dataclass
class MlpConfig(NetConfig):
    """Fully connected network; the last layer's width is the number of classes."""

    _target_: str = "trust_exp.models.nets.mlp"
    widths: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for width in self.widths:
            check_range("model.widths", width, least=1, most=2**16)


@dataclass
class ConvNetConfig(NetConfig):
    """Plain convolutional network: convolutions, then dense layers."""

    _target_: str = "trust_exp.models.nets.conv_net"
    convs: list[list[int]] = field(default_factory=list)  # [channels, kernel, stride, padding] each
    dense: list[int] = field(default_factory=list)  # without the last layer

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(len(conv) != 4 for conv in self.convs):
            raise UserError(f"model.convs must hold [channels, kernel, stride, padding] each; got {self.convs}")


@dataclass
class DeepNetConfig(ModelConfig):
    """Fields of the networks whose Lipschitz constant is unknown."""

    mean: list[float] | None = None  # of the pixels; the first layer normalises by mean and std
    std: list[float] | None = None

    def __post_init__(self) -> None:
        check_normalization(self.mean, self.std)


@dataclass
class PreActResNetConfig(DeepNetConfig):
    """PreActResNet-18 (Losch 2024, ch. 3; He 2016)."""

    _target_: str = "trust_exp.models.preact_resnet.preact_resnet18"
    widths: list[int] = field(default_factory=lambda: [128, 256, 512, 512])
    project: str = "every_block"  # which shortcuts are convolutions; usually where_needed

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.widths) != 4:
            raise UserError(f"model.widths must hold one width for each of the four stages; got {self.widths}")
        for width in self.widths:
            check_range("model.widths", width, least=1, most=2**16)
        check_choice("model.project", self.project, ("every_block", "where_needed"))


@dataclass
class WideResNetConfig(DeepNetConfig):
    """WRN-depth-width (Zagoruyko & Komodakis 2016)."""

    _target_: str = "trust_exp.models.wide_resnet.wide_resnet"
    depth: int = 28
    width: int = 10
    activation: str = "relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 10 or (self.depth - 4) % 6:
            raise UserError(f"model.depth must be 6n + 4, such as 10, 28, 34 or 70; got {self.depth}")
        check_range("model.width", self.width, least=1)
        check_choice("model.activation", self.activation, ("relu", "silu"))


@dataclass
class TimmConfig(DeepNetConfig):
    """A model of the timm library; mean and std default to those it was trained with."""

    _target_: str = "trust_exp.models.timm.timm_model"
    architecture: str = MISSING
    pretrained: bool = False
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of timm.create_model
    init: str = added_later("timm")  # initial weights; "released": as in the code of subset adversarial training

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("model.init", self.init, ("timm", "released"))
        if self.pretrained and self.init != "timm":
            raise UserError(f"model.init={self.init} would overwrite pretrained weights; leave out one of the two")


@dataclass
class SourceConfig(ModelConfig):
    """A network that is already trained."""

    source: str | None = reference()  # the run, or a file of weights, which also needs `network`
    network: Any = None  # of a file of weights: +model@model.network=conv_4c3f

    def __post_init__(self) -> None:
        if self.source is None:
            raise UserError(
                f"model={self.name} needs the run to take the network from: source=<its id>, "
                "source='[method=sat,dataset=cifar100]', or source=<a file of weights> +model@model.network=<model>; "
                "or choose a model with trained weights, as model=<a model> checkpoint=<its file of weights>, or "
                "model=timm model.pretrained=true"
            )


@dataclass
class FrozenConfig(SourceConfig):
    """The network of an earlier run without its last layer, frozen, and a new head."""

    _target_: str = "trust_exp.models.frozen.frozen_features"


@dataclass
class TrainedConfig(SourceConfig):
    """The network of an earlier run, as it was trained."""

    _target_: str = "trust_exp.models.trained.trained_network"


@dataclass
class CifarResNetConfig(DeepNetConfig):
    """ResNet for CIFAR of 6n + 2 layers (He 2016, sec. 4.2)."""

    _target_: str = "trust_exp.models.cifar_resnet.cifar_resnet"
    depth: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 8 or (self.depth - 2) % 6:
            raise UserError(f"model.depth must be 6n + 2, such as 20, 32, 44, 56 or 110; got {self.depth}")
