"""What several tests need: the real data beside the checkout, composed configurations, and the command line."""

import io
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig, base, grammar_parser
from omegaconf import _utils as omegaconf_utils
from omegaconf.resolvers import oc

from tests.chosen import plain_method
from tests.waiting import PATIENCE
from trust_exp import compose
from trust_exp.compose import check, register
from trust_exp.identity import folder_name
from trust_exp.launch.loader import SweepLoader
from trust_exp.results import composing
from trust_exp.results.record import Record
from trust_exp.runs import Run, open_run
from trust_exp.schema import CONF, ROOT

if TYPE_CHECKING:  # what only composes need not wait for torch
    import lightning.pytorch as L

SHARED = ROOT.parent / "shared"

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def read_conf_once() -> Iterator[None]:
    """Hydra reads every file of conf/, and OmegaConf parses every interpolation, once and not at each composition."""
    whole, results = ConfigRepository.load_config, {}

    def load(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        key = (config_path, *(source.path for source in repository.get_sources()))
        if key not in results:
            results[key] = whole(repository, config_path)
        return deepcopy(results[key])

    parsers = [(module, vars(module)["parse"]) for module in (grammar_parser, omegaconf_utils, base, oc)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ConfigRepository, "load_config", load)
        for module, parse in parsers:
            patched.setattr(module, "parse", cache(parse))
        yield


@pytest.fixture(scope="session", autouse=True)
def signals_reach_processes() -> Iterator[None]:
    """Processes of the tests hear signals that these tests ignore, as with nohup or in the background of a script.

    A process inherits that a signal is ignored, but not that it is handled.
    """
    ignored = [number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, lambda *_: None)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Lets arguments of other shapes and types through, to what refuses them."""
    from tests.shapes import unchecked

    with unchecked():
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}")
    return folder


@cache
def sweep_loader() -> tuple[SweepLoader, DictConfig]:
    """Composes what makes the same choices once, as a sweep does: a tenth of the time (tests/launch/test_loader.py)."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = SweepLoader(GlobalHydra.instance().config_loader())
        # the default method of conf/config.yaml may be deleted
        return loader, loader.load_configuration("config", [f"method={plain_method()}"], RunMode.MULTIRUN)


def compose_and_check(runs: Path, *overrides: str) -> dict[str, Any]:
    loader, master = sweep_loader()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(loader.load_sweep_config(master, [f"paths.runs={runs}", *overrides]))


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Compose and check a configuration from overrides."""
    return lambda *overrides: compose_and_check(tmp_path, *overrides)


@pytest.fixture(scope="session")
def composed_in() -> Callable[..., dict[str, Any]]:
    """The same for fixtures that outlive a test; the first argument is the folder of the runs."""
    return compose_and_check


def store_run(config: dict[str, Any]) -> Run:
    """A run as it lies there when it is done, with the weights that its network starts from; nothing is trained."""
    import torch

    from trust_exp.build import build
    from trust_exp.networks import make_network

    info = build(config["dataset"], name=config["dataset"]["name"], root=config["paths"]["data"], seed=0).info
    run = open_run(config, Path(config["paths"]["runs"]) / folder_name(config), [])
    with torch.random.fork_rng():
        torch.manual_seed(int(run.id, 16))  # other runs have other weights
        network = make_network(config, info)
    if config["method"]["fit"] == "none":
        run.given.touch()
    else:
        torch.save({"state_dict": network.state_dict()}, run.weights)
    record = Record(run, config)
    record.values.update(classes=len(info.classes), input_shape=list(info.shape))
    record.write(status="done")
    return run


@pytest.fixture(scope="session")
def stored() -> Callable[[dict[str, Any]], Run]:
    """Stores the run of a checked configuration without training it."""
    return store_run


@cache
def compose_once(overrides: tuple[str, ...]) -> DictConfig:
    return compose.composed(overrides)


@pytest.fixture
def rows_composed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that are filled again and again compose each of their rows once."""
    monkeypatch.setattr(composing, "composed", lambda overrides: compose_once(tuple(overrides)))


@pytest.fixture(scope="session")
def quiet_trainer(tmp_path_factory: pytest.TempPathFactory) -> "Callable[..., L.Trainer]":
    """A Trainer on the CPU that says nothing and writes nowhere else; takes further arguments of it."""
    import lightning.pytorch as L

    folder = tmp_path_factory.mktemp("trainer")
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return lambda **given: L.Trainer(
        accelerator="cpu", use_distributed_sampler=False, default_root_dir=folder, **silent, **given
    )


LOOK = """
import json, runpy, sys
for command in json.loads(sys.argv[1]):
    sys.argv = command
    try:
        run = runpy.run_path if command[0].endswith(".py") else runpy.run_module
        run(command[0], run_name="__main__")
    except SystemExit:
        pass
    print("imported:", json.dumps([" ".join(command), list(sys.modules)]))
"""


@pytest.fixture(scope="session")
def imported_by() -> Callable[..., dict[str, set[str]]]:
    """The modules that are imported after each of some commands, carried out one after the other in a new process."""

    def look(*commands: list[str]) -> dict[str, set[str]]:
        asked = [sys.executable, "-c", LOOK, json.dumps(commands)]
        process = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        lines = [line.removeprefix("imported:") for line in process.stdout.splitlines() if line.startswith("imported:")]
        assert len(lines) == len(commands), process.stderr
        return {command: set(modules) for command, modules in map(json.loads, lines)}

    return look


class CommandLine:
    """Runs run.py as a user does, with its runs in a folder of the test's own."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.environment = {
            **os.environ,
            "TRUST_EXP_RUNS": str(runs),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        self.environment.pop("PYTEST_CURRENT_TEST", None)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(ROOT / "run.py"), *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def __call__(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def here(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """The same in this process, where torch is imported already; not for what starts processes or is stopped."""
        out, err, code = io.StringIO(), io.StringIO(), None
        with (
            patch.dict(os.environ, self.environment, clear=True),
            patch.object(sys, "argv", ["run.py", *arguments]),
            patch("os.execv", side_effect=AssertionError("this would become another process")),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
            except SystemExit as end:
                code = end.code
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def folder(self) -> Path:
        (folder,) = self.runs.iterdir()
        return folder

    def result(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.folder() / "result.json").read_text())
        return value


@pytest.fixture
def command_line(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path / "runs")


@pytest.fixture(scope="session")
def command_line_in() -> type[CommandLine]:
    """For fixtures that outlive a test: ``command_line_in(folder)`` is a command line with its runs there."""
    return CommandLine
