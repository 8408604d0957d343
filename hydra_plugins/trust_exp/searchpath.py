"""Makes the rows under experiments/ a group of Hydra: ``-m '+experiments/cll/table_4_2=glob(*)'``.

And all files of ``conf/eval/size/smoke`` one choice: ``eval/size=smoke``.
"""

from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from trust_exp.results import series
from trust_exp.schema import CONF, ROOT
from trust_exp.tasks import task_of

GROUP = "experiments"
EVAL_SIZES = "eval/size"


class ExperimentsSource(FileConfigSource):
    """Of a folder only ``experiments`` in it, and this not listed: --help walks all groups, here the whole checkout.

    A file there may be a series of rows (``trust_exp.results.series``); then its rows are configs, and it is not.
    """

    @staticmethod
    def scheme() -> str:
        return GROUP

    def is_group(self, config_path: str) -> bool:
        return config_path.split("/")[0] in ("", GROUP) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return config_path.startswith(f"{GROUP}/") and self._find(config_path) is not None

    def load_config(self, config_path: str) -> ConfigResult:
        found = self._find(config_path)
        if found is None:
            raise ConfigLoadError(f"Config not found : {config_path}")
        path, content = found
        header = self._get_header_dict(path.read_text(encoding="utf-8")[:512])
        place = f"{self.scheme()}://{self.path}"
        return ConfigResult(
            config=OmegaConf.create(_with_task(content)), path=place, provider=self.provider, header=header
        )

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        if not config_path:
            return []
        found = super().list(config_path, ObjectType.GROUP) if results_filter != ObjectType.CONFIG else []
        if results_filter != ObjectType.GROUP:
            found += [name for _, name, _ in series.rows_in(Path(self.path) / config_path)]
        return sorted(set(found))

    def _find(self, config_path: str) -> tuple[Path, series.Content] | None:
        path = Path(self.path) / config_path.removesuffix(".yaml")
        return series.find_row(path.parent, path.name)


def _with_task(content: series.Content) -> series.Content:
    """A row with the task that its data set's values set as a choice, as Hydra chooses files before it reads values."""
    task = task_of(content.get("dataset") or {})
    if task is None or "task" in series.choices(content):
        return content
    return {**content, "defaults": [{"override /task": task}, *content.get("defaults", ["_self_"])]}


class EvalSizesSource(FileConfigSource):
    """Of each size the values of all evals: a choice of ``eval/size`` that consists of the files in its folder."""

    @staticmethod
    def scheme() -> str:
        return "eval_sizes"

    def is_group(self, config_path: str) -> bool:
        return False

    def is_config(self, config_path: str) -> bool:
        folder, _, size = config_path.removesuffix(".yaml").rpartition("/")
        return folder == EVAL_SIZES and bool(size) and (Path(self.path) / folder / size).is_dir()

    def load_config(self, config_path: str) -> ConfigResult:
        place = config_path.removesuffix(".yaml")
        evals = sorted(path.stem for path in (Path(self.path) / place).glob("*.yaml"))
        config = OmegaConf.create({"defaults": [f"/{place}/{name}" for name in evals]})
        header: dict[str, str | None] = {"package": "_global_"}
        return ConfigResult(config=config, path=f"{self.scheme()}://{place}", provider=self.provider, header=header)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return []


class SearchPath(SearchPathPlugin):
    """The evals' values for sizes, and the checkout's experiments, after everything else."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("trust_exp", f"{EvalSizesSource.scheme()}://{CONF}")
        search_path.append("trust_exp", f"{GROUP}://{ROOT}")
