"""Progress: a line now and then where there is no terminal, silence on other processes."""

import threading
from threading import Timer

import pytest

from trust_exp import progress
from trust_exp.progress import Bar, track


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_every_half_minute(clock, capsys):
    bar = Bar("train", 100)
    for step in range(100):
        clock[0] += 1
        bar.update(step + 1, f"loss {step}")
    bar.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"train: {step}/100 after {step} s  loss {step - 1}" for step in (30, 60, 90)]


def test_what_is_quick_says_nothing(clock, capsys):
    assert list(track([1, 2, 3], "quick")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_only_one_process_speaks(clock, capsys):
    bar = Bar("train", 2, visible=False)
    clock[0] += 100
    assert not bar.due()
    bar.update(1)
    bar.close()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    bar = Bar("certify", 10)
    clock[0] += 1
    bar.update(5, "half")
    bar.live.refresh()
    bar.close()
    shown = capsys.readouterr().err
    assert "certify" in shown
    assert "5/10" in shown


def test_a_phase_that_lasts_is_named(monkeypatch):
    said, spoken = [], threading.Event()
    monkeypatch.setattr(progress, "PHASE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "say", lambda text: (said.append(text), spoken.set()))
    with progress.announced("eval/certify"):
        assert spoken.wait(60)
    assert said == ["eval/certify ..."]


def test_a_quick_phase_and_another_process_name_nothing(monkeypatch):
    said, timers = [], []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress.threading, "Timer", lambda *given: timers.append(Timer(*given)) or timers[-1])
    with progress.announced("setup"):
        pass
    timers[0].join()  # it ends at once, as it is cancelled
    monkeypatch.setattr(progress, "PHASE_SECONDS", 0.0)
    with progress.announced("fit", visible=False):
        assert not timers[1].is_alive()
    assert said == []
