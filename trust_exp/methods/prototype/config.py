"""Settings of prototypes for trained classifiers. Imports no torch."""

from dataclasses import dataclass, field
from typing import ClassVar

from trust_exp.errors import UserError, check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig
from trust_exp.models.prototype_options import PrototypeOptions
from trust_exp.schema import outside_identity


@dataclass
class ProtoNmfConfig(MethodConfig, PrototypeOptions):
    """Prototypes of each class by NMF of its features, and the head as a sum of them (ProtoNMF, 2023)."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "trained")
    gives: ClassVar[tuple[str, ...]] = ("prototypes",)
    node: ClassVar[str] = "method"

    _target_: str = "trust_exp.methods.prototype.module.ProtoNmf"
    fit: str = outside_identity("closed_form")


@dataclass
class ProtoPNetConfig(MethodConfig):
    """Prototypes that are patches of training images; training continues from a trained network (Chen et al. 2019)."""

    needs: ClassVar[tuple[str, ...]] = ("logits", "trained")
    gives: ClassVar[tuple[str, ...]] = ("patches",)

    _target_: str = "trust_exp.methods.prototype.protopnet.ProtoPNetTraining"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # lr is the network's; no schedule
    per_class: int = 10  # prototypes
    width: int = 128  # of the features and prototypes
    warm: int = 5  # lengths of the stages, relative to each other; epochs, if they add up to fit.epochs
    joint: int = 10
    last: int = 20  # warm + cycles * (joint + last) is the whole training
    cycles: int = 3
    lr_new: float = 3e-3  # of the new layers and the prototypes
    lr_last: float = 1e-4
    decay_every: int = 5  # lengths of joint training after which optimizer.lr and lr_new are multiplied by gamma
    cluster: float = 0.8  # weights of the losses
    separation: float = 0.08
    others: float = 1e-4  # of connections to prototypes of other classes

    def __post_init__(self) -> None:
        for key in ("per_class", "width", "joint", "last", "cycles", "decay_every"):
            check_range(f"method.{key}", getattr(self, key), least=1)
        for key in ("warm", "cluster", "separation", "others"):
            check_range(f"method.{key}", getattr(self, key), least=0)
        for key in ("lr_new", "lr_last"):
            check_range(f"method.{key}", getattr(self, key), above=0)
        given = {"milestones": [], "schedule": "steps", "warmup": 0.0}
        if idle := [key for key, initial in given.items() if getattr(self.optimizer, key) != initial]:
            raise UserError(
                f"method.optimizer.{idle[0]} has no effect here: method.decay_every sets when the learning rate falls"
            )
