"""Settings of the launchers. Imports no torch."""

from dataclasses import dataclass, field
from typing import Any

from trust_exp.errors import UserError, check_range

PLUGINS = "hydra_plugins.trust_exp.launchers"


@dataclass
class ProcessLauncherConfig:
    """One process per job on this machine, ``workers`` at a time."""

    _target_: str = f"{PLUGINS}.ProcessLauncher"
    workers: int | None = (
        None  # jobs at the same time; None: one per set of GPUs, without GPUs as many as the cores allow
    )
    gpus: list[str] | None = None  # sets of GPUs, such as [0,1] or ["0,1","2,3"]; None: all GPUs
    timeout_min: float | None = None  # time limit of one try
    retries: int = 0  # how often a failed job is retried, from its last checkpoint
    grace_s: float = 30.0  # time to write a checkpoint when a job is stopped

    def __post_init__(self) -> None:
        check_range("hydra.launcher.workers", self.workers, least=1)
        if self.gpus == []:
            raise UserError("hydra.launcher.gpus names no set of GPUs; accelerator=cpu uses none")
        check_range("hydra.launcher.timeout_min", self.timeout_min, above=0)
        check_range("hydra.launcher.retries", self.retries, least=0)
        check_range("hydra.launcher.grace_s", self.grace_s, least=0)


@dataclass
class SlurmLauncherConfig:
    """Job arrays on a SLURM cluster. Nodes, tasks and GPUs come from ``accelerator``."""

    _target_: str = f"{PLUGINS}.SlurmLauncher"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    nodelist: str | None = None
    comment: str | None = None
    timeout_min: int = 240
    array_parallelism: int = 32  # jobs of one array that run at the same time
    cpus_per_task: int = 4
    mem_gb: float | None = None
    signal_delay_s: int = 180  # how long before the time limit SLURM signals; must be enough to write a checkpoint
    max_num_timeout: int = 5  # how often a job that timed out is requeued
    setup: list[str] = field(default_factory=list)  # shell lines to run before the job, such as module loads
    srun_args: list[str] = field(default_factory=list)
    additional_parameters: dict[str, Any] = field(default_factory=dict)  # other #SBATCH options
    poll_s: float = 2.0  # interval between queries of the queue

    def __post_init__(self) -> None:
        for name in ("timeout_min", "array_parallelism", "cpus_per_task"):
            check_range(f"hydra.launcher.{name}", getattr(self, name), least=1)
        check_range("hydra.launcher.mem_gb", self.mem_gb, above=0)
        check_range("hydra.launcher.poll_s", self.poll_s, above=0)
        for name in ("signal_delay_s", "max_num_timeout"):
            check_range(f"hydra.launcher.{name}", getattr(self, name), least=0)
