"""Makes the rows under experiments/ a group of Hydra: ``-m '+experiments/cll/table_4_2=glob(*)'``."""

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.search_path_plugin import SearchPathPlugin

from trust_exp.config import ROOT

GROUP = "experiments"


class ExperimentsSource(FileConfigSource):
    """Of a folder only ``experiments`` in it, and this not listed: --help walks all groups, here the whole checkout."""

    @staticmethod
    def scheme() -> str:
        return GROUP

    def is_group(self, config_path: str) -> bool:
        return config_path.split("/")[0] in ("", GROUP) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return config_path.startswith(f"{GROUP}/") and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return super().list(config_path, results_filter) if config_path else []


class Experiments(SearchPathPlugin):
    """The checkout's experiments, after everything else."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("trust_exp", f"{GROUP}://{ROOT}")
