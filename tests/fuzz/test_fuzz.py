"""Changed files for every reader (README.md); and the harness finds each kind of defect where one is planted."""

import os
import signal
import time

import pytest

from tests.fuzz import harness
from tests.fuzz.harness import Place, Reader, input_of, run
from tests.fuzz.readers import READERS
from trust_exp.data import sources
from trust_exp.errors import UserError


@pytest.mark.parametrize("name", READERS)
def test_changed_files_are_read_or_refused_in_a_sentence(name):
    assert_sound(READERS[name], READERS[name].quick)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_changed_files_are_read_or_refused_in_a_sentence(name):
    assert_sound(READERS[name], 3000)


def assert_sound(reader, number):
    report = run(reader, range(-len(reader.variants), number))
    assert not report.failures, "\n".join(f"seed {seed}: {text}" for seed, text in report.failures.items())
    assert report.inputs == len(reader.variants) + number
    assert report.taken >= len(reader.variants)


def test_every_source_of_files_has_a_reader():
    reads = {name: type(source).read for name, source in sources.all_sources().items()}
    tried = {read for name, read in reads.items() if {name, f"{name} file", f"{name} batch"} & READERS.keys()}
    assert {name for name, read in reads.items() if read not in tried} == set()


def test_an_input_is_drawn_from_its_seed():
    reader = READERS["cub200"]
    assert input_of(reader, 5) == input_of(reader, 5)
    assert len({tuple(input_of(reader, seed).items()) for seed in range(100)}) > 90
    assert input_of(reader, -1) == reader.variants[0]


def refuses(_):
    raise UserError("the file is not whole")


def breaks(_):
    raise KeyError("labels")


def hangs(_):
    begin = time.process_time()
    while time.process_time() < begin + 60:
        pass


def dies(_):
    os.kill(os.getpid(), signal.SIGSEGV)


def asks(_):
    try:
        bytearray(2**40)
    except MemoryError as error:
        raise UserError("the file is too large") from error


def fills(_):
    bytearray(os.urandom(1)) * (harness.MEMORY + 2**27)


def escapes(folder):
    (folder.parent / "beside").touch()


@pytest.mark.parametrize(
    ("read", "defect"),
    [
        (refuses, "a valid file is refused: the file is not whole"),
        (breaks, "KeyError: 'labels'"),
        (hangs, "CPU time"),
        (dies, "Segmentation fault"),
        (asks, "it asked for memory without end"),
        (fills, "GiB of memory"),
        (escapes, "it wrote ['beside']"),
    ],
)
def test_a_planted_defect_is_found(monkeypatch, read, defect):
    if read is hangs:
        monkeypatch.setattr(harness, "CPU_SECONDS", 1)  # for the others a busy machine could exceed it
    monkeypatch.setattr(harness, "MEMORY", 2**27)
    report = run(Reader("planted", read, [{"a": b"content"}], writes=True), [-1])
    assert defect in report.failures[-1]
    assert report.inputs == 1


def test_after_an_input_that_ends_the_process_the_others_are_tried(tmp_path):
    def read(folder):
        if folder.joinpath("a").read_bytes() != b"content":
            dies(folder)

    report = run(Reader("planted", read, [{"a": b"content"}]), [-1, 0, 1, -1])
    assert report.failures == {0: "Segmentation fault", 1: "Segmentation fault"}
    assert (report.taken, report.inputs) == (2, 4)


def test_files_of_the_input_before_are_gone(tmp_path):
    place = Place(tmp_path)
    place.hold({"a": b"1", "b/c": b"2"})
    place.hold({"a": b"3"})
    assert [path.name for path in place.files.rglob("*") if path.is_file()] == ["a"]
    assert (place.files / "a").read_bytes() == b"3"
