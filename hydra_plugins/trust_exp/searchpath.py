"""Makes the rows under experiments/ a group of Hydra: ``-m '+experiments/cll/table_4_2=glob(*)'``."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from trust_exp.config import ROOT


class Experiments(SearchPathPlugin):
    """The checkout's root, after everything else."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("trust_exp", f"file://{ROOT}")
