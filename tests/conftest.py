"""What several tests need: the real data beside the checkout, composed configurations, and the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from trust_exp.config import CONF, ROOT, check, register

SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {folder}")
    return folder


def compose_and_check(runs: Path, *overrides: str) -> dict[str, Any]:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", [f"paths.runs={runs}", *overrides]))


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Compose and check a configuration from overrides."""
    return lambda *overrides: compose_and_check(tmp_path, *overrides)


@pytest.fixture(scope="session")
def composed_in() -> Callable[..., dict[str, Any]]:
    """The same for fixtures that outlive a test; the first argument is the folder of the runs."""
    return compose_and_check


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
        out, err = process.communicate(timeout=500)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

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
