"""What is left of a run after a power cut: nothing that was reported done is lost, nothing half-written is read."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from trust_exp import durable
from trust_exp.job import Job
from trust_exp.launch.sweep import end, keep, prepare
from trust_exp.launch.sweep_job import SweepJob
from trust_exp.runs import Run


class Disk:
    """What a disk holds that keeps only what was synced: the contents of files, and the names in folders.

    ``states`` are the folders as they were after each sync and each rename. A name that was not synced may be there or
    not; a file that was not synced is empty.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}  # by inode
        self.names: dict[Path, int] = {}
        self.folders: set[Path] = {root}
        self.states: list[dict[Path, bytes | None]] = []
        self._fsync, self._replace = os.fsync, os.replace
        patch.setattr(os, "fsync", self.fsync)
        patch.setattr(os, "replace", self.replace)

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if path != self.root and self.root not in path.parents:
            return
        if path.is_dir():
            there = set(path.iterdir())
            for name in [name for name in self.names if name.parent == path and name not in there]:
                del self.names[name]
            self.names.update({child: child.stat().st_ino for child in there if child.is_file()})
            self.folders |= {child for child in there if child.is_dir()}
        else:
            self.contents[path.stat().st_ino] = path.read_bytes()
        self.remember(self.names)

    def replace(self, source: Path, target: Path) -> None:
        self._replace(source, target)
        if self.root in Path(target).parents:
            self.remember({**self.names, Path(target): Path(target).stat().st_ino})  # the rename may have come through

    def remember(self, names: dict[Path, int]) -> None:
        reachable = {
            name: number
            for name, number in names.items()
            if all(folder in self.folders for folder in name.parents if self.root in folder.parents)
        }
        self.states.append({name: self.contents.get(number) for name, number in reachable.items()})


def lay_out(state: dict[Path, bytes | None], root: Path, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for name, content in state.items():
        place = to / name.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content or b"")


def look(folder: Path) -> str | None:
    """Status of the run in a folder; every file that a run reads must be whole."""
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())
    for path in (*folder.rglob("*.pt"), *folder.rglob("*.ckpt")):
        torch.load(path, weights_only=True)
    results = list(folder.rglob("result.json"))
    if not results:
        return None
    (path,) = results
    result = json.loads(path.read_text())
    if result["status"] == "done":
        run = path.parent
        assert (run / "weights.pt").exists()
        assert {f"{name}-test.pt" for name in result["evals"]} <= {file.name for file in (run / "outcomes").iterdir()}
    return str(result["status"])


def test_200_power_cuts_lose_nothing_that_was_done(command_line, tmp_path, monkeypatch):
    given = [
        "method=standard",
        "dataset=digits",
        "size=smoke",
        "accelerator.kind=cpu",
        "fit.checkpoint_seconds=0",
        "fit.epochs=null",
        "fit.steps=60",
    ]
    disk = Disk(command_line.runs, monkeypatch)
    assert command_line.here(*given, "eval=[clean]").returncode == 0
    first = len(disk.states)
    assert command_line.here(*given, "eval=[clean,certify]").returncode == 0
    monkeypatch.undo()
    assert len(disk.states) >= 200
    statuses = []
    for number in sorted({round(place * (len(disk.states) - 1) / 199) for place in range(200)}):
        lay_out(disk.states[number], disk.root, tmp_path / "after")
        statuses.append((number, look(tmp_path / "after")))
    done = [number for number, status in statuses if status == "done"]
    assert done
    assert done[0] <= first
    assert {status for number, status in statuses if number >= first} == {"done"}, "what is done stays done"


def test_a_power_cut_in_a_sweep_keeps_the_runs_that_were_done(command_line, tmp_path, monkeypatch):
    """The launcher's own files too: the jobs in this process, and the record that the sweep leaves."""
    disk = Disk(command_line.runs, monkeypatch)
    given = ["method=standard", "dataset=digits", "size=smoke", "accelerator.kind=cpu", "eval=[clean]"]
    process = command_line.here("-m", "hydra/launcher=basic", *given, "seed=0,1", "fit.checkpoint_seconds=0")
    assert process.returncode == 0, process.stderr
    job = make_job_of(command_line.runs)
    keep([job], command_line.runs / "sweeps")
    monkeypatch.undo()
    done: set[str] = set()
    for state in disk.states:
        lay_out(state, disk.root, tmp_path / "after")
        now = {path.name for path in (tmp_path / "after").iterdir() if look(path) == "done"}
        assert done <= now, "what is done stays done"
        done = now
    assert len(done) == 2
    assert json.loads((tmp_path / "after" / "sweeps" / "jobs-1.json").read_text())[0]["state"] == "done"


def make_job_of(runs: Path) -> SweepJob:
    """A job of the launcher that has ended, and its file, which another process reads."""
    (folder, *_) = sorted(path.parent for path in runs.glob("*/config.json"))
    config = json.loads((folder / "config.json").read_text())["config"]
    job = SweepJob(1, "seed=0", Job(config, Run(folder), []))
    prepare(job)
    end(job, "done")
    return job


def test_a_file_that_was_not_synced_is_found_out(tmp_path, monkeypatch):
    """The layer loses what was only renamed, so that a missing sync would be seen."""
    disk = Disk(tmp_path / "runs", monkeypatch)
    disk.root.mkdir()
    part, path = disk.root / "part", disk.root / "weights.pt"
    torch.save({"x": torch.ones(3)}, part)
    os.replace(part, path)
    lay_out(disk.states[-1], disk.root, tmp_path / "after")
    with pytest.raises(EOFError):
        look(tmp_path / "after")
    torch.save({"x": torch.ones(3)}, part)
    durable.put(part, path)
    lay_out(disk.states[-1], disk.root, tmp_path / "after")
    assert look(tmp_path / "after") is None
