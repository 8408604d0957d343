"""What a user types, and what he reads when it is wrong."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import PATIENCE
from trust_exp import cli
from trust_exp.console import print_anywhere
from trust_exp.messages import exit_code_of
from trust_exp.schema import ROOT

WRONG = [
    (["method=cl"], "did you mean cll?"),
    (["dataset=cifr10"], "did you mean cifar10?"),
    (["method.p=2"], "method.p must be in (0, 0.5); got 2"),
    (["method.epsilon=abc"], "method.epsilon must be a number (8/255 is one); got 'abc'"),
    (["method.epsilom=1"], "the key 'method.epsilom' does not exist; did you mean method.epsilon?"),
    (["epochs=3"], "the key 'epochs' does not exist"),
    (["eval=certfy"], "did you mean certify?"),
    (["method"], "'method' is not key=value"),
    (["dataset.path=~/x"], """'dataset.path=~/x' has characters that need quotes of their own: 'dataset.path="~/x"'"""),
    (["method.epsilon="], "method.epsilon must be a number"),
    (["mode=eval"], "mode=eval needs run=<id>"),
    (["mode=eval", "run=0123456789"], "there is no such run"),
    (["model=conv_4c3f", "dataset=two_moons"], "a convolutional model needs images"),
    (["model=conv_8c2f"], "images of 8x8 are too small"),
    (["dataset=two_moons", "dataset.augment.flip=true"], "dataset.augment changes images"),
    (["method.form=binary"], "method.form=binary needs two classes; dataset=digits has 10"),
    (["dataset.batch_size=0"], "dataset.batch_size must be at least 1; got 0"),
    (["accelerator=gpu"], "accelerator=gpu needs a GPU"),
    (["accelerator.precision=16-mixed"], "needs a GPU; use bf16-mixed or 32-true on a CPU"),
    (["model.mean=[0.5,0.5]", "model.std=[0.2,0.2]"], "model.mean and model.std need 1 values"),
    (["seed=99999999999"], "seed must be at most"),
    (["eval=null"], "eval"),
    (["-m", "sweep=../elsewhere"], "sweep must be a name, not a path"),
    (["eval=[clean]", "eval.certify.radii=[0.1]"], "changes nothing, as eval=certify is not chosen"),
    (
        ["method=protonmf", "model=cifar_resnet20", "dataset=cifar10"],
        "method=protonmf needs trained weights: source=",
    ),
    (["method=protonmf", "source='[method=standard]'", "method.compare=[3,3]"], "must name each number once"),
    (
        ["method=cll", "eval=[patches]"],
        "eval=patches needs patches; method=cll gives none; methods that fit: protopnet",
    ),
    (["method=sat", "method.epsilon=inf"], "method.epsilon must be finite; got inf"),
    (["method=sat", "dataset=flowers102", "eval=certify"], "eval=certify needs layers with a known Lipschitz constant"),
    (["method=sat", "dataset=flowers102", "eval.certify.radii=[0.1]"], "is left out (eval=certify needs layers"),
    (["method.k_schedule={power:10}"], "method.k_schedule.start must be given"),
    (["method.k_schedule={start:0,power:10}"], "method.k_schedule.start must be greater than 0"),
    (["eval=[clean,certfy]"], "did you mean certify?"),
    (["eval.zigzag.x=1"], "eval 'zigzag' does not exist; there are: "),
    (["eval.prototypes.p=3"], "eval=prototypes is not chosen, so it has no options"),
    (["~method"], "~method leaves the run without a method; choose another one by method=<name>"),
    (["~dataset=digits"], "leaves the run without a dataset"),
    (["--root", "/tmp"], "--root is an option of trust-exp; for run.py write paths.data=/tmp"),
    (["seed=1", "--size", "smoke"], "the option --size does not exist; values are written without dashes: size=smoke"),
    (["--multirn", "seed=1"], "the option --multirn does not exist; did you mean --multirun?"),
    (["method=sat", "method.norm=Linf", "method.epsilon=8"], "for 8 of 255 grey levels write method.epsilon=8/255"),
    (["method.epsilon=36"], "method.epsilon=36 covers all images in L2, as they are in [0, 1]"),
    (["eval.autoattack.epsilon=9", "eval.autoattack.norm=Linf"], "write eval.autoattack.epsilon=9/255"),
    (["paths.runs=/proc/here"], "/proc/here: No such file or directory (runs are written to paths.runs"),
]


AS_A_PROCESS = ("method=cl",)  # said by Hydra


def assert_one_sentence(process: "subprocess.CompletedProcess[str]", sentence: str) -> None:
    assert process.returncode == 2, process.stderr
    *before, said = process.stderr.strip().splitlines()
    assert said.startswith("error: ")
    assert sentence in said
    expected = [line for line in before if line.endswith(" starts") or line.startswith("recipe: ")]
    assert before == expected, process.stderr
    assert not process.stdout.strip()


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_a_mistake_is_one_sentence_and_exit_code_2(command_line, arguments, sentence):
    """Some as a user does it, with all that other libraries may say; the others without starting Python anew."""
    run = command_line if arguments[0] in AS_A_PROCESS else command_line.here
    assert_one_sentence(run(*arguments), sentence)
    assert not list(command_line.runs.glob("**/*")), "what is refused leaves nothing behind"


def test_overrides_may_follow_an_option(command_line):
    last = command_line.here("method=cll", "--cfg", "job", "size=smoke", "seed=3")
    assert not last.returncode, last.stderr
    assert "size: smoke" in last.stdout
    assert "seed: 3" in last.stdout
    sweep = command_line.here("method=cll", "-m", "size=smok")
    assert_one_sentence(sweep, "did you mean smoke?")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lst"], "the command 'lst' does not exist; did you mean list?"),
        (["data", "imprt"], "the command 'imprt' does not exist; did you mean import?"),
        (["table", "--fomat", "md"], "the option '--fomat' does not exist; did you mean --format?"),
        (["list", "--for"], "argument --for: expected at least one argument; trust-exp list --help"),
        (["doctor", "x"], "x is one word too many; trust-exp doctor --help"),
        (
            ["data", "import", "mnist", "x", "paths.data=y"],
            "paths.data=y is for run.py; for trust-exp data write --root y",
        ),
        (["report", "paths.runs=y"], "paths.runs=y is for run.py; for trust-exp report write --runs y"),
    ],
    ids=str,
)
def test_a_mistake_in_a_command_of_trust_exp_is_one_sentence(capsys, arguments, sentence):
    assert exit_code_of(lambda: cli.run(arguments)) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert not out


def test_a_data_set_that_is_nowhere_is_one_sentence(command_line, tmp_path, monkeypatch):
    monkeypatch.setitem(command_line.environment, "https_proxy", "http://127.0.0.1:9")
    monkeypatch.setitem(command_line.environment, "http_proxy", "http://127.0.0.1:9")
    process = command_line.here("dataset=mnist", f"paths.data={tmp_path}")
    assert_one_sentence(process, "trust-exp data import mnist <folder>")
    assert not list(command_line.runs.iterdir())


def test_a_corrupt_file_is_named(command_line, tmp_path):
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"\x00\x00\x08\x01" + bytes(100))[:60])
    process = command_line.here("dataset=mnist", f"paths.data={tmp_path}")
    assert_one_sentence(process, "-ubyte.gz")
    assert not list(command_line.runs.iterdir())


def everything_in(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "arguments",
    [
        ["force=true", "accelerator=gpu"],
        ["force=true", "dataset.batch_size=40", "accelerator=gpu"],
        ["mode=eval", "run={id}", "eval=[patches]"],
        ["mode=eval", "run={id}", "eval=[clean]", "eval.certify.radii=[1]"],
        ["mode=eval", "run={id}", "eval=[clean]", "accelerator=gpu", "force=true"],
    ],
    ids=" ".join,
)
def test_a_run_that_existed_keeps_everything_when_a_command_is_refused(command_line, stored, composed_in, arguments):
    """``dataset.batch_size`` makes another run, of which nothing is left."""
    given = ["method=standard", "eval=[clean]"]
    run = stored(composed_in(command_line.runs, *given))
    (run.folder / "curves").mkdir()
    (run.folder / "curves" / "metrics.csv").write_text("step\n")
    before = everything_in(command_line.runs)
    named = [text.format(id=run.id) for text in arguments]
    process = command_line.here(*([] if "mode=eval" in named else given), *named)
    assert process.returncode == 2, process.stderr
    assert everything_in(command_line.runs) == before
    assert [folder.name for folder in command_line.runs.iterdir()] == [run.folder.name]


def test_a_forced_run_that_fails_in_its_training_is_not_what_it_was(command_line, stored, composed_in):
    """It keeps its folder with the reason, as any run that has failed."""
    given = ["method=standard", "size=smoke", "eval=[clean]", "method.optimizer.lr=1e30"]
    run = stored(composed_in(command_line.runs, *given))
    assert command_line.here(*given, "force=true").returncode == 1
    assert "the loss is not finite" in str((run.read("result.json") or {})["error"])
    assert (run.folder / "traceback.txt").exists()
    assert not run.weights.exists()
    assert not (run.folder / ".earlier").exists()


def test_a_full_disk_is_said_before_the_training(composed, tmp_path, monkeypatch):
    import shutil

    from trust_exp.errors import UserError
    from trust_exp.runs import open_run

    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="only 1 MB are free"):
        open_run(composed(), tmp_path / "run", [])


def test_what_only_looks_imports_no_torch(imported_by):
    run, cli = "run.py", "trust_exp.cli"
    for command, imported in imported_by(
        [run, "--help"], [run, "--cfg", "job"], [run, "method=cl"], [cli, "--help"], [cli, "list"]
    ).items():
        assert "hydra" in imported
        for heavy in ("torch", "lightning", "sklearn", "matplotlib", "torchvision", "pyautoattack", "wandb"):
            assert heavy not in imported, command


def trust_exp(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "trust_exp.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


def test_list_shows_every_choice_and_every_recipe():
    text = trust_exp("list").stdout
    for name in ("cll", "gloro", "lmt", "standard", "digits", "two_moons", "conv_4c3f", "certify", "cll/two_moons"):
        assert name in text
    assert "conv_4c3f" not in trust_exp("list", "method").stdout
    assert "did you mean method?" in trust_exp("list", "methods").stderr


def test_list_shows_classified_sets_to_methods_of_anomaly_detection():
    text = trust_exp("list", "dataset", "--for", "method=grad2vae").stdout
    assert re.search(r"anomaly_folder +[^;]*$", text, re.MULTILINE)
    assert re.search(r"mnist .*with dataset.normal_class=<a class>", " ".join(text.split()))
    assert "camvid" not in text
    text = trust_exp("list", "--for", "dataset=mnist", "dataset.normal_class=3").stdout
    assert "grad2vae" in text
    assert "cll" not in text
    assert "grad2vae" not in trust_exp("list", "method", "--for", "dataset=mnist").stdout
    assert "needs its data set" in trust_exp("list", "--for", "dataset.normal_class=3").stderr


def test_doctor_reports(tmp_path):
    text = trust_exp("doctor", "--root", tmp_path).stdout
    for name in ("torch", "hydra-core", "cpu (", "dataset=mnist", "not in", "embedded", "SLURM", "W&B"):
        assert name in text


# --- terminals without the letters ----------------------------------------------------------------------------------

TABLE = "cll/figure_4_4"  # its rows are called CLL, ε=0.1
ANYWHERE = [
    ["trust_exp.cli", "table"],
    ["trust_exp.cli", "table", TABLE],
    ["trust_exp.cli", "list"],
    ["trust_exp.cli", "doctor"],
    ["trust_exp.cli", "data", "list"],
    ["trust_exp.cli", "reproduce", "--help"],
    ["run.py", "--cfg", "job", f"+experiments/{TABLE}=cll_eps_0_1"],
]
IN_C = {"LC_ALL": "C", "PYTHONUTF8": "0"}
ONE_AFTER_THE_OTHER = """
import json, runpy, sys
for command in json.loads(sys.argv[1]):
    print("command", *command)
    sys.argv = command
    try:
        (runpy.run_path if command[0].endswith(".py") else runpy.run_module)(command[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (command, end.code)
print("all are through")
"""


@pytest.mark.parametrize(
    ("environment", "commands"),
    [
        pytest.param(IN_C, [ANYWHERE[1], ANYWHERE[-1]], id="LC_ALL, a few"),
        pytest.param(IN_C, ANYWHERE, id="LC_ALL", marks=pytest.mark.slow),
        pytest.param({"PYTHONIOENCODING": "ascii"}, ANYWHERE, id="PYTHONIOENCODING", marks=pytest.mark.slow),
    ],
)
def test_commands_print_where_there_is_only_ascii(environment, commands, tmp_path):
    asked = [sys.executable, "-c", ONE_AFTER_THE_OTHER, json.dumps(commands)]
    own = {**os.environ, "TRUST_EXP_RUNS": str(tmp_path), **environment}
    process = subprocess.run(asked, cwd=ROOT, env=own, capture_output=True, timeout=PATIENCE)
    text = process.stdout.decode("ascii")
    assert process.returncode == 0, process.stderr.decode()
    assert text.endswith("all are through\n")
    assert "CLL, eps=0.1\n" in text
    assert "mean +- sample standard deviation" in text


def test_letters_that_a_terminal_lacks_are_printed_in_plain_ones(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file := io.BytesIO(), encoding="ascii", newline=""))
    print_anywhere()
    print("ε ± 2σ, Müller’s ∘ – 日, caf\udce9.png", flush=True)
    assert file.getvalue() == b"eps +- 2sigma, Muller?s o - ?, caf\\xe9.png\n"


def test_letters_that_a_terminal_has_stay(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file := io.BytesIO(), encoding="latin-1", newline=""))
    print_anywhere()
    print("ε ± ü", flush=True)
    assert file.getvalue().decode("latin-1") == "eps ± ü\n"


@pytest.mark.slow
def test_real_mnist_is_imported_verified_and_seen(shared_data, tmp_path):
    done = trust_exp("data", "import", "mnist", shared_data / "mnist", "--root", tmp_path)
    assert done.returncode == 0, done.stderr
    assert trust_exp("data", "verify", "mnist", "--root", tmp_path).returncode == 0
    assert f"present in {tmp_path}" in trust_exp("doctor", "--root", tmp_path).stdout
    images = next((tmp_path / "prepared" / "mnist").glob("*test*images*"), None) or next(
        (tmp_path / "prepared" / "mnist").glob("*.npy")
    )
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    broken = trust_exp("data", "verify", "mnist", "--root", tmp_path)
    assert broken.returncode == 2
    assert images.name in broken.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data", "import", "mnst", "."], "did you mean mnist?"),
        (["data", "import", "digits", "."], "cannot be imported from a folder"),
        (["data", "import", "mnist", "/nowhere"], "/nowhere"),
        (["data", "verify", "mnist", "--root", "/nowhere"], "mnist"),
    ],
    ids=str,
)
def test_data_commands_say_what_is_wrong(arguments, sentence):
    process = trust_exp(*arguments)
    assert process.returncode == 2
    assert sentence in process.stderr
    assert "Traceback" not in process.stderr
