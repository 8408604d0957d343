"""A run knows its data: paths mean the same everywhere, and numbers of data that have changed are not "done"."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.chosen import plain_method
from trust_exp.data import sources, store
from trust_exp.data.unchanged import change_in

SHORT = ["model=cifar_resnet20", "fit.epochs=null", "fit.steps=2", "eval=[clean]", "dataset.batch_size=8"]


def write_npz(path: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = random.integers(0, 256, (40, 8, 8, 3), np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 2)
    return path


def write_photos(folder: Path) -> Path:
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            shade = (20 * number, 100, 200 if label == "cat" else 20)
            Image.new("RGB", (32, 32), shade).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture
def command(command_line, tmp_path, monkeypatch):
    """A command with its data below the test's folder, wherever it is started."""
    monkeypatch.setitem(command_line.environment, "TRUST_EXP_DATA", str(tmp_path / "data"))
    start = [f"method={plain_method()}", *SHORT]
    return lambda *words: command_line.here(*start, *words)


@pytest.fixture
def npz_run(command, tmp_path, monkeypatch):
    file = write_npz(tmp_path / "first" / "d.npz")
    monkeypatch.chdir(file.parent)
    process = command("dataset=npz", "dataset.path=d.npz")
    assert not process.returncode, process.stderr
    return file


def test_the_same_words_in_another_folder_are_another_run(command, command_line, npz_run, tmp_path, monkeypatch):
    write_npz(tmp_path / "second" / "d.npz", seed=1)
    monkeypatch.chdir(tmp_path / "second")
    process = command("dataset=npz", "dataset.path=d.npz")
    assert "is done" not in process.stderr
    assert len(list(command_line.runs.iterdir())) == 2


@pytest.mark.parametrize("spelt", ["absolute", "dotted", "linked"])
def test_a_file_has_one_id_however_it_is_spelt(command, command_line, npz_run, spelt):
    (npz_run.parent / "link.npz").symlink_to(npz_run)
    path = {"absolute": npz_run, "dotted": "../first/./d.npz", "linked": "link.npz"}[spelt]
    assert "is done" in command("dataset=npz", f"dataset.path={path}").stderr
    assert len(list(command_line.runs.iterdir())) == 1


def test_an_overwritten_file_is_named_and_nothing_is_lost(command, command_line, npz_run):
    before = (command_line.folder() / "result.json").read_bytes()
    write_npz(npz_run, seed=2)
    process = command("dataset=npz", "dataset.path=d.npz")
    assert process.returncode == 2
    assert f"{npz_run} has changed since" in process.stderr
    assert "force=true starts anew" in process.stderr
    assert (command_line.folder() / "result.json").read_bytes() == before
    assert command("dataset=npz", "dataset.path=d.npz", "force=true").returncode == 0
    assert "is done" in command("dataset=npz", "dataset.path=d.npz").stderr


def test_a_file_of_the_same_size_and_time_is_the_same_without_being_read(command, npz_run):
    about = npz_run.stat()
    write_npz(npz_run, seed=2)
    os.utime(npz_run, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert npz_run.stat().st_size == about.st_size
    assert "is done" in command("dataset=npz", "dataset.path=d.npz").stderr


def test_a_file_that_was_touched_or_is_gone_has_not_changed(command, npz_run):
    os.utime(npz_run, (time.time() + 100,) * 2)
    assert "is done" in command("dataset=npz", "dataset.path=d.npz").stderr
    npz_run.unlink()
    assert "is done" in command("dataset=npz", "dataset.path=d.npz").stderr


def test_an_eval_of_a_run_refuses_changed_data_too(command_line, command, npz_run):
    write_npz(npz_run, seed=2)
    run = command_line.folder().name
    process = command_line.here("mode=eval", f"run={run}", "eval=[clean]", "force=true")
    assert process.returncode == 2
    assert f"{npz_run} has changed since" in process.stderr


@pytest.fixture
def photos(command, tmp_path):
    folder = write_photos(tmp_path / "photos")
    words = ["dataset=folder", f"dataset.path={folder}", "dataset.image_size=[16,16]", "dataset.workers=0"]
    process = command(*words)
    assert not process.returncode, process.stderr
    return folder, words


def test_a_replaced_image_of_the_same_size_is_named(command, photos):
    folder, words = photos
    assert "is done" in command(*words).stderr
    Image.new("RGB", (32, 32), (1, 2, 3)).save(folder / "cat" / "3.png")
    process = command(*words)
    assert process.returncode == 2
    assert f"{folder / 'cat' / '3.png'} has changed since" in process.stderr


def test_a_deleted_and_a_new_image_are_noticed(command, photos):
    folder, words = photos
    moved = (folder / "cat" / "3.png").rename(folder.parent / "3.png")
    process = command(*words)
    assert process.returncode == 2
    assert f"{folder / 'cat' / '3.png'} is gone since" in process.stderr
    moved.rename(folder / "cat" / "3.png")
    assert "is done" in command(*words).stderr
    Image.new("RGB", (32, 32), (1, 2, 3)).save(folder / "cat" / "99.png")
    process = command(*words)
    assert process.returncode == 2
    assert f"{folder} holds other files since" in process.stderr


def test_touched_images_have_not_changed(command, photos):
    folder, words = photos
    for path in folder.rglob("*.png"):
        os.utime(path, (time.time() + 100,) * 2)
    assert "is done" in command(*words).stderr


def test_a_run_is_evaluated_from_another_folder(command_line, npz_run, tmp_path, monkeypatch):
    folder = command_line.folder()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name in ("TRUST_EXP_DATA", "TRUST_EXP_RUNS"):
        monkeypatch.delitem(command_line.environment, name)
    process = command_line.here("mode=eval", f"run={folder}", "eval=[clean]", "force=true")
    assert not process.returncode, process.stderr
    assert "evals to run: clean" in process.stderr
    assert not list(elsewhere.iterdir())


# --- sets that an older version prepared -----------------------------------------------------------------------------


@pytest.fixture
def older(monkeypatch):
    """Prepare a set as the version did that knew no orientation; its facts as a run of then has recorded them."""

    def prepare(source, root, path=None):
        with monkeypatch.context() as before:
            before.setattr(type(source), "reading", 1)
            before.setattr("trust_exp.data.readers.images._orientation", lambda image: 1)
            manifest = sources.ensure(source.at(path), root, path)
        (store.prepared_folder(root, manifest["name"]) / "manifest.json").write_text(
            json.dumps({key: value for key, value in manifest.items() if key not in ("reading", "remarks", "lacking")})
        )
        return {key: value for key, value in store.facts(manifest).items() if key != "reading"}

    return prepare


def turn(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (32, 32)).save(path, exif=exif)


@pytest.mark.parametrize("turned", [1, 3, 6])
def test_a_run_before_photographs_stood_upright_is_done_if_none_lay(older, tmp_path, turned):
    folder, root = write_photos(tmp_path / "photos"), tmp_path / "data"
    turn(folder / "cat" / "3.png", turned)
    node, seen = {"name": "folder", "path": str(folder)}, older(sources.find_source("folder"), root, folder)
    change = change_in(node, seen, root)
    assert change == ("" if turned == 1 else f"trust_exp reads {folder} in another way")
    assert change_in(node, seen, root) == change, "it is prepared by then"


def test_a_published_set_that_an_older_version_prepared_is_prepared_anew(older, tmp_path):
    root, source = tmp_path / "data", sources.find_source("caltech101")
    folder = write_photos(tmp_path / "somewhere" / "101_ObjectCategories")
    turn(folder / "dog" / "0.png", 8)
    sources_before = older(source, root, folder.parent)
    assert store.reading(store.read_manifest(store.prepared_folder(root, "caltech101"))) == 1
    change = change_in({"name": "caltech101", "path": None}, sources_before, root)
    assert change == f"trust_exp reads {folder.parent} in another way"
    manifest = sources.ensure(source, root)  # from where it was imported
    assert store.reading(manifest) == source.reading == 2
    orientations = [store.open_part(root, "caltech101", part)["orientation"] for part in ("train", "test")]
    assert sorted(np.concatenate(orientations).tolist()) == [1] * 19 + [8]


def test_a_set_that_is_read_as_before_stays(older, tmp_path):
    file = write_npz(tmp_path / "d.npz")
    seen = older(sources.find_source("npz"), tmp_path / "data", file)
    assert change_in({"name": "npz", "path": str(file)}, seen, tmp_path / "data") == ""
    seen["files"]["train_labels.npy"]["sha256"] = "of labels that were not numbered anew"
    change = change_in({"name": "npz", "path": str(file)}, seen, tmp_path / "data")
    assert change == f"trust_exp reads {file} in another way"
