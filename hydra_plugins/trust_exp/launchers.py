"""The launchers as Hydra wants them; what they do is in trust_exp.launch."""

from collections.abc import Sequence
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ProcessLauncher(Launcher):
    """One process a job on this machine."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from trust_exp.launch.loader import SweepLoader

        self.config = config
        self.loader = cast(ConfigLoader, SweepLoader(hydra_context.config_loader))
        hydra_context.config_loader = self.loader  # the sweeper composes every job with it, too

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from trust_exp.launch.sweep import launch

        setup_globals()
        return launch(self.queue(), self.options, self.config, self.loader, job_overrides, initial_job_idx)

    def queue(self) -> Any:
        from trust_exp.launch.process import work_through

        return work_through


class SlurmLauncher(ProcessLauncher):
    """Job arrays on a SLURM cluster."""

    def queue(self) -> Any:
        from trust_exp.launch.slurm import work_through

        return work_through
