"""Readers of what runs and preparations leave on disk: results, configurations, curves, manifests and stamps."""

import contextlib
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.chosen import plain_method
from tests.conftest import compose_and_check
from tests.fuzz.harness import Files, Reader
from tests.fuzz.valid import idx, lines
from trust_exp.build import build
from trust_exp.data import sources, store
from trust_exp.data.stamps import changes
from trust_exp.data.unchanged import change_in
from trust_exp.errors import UserError
from trust_exp.identity import eval_id, folder_name
from trust_exp.job import Job
from trust_exp.networks import load_source, make_network
from trust_exp.references import at_paths, resolve_references
from trust_exp.results import comparison
from trust_exp.results.collect import collect
from trust_exp.results.comparison import classes_of, is_whole, place
from trust_exp.results.record import Record, Row
from trust_exp.results.report.curves import curves_of
from trust_exp.results.report.page import embed
from trust_exp.results.report.runs import Book, last_lines
from trust_exp.results.table import print_result
from trust_exp.runs import Run, find_run, open_run, stored_parts, with_stored_overrides

METRIC, OF_CLASS = "clean/accuracy", "clean/class_accuracy"


@cache
def config() -> dict[str, Any]:
    """The checked configuration of a tiny run."""
    chosen = (f"method={plain_method()}", "dataset=two_moons", "model=mlp_two_moons", "size=smoke", "eval=[clean]")
    return compose_and_check(Path("runs"), *chosen)


def info() -> Any:
    return build(config()["dataset"], name="two_moons", root="unused", seed=0).info


def result() -> dict[str, Any]:
    """What it leaves, of its real shape."""
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / folder_name(config()))
        run.folder.mkdir()
        record = Record(run, config())
        how = {"id": eval_id(config()["eval"]["clean"]), "config": config()["eval"]["clean"], "environment": {}}
        row = Row(METRIC, 0.75, n=4, interval=(0.3, 0.9), detail={"how": "all"})
        record.add("clean", how, [row, Row(OF_CLASS, 0.5, detail={"class": "0"})])
        watched = [{"epoch": 1, "step": 2, "split": "test", "metrics": {METRIC: 0.5}}]
        record.values.update(classes=2, input_shape=[2], data={"files": {}, "content": None}, watched=watched)
        record.values.update(facts={"difficulty": {"loss": {"classes": {"0": 0.5}}}})
        record.write(status="done", seconds={"fit": 1.5}, peak_memory_mb=100)
        values: dict[str, Any] = run.read("result.json") or {}
        return values


def stored() -> dict[str, bytes]:
    """The files of the run."""
    with torch.random.fork_rng():
        torch.save({"state_dict": make_network(config(), info()).state_dict()}, file := io.BytesIO())
    return {
        "config.json": json.dumps(
            {"overrides": [f"method={plain_method()}", "size=smoke"], "config": config()}
        ).encode(),
        "result.json": json.dumps(result(), indent=1).encode(),
        "weights.pt": file.getvalue(),
    }


def run_files() -> list[Files]:
    name = folder_name(config())
    return [{f"{name}/{file}": content for file, content in stored().items()}]


def results(folder: Path) -> None:
    """All that a report, a table and the end of a run make of a result."""
    found = collect(folder)
    if found.results:
        with contextlib.suppress(UserError):  # no such run, or no such key any more
            collect(folder, ["status=done", "model.name=mlp_two_moons"])
    book = Book(found, 1.0)
    for values in (book.index(), *book.details):
        embed(values).encode(errors="replace")
    asked = {"clean": eval_id(config()["eval"]["clean"])}
    for seeds in place(found.results).cells.values():
        for one in seeds.values():
            is_whole(one, config())
            for metric in (METRIC, f"{OF_CLASS}[0]", "difficulty/loss[0]"):
                comparison._measure([one], metric, None, asked)
            classes_of(one, "difficulty/loss")
            list(comparison._watch([one], METRIC))
            with contextlib.redirect_stdout(io.StringIO()):
                print_result(one.values, one.folder)


def configured(folder: Path) -> None:
    """All that commands make of a stored configuration."""
    (run_folder,) = folder.iterdir()
    run = find_run(folder, run_folder.name)
    asked = [f"paths.runs={folder}", "mode=eval", f"run={run.id}"]
    assert all(isinstance(word, str) for word in with_stored_overrides(asked))
    evaluated = stored_parts(run, {**config(), "mode": "eval"})
    Job(evaluated, run, []).pending()
    open_run(config(), run_folder, [])


def built_upon(folder: Path) -> None:
    """All that a run makes of another one that it builds on."""
    (run_folder,) = folder.iterdir()
    child = {**config(), "checkpoint": str(run_folder), "paths": {"runs": str(folder), "data": "data"}}
    resolve_references(child, lambda *_: (_ for _ in ()).throw(AssertionError))
    at_paths(child, "checkpoint")
    load_source(run_folder, None, info())


def prepared() -> list[Files]:
    """A prepared set of MNIST's form, with the file that it was made from."""
    files = {
        "train-images-idx3-ubyte": idx(np.zeros((2, 28, 28), np.uint8), 8),
        "train-labels-idx1-ubyte": idx(np.array([0, 9], np.uint8), 8),
        "t10k-images-idx3-ubyte": idx(np.zeros((1, 28, 28), np.uint8), 8),
        "t10k-labels-idx1-ubyte": idx(np.array([5], np.uint8), 8),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        made = sources.import_dataset("mnist", folder, Path(folder) / "data")
        return [{f"prepared/mnist/{path.name}": path.read_bytes() for path in made.iterdir()}]


def prepared_set(folder: Path) -> None:
    """All that is made of a prepared set, and whether its files have changed."""
    store.is_prepared(folder, "mnist")
    manifest = store.read_manifest(store.prepared_folder(folder, "mnist"))
    store.read_info(manifest), store.counts(manifest)
    for part in store.parts(manifest):
        store.open_part(folder, "mnist", part)
    changes(store.prepared_folder(folder, "mnist"))
    change_in({"name": "mnist", "path": None}, store.facts(manifest), folder)
    store.verify(folder, "mnist")


def curves(folder: Path) -> None:
    for curve in curves_of(folder):
        assert len(curve["steps"]) == len(curve["values"])
    last_lines(folder / "log.txt")


CURVES = {
    "curves/version_0/metrics.csv": lines("epoch,step,train/loss,val/loss", "0,9,4.5,", "0,9,,7", "1,19,nan,inf"),
    "curves/version_1/metrics.csv": lines("step,train/loss", "19,3", "29,2.5"),
    "log.txt": lines("one line", "\x1b[31mred\x1b[0m"),
}

READERS = (
    Reader("results", results, run_files),
    Reader("stored configuration", configured, run_files, quick=50, fixed=("weights.pt",)),
    Reader("run as a source", built_upon, run_files, quick=50),
    Reader("prepared set", prepared_set, prepared, quick=100, writes=True),
    Reader("curves", curves, [CURVES], quick=300),
)
