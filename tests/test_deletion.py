"""Deleting a family of methods or an eval, its folder and its files in conf/, leaves the rest whole. Slow."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trust_exp.schema import ROOT

pytestmark = pytest.mark.slow

PACKAGE = ROOT / "trust_exp"
COPIED = (
    "trust_exp",
    "conf",
    "hydra_plugins",
    "tests",
    "experiments",
    "examples",
    "docs",
    "run.py",
    "pyproject.toml",
    ".importlinter",
    "README.md",
    "CHANGELOG.md",
)
FAMILIES, EVALS = (
    sorted(path.parent.name for path in (PACKAGE / kind).glob("*/__init__.py")) for kind in ("methods", "evals")
)
CASES = [*(("methods", name) for name in FAMILIES), *(("evals", name) for name in EVALS)]

# In one process: the list, then pytest; composing needs no more than what it imports.
DRIVE = """
import json, sys
import pytest
from trust_exp.commands.list import list_choices

list_choices(None)
sys.exit(pytest.main(["-n", "0", "-p", "no:cacheprovider", *json.loads(sys.argv[1])]))
"""
COMPOSED = ("test_every_pair_composes_or_says_what_is_missing", "test_every_method_composes_at_every_size")


def schemas_in(config: Path) -> set[str]:
    return {node.name for node in ast.parse(config.read_text()).body if isinstance(node, ast.ClassDef)}


def files_of(house: Path, kind: str, name: str) -> list[Path]:
    """What is deleted besides the folder: the files in conf/ of the eval, or of the methods of a family; and tests."""
    conf = house / "conf"
    schemas = schemas_in(house / "trust_exp" / kind / name / "config.py")
    if kind == "evals":
        found = [conf / "eval" / f"{name}.yaml", *conf.glob(f"eval/size/*/{name}.yaml")]
    else:
        chosen = {f"/schema/{schema}@_here_" for schema in schemas}
        own = [path for path in conf.glob("method/*.yaml") if any(line in path.read_text() for line in chosen)]
        found = [*own, *(path for path in conf.glob("method/size/*/*.yaml") if path.stem in schemas)]
        for method in (path.stem for path in own):
            found += [conf / "eval" / "for" / f"{method}.yaml", conf / "model" / "for" / method]
            found += [conf / "recipe" / method, *conf.glob(f"scaled/*/{method}")]
    module = f"trust_exp.{kind}.{name}"
    return found + [path for path in house.glob("tests/**/test_*.py") if module in path.read_text()]


def methods_left(house: Path) -> list[str]:
    return sorted(path.stem for path in (house / "conf" / "method").glob("*.yaml"))


@pytest.fixture
def house(tmp_path) -> Path:
    """A copy of the checkout."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "additions")
            shutil.copytree(ROOT / name, tmp_path / "house" / name, ignore=ignored)
        else:
            (tmp_path / "house").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "house" / name)
    return tmp_path / "house"


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory) -> Path:
    """One for all cases, so that each checks only what its deletion changes."""
    cache = tmp_path_factory.mktemp("mypy") / "cache"
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", cache)
    return cache


def assert_green(house: Path, *command: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRUST_EXP_", "PYTEST_"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(house)}
    done = subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind}-{name}" for kind, name in CASES])
def test_the_rest_is_whole_without_it(house, mypy_cache, kind, name):
    for path in [*files_of(house, kind, name), house / "trust_exp" / kind / name]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    tools = Path(sys.executable).parent
    assert_green(house, str(tools / "ruff"), "check", ".")
    assert_green(house, str(tools / "lint-imports"), "--no-cache")
    assert_green(house, sys.executable, "-m", "mypy", "--cache-dir", str(mypy_cache))
    methods = methods_left(house)
    first = (kind, name) == CASES[0]
    # pytest compares a -k expression with the names of files too
    tried = [] if first else ["-k", f"not test_contract or {' or '.join(f'[{method}]' for method in methods[:2])}"]
    tests = ["tests/test_structure.py", "tests/test_contract.py"]
    tests += [f"tests/test_config.py::{test}" for test in COMPOSED]
    assert_green(house, sys.executable, "-c", DRIVE, json.dumps([*tests, *tried]))


def test_every_family_and_eval_has_files_to_delete():
    for kind, name in CASES:
        found = [path for path in files_of(ROOT, kind, name) if path.exists()]
        assert any(path.is_relative_to(ROOT / "conf") for path in found), f"{kind} {name}"
