"""Settings of the project's own networks. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range


@dataclass
class NetConfig:
    """What the project's own networks share."""

    _target_: str = MISSING
    name: str = MISSING
    activation: str = "minmax"
    mean: list[float] | None = None  # both given: the first layer normalises, and the Lipschitz bound knows it
    std: list[float] | None = None

    def __post_init__(self) -> None:
        check_choice("model.activation", self.activation, ("minmax", "relu"))
        check_normalization(self.mean, self.std)


def check_normalization(mean: list[float] | None, std: list[float] | None) -> None:
    """Raise UserError unless both are given or none, and ``std`` is positive."""
    if (mean is None) != (std is None):
        raise UserError(f"give both of model.mean and model.std, or none; got {mean} and {std}")
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
            check_range("model.widths", width, least=1)


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
class TimmConfig:
    """A model of the timm library."""

    _target_: str = "trust_exp.models.timm.timm_model"
    name: str = MISSING
    architecture: str = MISSING
    pretrained: bool = False
    mean: list[float] | None = None  # of the pixels, taken off by the first layer; None: the model's own
    std: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)  # further ones of timm.create_model

    def __post_init__(self) -> None:
        check_normalization(self.mean, self.std)
