"""What can be added by a folder and its files in conf/: the worked examples, and five additions of other kinds.

All of them are laid over one copy of the checkout; not one file of it changes.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trust_exp.data.digits import Digits
from trust_exp.schema import ROOT

EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_dir())
ADDITIONS = sorted(path for path in (ROOT / "tests" / "additions").iterdir() if path.is_dir())
COPIED = ("trust_exp", "conf", "hydra_plugins", "tests", "experiments", "run.py", "pyproject.toml", "README.md")

RUNS = {  # what a user would type, each at size=smoke on one thread
    "method": ["method=smoothing", "dataset=digits", "eval=[clean]"],
    "eval": ["method=standard", "dataset=digits", "eval=[clean,calibration]"],
    "model": ["method=cll", "dataset=digits", "model=ridge", "eval=[clean,certify]"],
    "dataset": ["method=standard", "dataset=stripes", "model=conv_2c2f", "eval=[clean]", "fit.steps=60"],
    "explainer": ["method=standard", "dataset=digits", "eval=[saliency]", "eval.saliency.samples=8"],
    "autoencoder": ["method=autoencoder", "dataset=digits", "fit.steps=200"],
    "segmenter": ["method=segmenter", "dataset=street_scenes", "dataset.image_size=[32,64]"],
    "detector": ["method=one_box", "dataset=squares", "fit.steps=200"],
    "shuffle": ["method=shuffle", "dataset=digits", "eval=[clean,autoattack]"],
    "second_data": ["method=paired", "dataset=digits", "method.concepts.hold_out=0.2", "eval=[clean]"],
}
METRICS = {  # what each must at least have measured, and a bound that says that it learnt
    "method": ("clean/accuracy", 0.1),
    "eval": ("calibration/error", 0.0),
    "model": ("certify/lipschitz", 0.0),
    "dataset": ("clean/accuracy", 0.9),
    "explainer": ("saliency/insertion", 0.0),
    "autoencoder": ("novelty/auroc", 0.8),
    "segmenter": ("pixels/accuracy", 0.1),
    "detector": ("overlap/iou", 0.15),
    "shuffle": ("clean/accuracy", 0.05),
    "second_data": ("clean/accuracy", 0.1),
}

DRIVE = """
import json, runpy, sys
for name, arguments in json.loads(sys.argv[1]).items():
    sys.argv = ["run.py", *arguments, "paths.runs=runs/" + name, "accelerator.threads=1"]
    try:
        runpy.run_path("run.py", run_name="__main__")
    except SystemExit as end:
        print("exit:", name, end.code or 0)
"""


def files_of(overlay: Path) -> list[Path]:
    return [
        path.relative_to(overlay) for path in overlay.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A copy of the checkout with everything laid over it."""
    copy = tmp_path_factory.mktemp("house")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "additions"))
        else:
            shutil.copy(source, copy / name)
    for overlay in (*EXAMPLES, *ADDITIONS):
        for file in files_of(overlay):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(overlay / file, copy / file)
    return copy


def python(house: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRUST_EXP_", "PYTEST_"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(house)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def results(house):
    """What result.json holds after each run, all of them in one process."""
    told = {name: [*arguments, *(["size=smoke"])] for name, arguments in RUNS.items()}
    done = python(house, "-c", DRIVE, json.dumps(told))
    found = {}
    for name in RUNS:
        assert f"exit: {name} 0" in done.stdout, done.stdout + done.stderr
        (path,) = (house / "runs" / name).glob("*/result.json")
        found[name] = json.loads(path.read_text())
    return found


def test_every_example_and_addition_is_run():
    assert {path.name for path in (*EXAMPLES, *ADDITIONS)} == set(RUNS) == set(METRICS)


@pytest.mark.parametrize("overlay", [*EXAMPLES, *ADDITIONS], ids=lambda path: path.name)
def test_nothing_that_is_there_is_edited(overlay):
    assert [file for file in files_of(overlay) if (ROOT / file).exists()] == []


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_as_the_page_says(results, name):
    result = results[name]
    metric, least = METRICS[name]
    assert result["status"] == "done"
    assert result["metrics"][metric] > least


def test_a_second_data_set_is_recorded_like_the_first(results):
    result = results["second_data"]
    assert list(result["further_data"]) == ["method.concepts"]
    found = result["further_data"]["method.concepts"]["held_out"]
    held_out = Digits("digits", hold_out=0.2)
    assert found == held_out.origin()["held_out"]
    assert found["samples"] == held_out.size("val") > 200
    assert "held_out" not in result["data"], "the first is whole"


@pytest.mark.slow
def test_the_tests_of_the_examples_pass_in_the_copy(house):
    tests = sorted({str(file) for overlay in EXAMPLES for file in files_of(overlay) if file.parts[0] == "tests"})
    done = python(house, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *tests, "tests/test_structure.py")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_contract_holds_for_every_added_method(house):
    names = [path.stem for overlay in (*EXAMPLES, *ADDITIONS) for path in overlay.glob("conf/method/*.yaml")]
    chosen = ["-k", " or ".join(f"[{name}]" for name in names)]
    done = python(house, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "tests/test_contract.py", *chosen)
    assert done.returncode == 0, done.stdout


def test_the_list_shows_what_fits(house):
    done = python(house, "-m", "trust_exp.cli", "list", "--for", "dataset=squares")
    assert done.returncode == 0, done.stderr
    assert "one_box" in done.stdout
    assert "overlap" in done.stdout
    assert "smoothing" not in done.stdout
