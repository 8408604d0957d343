"""Progress: a line now and then where there is no terminal, silence on other processes."""

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
