"""Settings of the loggers. Imports neither torch nor the loggers' libraries."""

from dataclasses import dataclass, field

from trust_exp.errors import UserError, check_choice, check_range


@dataclass
class NoLoggerConfig:
    """No learning curves at all; result.json is always written."""

    _target_: str = "trust_exp.loggers.base.RunLogger"
    name: str = "none"


@dataclass
class CsvConfig:
    """Learning curves as a CSV file."""

    _target_: str = "trust_exp.loggers.base.CsvCurves"
    name: str = "csv"


@dataclass
class TensorBoardConfig:
    """Learning curves and final metrics for TensorBoard, and the CSV file."""

    _target_: str = "trust_exp.loggers.tensorboard.TensorBoard"
    name: str = "tensorboard"


@dataclass
class WandbConfig:
    """Learning curves, result and figures in Weights & Biases, and the CSV file."""

    _target_: str = "trust_exp.loggers.wandb.Wandb"
    name: str = "wandb"
    project: str = "trust_exp"
    entity: str | None = None  # None: the account's own
    mode: str = "auto"  # auto: online if there is an API key
    tags: list[str] = field(default_factory=list)  # in addition to method, data set and size
    patience: float = 5.0  # seconds to wait for the server at the start (in parallel with training) and at the end
    system: bool = False  # also log GPU and CPU load

    def __post_init__(self) -> None:
        check_choice("logger.mode", self.mode, ("auto", "online", "offline"))
        check_range("logger.patience", self.patience, above=0)
        for tag in self.tags:
            if not 0 < len(tag) <= 64:
                raise UserError(f"logger.tags must have 1 to 64 characters each, a limit of W&B; got {tag!r}")
