import json
import multiprocessing
import re

import numpy as np
import pytest

from trust_exp.data import store
from trust_exp.data.config import DatasetInfo, Layer
from trust_exp.errors import UserError

INFO = DatasetInfo("tiny", tuple("0123456789"), (1, 28, 28), (0.0, 1.0), layers=(Layer("part", ("stroke",)),))


def splits(seed=0):
    random = np.random.default_rng(seed)
    return {
        split: (random.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10)
        for split, n in (("train", 200), ("test", 50))
    }


def write(root, seed=0):
    with store.preparing(root, "tiny") as writer:
        writer.info, writer.source = INFO, {"from": f"seed {seed}"}
        for part, (images, labels) in splits(seed).items():
            writer.put(part, images=images, labels=labels)
    return store.prepared_folder(root, "tiny")


def leftovers(root):
    return [path.name for path in (root / "prepared").iterdir() if path.name != "tiny"]


def test_what_was_written_is_read_back(tmp_path):
    assert not store.is_prepared(tmp_path, "tiny")
    folder = write(tmp_path)
    assert store.is_prepared(tmp_path, "tiny")
    for split, (images, labels) in splits().items():
        part = store.open_part(tmp_path, "tiny", split)
        assert isinstance(part["images"], np.memmap)
        np.testing.assert_array_equal(part["images"], images)
        np.testing.assert_array_equal(part["labels"], labels)
    manifest = store.verify(tmp_path, "tiny")
    assert manifest["source"] == {"from": "seed 0"}
    assert store.read_info(manifest) == INFO
    assert store.parts(manifest) == ["test", "train"]
    assert manifest == json.loads((folder / "manifest.json").read_text())
    assert leftovers(tmp_path) == []


def test_writing_to_a_served_array_does_not_reach_the_file(tmp_path):
    write(tmp_path)
    store.open_part(tmp_path, "tiny", "train")["images"][:] = 0
    store.verify(tmp_path, "tiny")


def test_a_truncated_file_is_named_with_the_way_out(tmp_path):
    path = write(tmp_path) / "train_images.npy"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:1000])
    message = (
        f"{path} has 1000 bytes and should have {size}; "
        f"delete {path.parent}, and the next run prepares it again or says how to get the data"
    )
    for check in (lambda: store.open_part(tmp_path, "tiny", "test"), lambda: store.verify(tmp_path, "tiny")):
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            check()
    write(tmp_path)
    store.verify(tmp_path, "tiny")
    assert leftovers(tmp_path) == []


def test_a_missing_file_is_named(tmp_path):
    path = write(tmp_path) / "test_labels.npy"
    path.unlink()
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} is missing; delete "):
        store.open_part(tmp_path, "tiny", "train")


def test_a_changed_byte_is_found_by_verify(tmp_path):
    path = write(tmp_path) / "test_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    store.open_part(tmp_path, "tiny", "test")
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} has changed since it was prepared"):
        store.verify(tmp_path, "tiny")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 99, "files": {}}', '{"format": 1}', "\xff"])
def test_a_manifest_that_is_none_is_named(tmp_path, content):
    path = write(tmp_path) / "manifest.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} is not a manifest of format 2; delete "):
        store.open_part(tmp_path, "tiny", "train")


def test_nothing_prepared_is_said(tmp_path):
    with pytest.raises(UserError, match=r"manifest.json cannot be read \(No such file or directory\)"):
        store.open_part(tmp_path, "tiny", "train")


def test_other_data_replace_those_that_are_there(tmp_path):
    write(tmp_path, 0)
    write(tmp_path, 1)
    assert store.verify(tmp_path, "tiny")["source"] == {"from": "seed 1"}
    assert leftovers(tmp_path) == []


def test_the_same_data_leave_what_is_there(tmp_path):
    path = write(tmp_path) / "train_images.npy"
    before = path.stat().st_ino
    write(tmp_path)
    assert path.stat().st_ino == before
    assert leftovers(tmp_path) == []


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "open_memmap", full)
    with pytest.raises(UserError, match=r"tiny could not be written: No space left on device$"):
        write(tmp_path)
    assert list((tmp_path / "prepared").iterdir()) == []


def test_nothing_stays_of_a_set_whose_files_are_wrong(tmp_path):
    write(tmp_path)

    def read():
        with store.preparing(tmp_path, "tiny") as writer:
            writer.array("train", "images", (5, 1, 28, 28), np.uint8)
            raise UserError("labels.txt is missing")

    with pytest.raises(UserError, match=r"^labels.txt is missing$"):
        read()
    assert store.verify(tmp_path, "tiny")["source"] == {"from": "seed 0"}
    assert leftovers(tmp_path) == []


def test_a_part_that_does_not_exist_is_named_with_those_that_do(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=r"^the part of tiny for .* 'val' does not exist; .*there are: test, train$"):
        store.open_part(tmp_path, "tiny", "val")


def test_arrays_are_filled_in_place_even_where_they_are_empty(tmp_path):
    with store.preparing(tmp_path, "tiny") as writer:
        writer.info = INFO
        writer.array("train", "images", (4, 3), np.int16)[2:] = 7
        writer.array("train", "boxes", (0, 4), np.float32)
    train = store.open_part(tmp_path, "tiny", "train")
    assert train["images"].tolist() == [[0] * 3] * 2 + [[7] * 3] * 2
    assert (train["boxes"].shape, train["boxes"].dtype) == ((0, 4), np.float32)
    store.verify(tmp_path, "tiny")


def test_one_process_at_a_time_prepares_and_what_a_killed_one_left_is_removed(tmp_path):
    left = tmp_path / "prepared" / f".tiny.{'0' * 32}"
    left.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    trying = context.Event()
    process = context.Process(target=_enter, args=(tmp_path, trying))
    with store.alone(tmp_path, "tiny"):
        assert not left.exists()
        process.start()
        assert trying.wait(60)
        process.join(0.3)
        assert process.is_alive()
    process.join(60)
    assert process.exitcode == 0


def _enter(root, trying):
    trying.set()
    with store.alone(root, "tiny"):
        pass


def test_a_root_that_is_a_file_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"could not be written: Not a directory$"):
        write(tmp_path / "file")


def _write_when_all_are_ready(root, barrier, failures):
    try:
        for _ in range(10):
            barrier.wait()
            write(root)
            store.verify(root, "tiny")
    except Exception as error:
        failures.put(repr(error))
        raise


@pytest.mark.parametrize("damaged", [False, True])
def test_processes_that_prepare_the_same_set_at_once_agree(tmp_path, damaged):
    if damaged:
        (write(tmp_path) / "train_images.npy").write_bytes(b"")
    context = multiprocessing.get_context("spawn")
    barrier, failures = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=_write_when_all_are_ready, args=(tmp_path, barrier, failures)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    store.verify(tmp_path, "tiny")
    assert leftovers(tmp_path) == []
