"""Settings of a network that is given. Imports no torch."""

from dataclasses import dataclass
from typing import ClassVar

from trust_exp.methods.config import MethodConfig
from trust_exp.schema import outside_identity


@dataclass
class GivenConfig(MethodConfig):
    """A trained network as it is: that of a run, of a file of weights, or pretrained."""

    tasks: ClassVar[tuple[str, ...]] = ("any",)
    needs: ClassVar[tuple[str, ...]] = ("trained",)

    _target_: str = "trust_exp.methods.given.module.Given"
    fit: str = outside_identity("none")
