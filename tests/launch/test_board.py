"""How a sweep is shown on terminals of several sizes, without one, and at its end."""

import io
import re
import sys
from pathlib import Path

import pytest

from trust_exp.launch.board import Board, print_summary
from trust_exp.launch.sweep import end, why_ended
from trust_exp.launch.sweep_job import SweepJob

RESULT = (
    '{"status": "done", "rows": [{"suite": "clean", "metric": "clean/accuracy", "value": 0.9, "unit": "fraction"},'
    '{"suite": "certify", "metric": "certify/lipschitz", "value": 3.25, "unit": ""}]}'
)


class Terminal(io.StringIO):
    """Remembers what is written; ``screen`` is what a reader sees of it."""

    def isatty(self) -> bool:
        return True

    def screen(self, width: int) -> list[str]:
        lines, row = [""], 0
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.getvalue()):
            if part == "\n":
                row += 1
                lines += [""] * (row - len(lines) + 1)
            elif part == "\x1b[2K":
                lines[row] = ""
            elif part.endswith("A") and part[0] == "\x1b":
                row -= int(part[2:-1])
            elif part[0] not in "\r\x1b":
                lines[row] += part
        assert all(len(line) <= width for line in lines), "a line is wider than the terminal"
        return [line.rstrip() for line in lines if line.strip()]


@pytest.fixture
def terminal(monkeypatch):
    def make(width: int, height: int) -> Terminal:
        for name, value in (("COLUMNS", width), ("LINES", height), ("TERM", "xterm")):
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, "stderr", made := Terminal())
        return made

    return make


@pytest.fixture
def jobs(make_job) -> list[SweepJob]:
    jobs = [make_job(number) for number in range(1, 31)]
    jobs[4].log.write_text("--- try 1\ntrain: 100/2000 after 30 s  loss 0.5\n")
    for job in jobs:
        job.run.result.write_text(RESULT)
    return jobs


def play(jobs: list[SweepJob], board: Board) -> None:
    for job in jobs[:2] + jobs[3:5]:
        end(job, "running", board=board)
    end(jobs[0], "done", board=board)
    end(jobs[1], "failed", "a reason that goes on and on " * 20, board)
    end(jobs[2], "skipped", board=board)


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("height", [3, 10, 50])
def test_the_table_fits_and_leaves_no_line(terminal, jobs, width, height):
    screen = terminal(width, height)
    with Board(jobs, Path("night")) as board:
        play(jobs, board)
        board.note("something to remember")
        board.drawn = 0
        board.tick()
        told, said, *table, total = screen.screen(width)
        assert (told, said) == ("sweep night: 30 jobs", "something to remember")
        assert len(table) == max(1, min(30, height - 3))
        assert total.strip().startswith("1 done, 1 skipped, 2 running, 25 waiting, 1 failed")
        if height > 3:
            rows = {row.split()[0]: row for row in table}
            assert "train: 100/2000" in rows["5"]
            assert "a reason that goes on" in rows["2"]
            assert rows["2"].endswith("…")
            assert ("cll-digits-0000000005" in rows["5"]) == (width == 200)
    assert screen.screen(width) == ["sweep night: 30 jobs", "something to remember"]


def test_without_a_terminal_each_event_is_a_line(jobs, capsys):
    with Board(jobs, Path("night")) as board:
        play(jobs, board)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sweep night: 30 jobs"
    assert lines[1] == "[ 1/30] cll-digits-0000000001 (seed=1) running"
    assert re.fullmatch(r"\[ 1/30\] cll-digits-0000000001 \(seed=1\) done after \d\.\d s", lines[5])
    assert lines[7] == "[ 3/30] cll-digits-0000000003 (seed=3) skipped"


def test_the_summary_says_what_failed_and_where_to_look(jobs, capsys):
    with Board(jobs[:3], Path("night")) as board:
        play(jobs[:3], board)
    jobs[1].reason = "killed by SIGKILL"
    jobs[1].log.write_text("x")
    capsys.readouterr()
    print_summary(jobs[:3], 12.34)
    head, *rows, _, total, failed, log = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["job", "run", "ended", "seconds", "clean/accuracy", "certify/lipschitz"]
    assert rows[0].split()[:3] == ["1", "seed=1", "cll-digits-0000000001"]
    assert rows[0].split()[-2:] == ["90.00%", "3.25"]
    assert rows[1].split()[3] == "failed"
    assert total == "3 jobs in 12.3 s: 1 done, 1 skipped, 1 failed"
    assert failed == "failed: cll-digits-0000000002 (seed=2): killed by SIGKILL"
    assert log == f"        log: {jobs[1].log}"


@pytest.mark.parametrize(
    ("code", "last", "reason"),
    [
        (-9, "anything", "killed by SIGKILL (out of memory, perhaps)"),
        (-15, "", "killed by SIGTERM"),
        (130, "", "stopped by a signal"),
        (2, "error: no such data", "no such data"),
        (1, "--- try 1 of seed=0", "ended with exit code 1"),
        (1, "", "ended with exit code 1"),
    ],
    ids=["SIGKILL", "SIGTERM", "interrupted", "sentence", "no-word", "nothing"],
)
def test_an_exit_code_is_explained(code, last, reason):
    assert why_ended(code, last) == reason
