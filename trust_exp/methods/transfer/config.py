"""Settings of the transfer to another task. Imports no torch."""

from dataclasses import dataclass, field

from trust_exp.errors import check_range
from trust_exp.methods.config import MethodConfig, OptimizerConfig


@dataclass
class TransferConfig(MethodConfig):
    """A new head on frozen features (Losch 2024, sec. 3.3.4); model=frozen provides the features."""

    _target_: str = "trust_exp.methods.transfer.module.Transfer"
    cached_copies: int = 0  # augmented copies of each image whose features are cached; 0: new copies every epoch
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        check_range("method.cached_copies", self.cached_copies, least=0)
