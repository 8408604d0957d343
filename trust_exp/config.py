"""The schema of a whole run. Imports no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from trust_exp.errors import UserError, check_choice, check_range
from trust_exp.schema import added_later, outside_identity, reference

FIGURES = ("png", "pdf", "svg")  # the formats of figures


@dataclass
class WatchConfig:
    """Evals asked while a network is trained; they choose nothing and change nothing."""

    metrics: list[str] = MISSING  # of chosen evals, without the split: clean/accuracy
    every: int = 1  # epochs; the end of the training is always looked at
    split: str = "auto"  # val where the data have one, else test
    figures: bool = False  # keep what the evals draw, in figures/watch/<epoch>

    def __post_init__(self) -> None:
        check_range("fit.watch.every", self.every, least=1)
        check_choice("fit.watch.split", self.split, ("auto", "val", "test"))
        if not self.metrics or not all("/" in metric for metric in self.metrics):
            raise UserError(f"fit.watch.metrics must name metrics such as clean/accuracy; got {self.metrics}")


@dataclass
class FitConfig:
    """How long to train, and how often to save and to log."""

    epochs: int | None = None
    steps: int | None = None
    gradient_clip: float | None = None
    checkpoint_seconds: float = outside_identity(30.0)
    log_every: int = outside_identity(50)
    watch: WatchConfig | None = outside_identity(None)

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise UserError(
                f"give one of fit.epochs and fit.steps; got epochs={self.epochs} and steps={self.steps}: "
                "fit.epochs=null counts steps, fit.steps=null epochs"
            )
        for name in ("epochs", "steps", "log_every"):
            check_range(f"fit.{name}", getattr(self, name), least=1)
        check_range("fit.gradient_clip", self.gradient_clip, above=0)
        check_range("fit.checkpoint_seconds", self.checkpoint_seconds, least=0)


@dataclass
class AcceleratorConfig:
    """Where a run runs; what changes the numbers is part of the identity."""

    kind: str = outside_identity("auto")
    devices: int = outside_identity(1)
    nodes: int = outside_identity(1)
    precision: str = "32-true"
    compile: bool = outside_identity(False)
    channels_last: bool = outside_identity(False)
    sync_batchnorm: bool = added_later(False)  # batch norm over all processes: as on one GPU
    threads: int | None = outside_identity(None)  # of the CPU; None: one a core. Tiny networks are fastest with 1

    def __post_init__(self) -> None:
        check_choice("accelerator.kind", self.kind, ("auto", "cpu", "gpu"))
        check_choice("accelerator.precision", self.precision, ("32-true", "bf16-mixed", "16-mixed"))
        check_range("accelerator.devices", self.devices, least=1)
        check_range("accelerator.nodes", self.nodes, least=1)
        check_range("accelerator.threads", self.threads, least=1)


@dataclass
class PathsConfig:
    """Where data are read and runs are written; nothing else is written."""

    data: str = "${oc.env:TRUST_EXP_DATA,data}"
    runs: str = "${oc.env:TRUST_EXP_RUNS,multirun}"

    def __post_init__(self) -> None:
        self.data = str(Path(self.data).expanduser().resolve())  # a run knows where its data are, wherever it is asked


@dataclass
class PaperConfig:
    """A paper's numbers for the run: a row of ``experiments/``. ``values`` are in the units of the metrics."""

    row: str = MISSING  # as the paper calls it
    group: str | None = None  # the part of the table it stands in; in a figure its panel
    curve: str | None = None  # in a figure: the curve that it is a point of
    x: Any = None  # where on it, a number or a name; None: a level across the panel
    values: dict[str, Any] = field(default_factory=dict)  # metric -> number, or the numbers of each seed
    note: str | None = None


@dataclass
class RootConfig:
    """A whole run. The parts of type Any are checked by the schema that their file names."""

    mode: str = outside_identity("train")
    run: str | None = outside_identity(None)
    force: bool = outside_identity(False)
    seed: int = 0
    size: str = MISSING
    source: str | None = reference(came_late=True)  # the run that this one builds on: an id, a path, '[overrides]'
    checkpoint: str | None = reference(came_late=True)  # weights that the model starts from: a file, or a run
    recipe: str | None = outside_identity(None)  # where the settings come from
    recipe_for: list[str] | None = outside_identity(None)  # the models that they are for
    paths: PathsConfig = outside_identity(PathsConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    accelerator: AcceleratorConfig = field(default_factory=AcceleratorConfig)
    logger: Any = outside_identity(None)
    figures: str = outside_identity("png")  # the format of what evals and methods draw
    sweep: str | None = outside_identity(None)  # the name of the sweep that started the run
    objective: list[str] | None = outside_identity(None)  # metrics that a sweeper such as Optuna optimises
    paper: PaperConfig | None = outside_identity(None)
    method: Any = MISSING
    model: Any = MISSING
    dataset: Any = MISSING
    eval: Any = outside_identity(None)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("train", "eval"))
        check_range("seed", self.seed, least=0, most=2**32 - 1)
        check_choice("figures", self.figures, FIGURES)
        if self.mode == "eval" and self.run is None:
            raise UserError("mode=eval needs run=<id>: the run to evaluate")
        if self.mode == "train" and self.run is not None:
            raise UserError(f"run={self.run} names an earlier run; to evaluate it, add mode=eval")
