"""How a sweep is shown on terminals of several sizes, without one, and at its end."""

import io
import re
import sys
from itertools import count, product
from pathlib import Path

import pytest

from tests.launch.conftest import result_of
from trust_exp.launch.board import Board, headline, headlines, print_summary, summary
from trust_exp.launch.sweep import end, why_ended
from trust_exp.launch.sweep_job import SweepJob
from trust_exp.results.record import Row

RESULT = result_of(Row("clean/accuracy", 0.9), Row("certify/lipschitz", 3.25, ""))


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
    def make(width: int, height: int = 50, stream: str = "stderr") -> Terminal:
        for name, value in (("COLUMNS", width), ("LINES", height), ("TERM", "xterm")):
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, stream, made := Terminal())
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


# --- a sweep over methods and data sets ------------------------------------------------------------------------------

RADII = {"digits": [0.25, 0.5, 0.75, 1.0], "fashion_mnist": [0.1, 0.5, 1.0]}
ATTACKED = {"digits": 0.5, "fashion_mnist": 1.0}
WIDTHS = [60, 80, 100, 157, 200]


@pytest.fixture
def wide_sweep(make_job) -> list[SweepJob]:
    """The jobs of ``method=cll,gloro,sat dataset=digits,fashion_mnist seed=0,1`` with results; the fifth failed."""
    jobs = []
    for method, dataset, seed in product(("cll", "gloro", "sat"), RADII, (0, 1)):
        number = len(jobs) + 1
        job = make_job(number, run=f"{method}-{dataset}-{number:010x}")
        job.label = f"method={method} dataset={dataset} seed={seed}"
        found = [
            Row("clean/accuracy", 0.9),
            Row("certify/train_accuracy@0.25", 0.8),
            *(Row(f"certify/accuracy@{radius:.3g}", radius / 2) for radius in RADII[dataset]),
            Row("autoattack/accuracy", 0.7),
        ]
        evals = {"certify": {"config": {}}, "autoattack": {"config": {"norm": "L2", "epsilon": ATTACKED[dataset]}}}
        job.run.result.write_text(result_of(*found, evals=evals))
        job.state, job.seconds = "done", 10.0 + number
        jobs.append(job)
    jobs[4].state, jobs[4].reason = "failed", "killed by SIGKILL"
    return jobs


@pytest.fixture
def summary_at(terminal, wide_sweep):
    """The lines of the sweep's summary on a terminal of some width; only those that say why a job failed may wrap."""

    def lines(width: int) -> list[str]:
        screen = terminal(width, stream="stdout")
        print_summary(wide_sweep, 12.3)
        found = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", screen.getvalue()).splitlines()
        assert all(len(line) <= width for line in found if not line.startswith("failed: "))
        return [line.rstrip() for line in found if line.strip()]

    return lines


def words_in(lines: list[str]) -> str:
    return " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_summary_keeps_names_and_states_whole_at_any_width(summary_at, wide_sweep, width):
    _, *lines = summary_at(width)
    end = next(place for place, line in enumerate(lines) if line.startswith(("no room", "12 jobs")))
    starts = [place for place, line in enumerate(lines[:end]) if re.match(r" ?\d+  ", line)]
    assert len(starts) == 12
    for job, first, last in zip(wide_sweep, starts, [*starts[1:], end], strict=True):
        cell = words_in(lines[first:last])
        for word in (*job.label.split(), job.name, job.state, f"{job.seconds:.1f}"):
            assert word in cell.split(), f"{word} is cut in {cell!r}"
    assert "12 jobs in 12.3 s: 11 done, 1 failed" in lines
    assert lines[-1] == f"failed: {wide_sweep[4].name} ({wide_sweep[4].label}): killed by SIGKILL"


@pytest.mark.parametrize(
    ("width", "metrics", "left_out"),
    [
        (60, [], "clean/accuracy, certify/accuracy, autoattack/accuracy"),
        (80, ["clean"], "certify/accuracy, autoattack/accuracy"),
        (100, ["clean", "certified", "autoattack"], ""),
        (157, ["clean/accuracy", "certified", "autoattack/accuracy"], ""),
        (200, ["clean/accuracy", "certified", "autoattack/accuracy"], ""),
    ],
)
def test_metrics_leave_the_summary_first_and_are_then_named(summary_at, width, metrics, left_out):
    text = words_in(summary_at(width))
    titles = text[: text.index(" 1 method=cll")].split()
    assert titles == ["job", *(["run"] if width > 150 else []), "ended", "seconds", *metrics]
    assert (f"no room here for {left_out}; a wider terminal shows them" in text) == bool(left_out)


def test_one_column_is_certified_at_the_radius_of_the_attack(summary_at, wide_sweep):
    head, *rows = summary_at(157)[:13]
    assert head.count("certified") == 1
    assert "certify/" not in head
    for job, row in zip(wide_sweep, rows, strict=True):
        certified = "25.00% @0.5" if "digits" in job.name else "50.00% @1"
        assert row.split()[7:] == ([] if job.state == "failed" else ["90.00%", *certified.split(), "70.00%"])


def test_a_job_without_a_label_is_named_once(terminal, make_job):
    (job := make_job(1)).label = ""
    columns, _ = summary([job], 200)
    assert [column.cells for column in columns] == [["1"], [job.name], ["waiting"], [""]]


def test_without_an_attack_the_first_radius_is_shown_and_other_names_stay():
    def row(suite: str, metric: str, value: float, unit: str = "fraction") -> dict:
        return {"suite": suite, "metric": metric, "value": value, "unit": unit}

    rows = [
        row("certify", "certify/accuracy@0.25", 0.5),
        row("certify", "certify/accuracy@0.5", 0.25),
        row("clean@svhn", "clean@svhn/accuracy", 0.75),
        row("inspect", "inspect/auic", 2.0, ""),
        row("inspect", "inspect/stability", 1.0, ""),
        row("spatial", "spatial/accuracy@shuffle", 0.125),
    ]
    assert headlines({"rows": rows}) == {
        "certify/accuracy": "50.00% @0.25",
        "clean@svhn/accuracy": "75.00%",
        "inspect/auic": "2",
        "spatial/accuracy": "12.50% @shuffle",
    }
    assert headline({"rows": rows[:3]}) == "certified 50.00% @0.25  clean@svhn 75.00%"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_live_table_keeps_names_and_states_whole(terminal, wide_sweep, width):
    screen = terminal(width)
    for job in wide_sweep:
        job.state = "waiting"
    with Board(wide_sweep, Path("night")) as board:
        end(wide_sweep[0], "running", board=board)
        end(wide_sweep[1], "failed", "a reason that goes on and on " * 9, board)
        board.drawn = 0
        board.tick()
        _, *rows, total = screen.screen(width)
    assert len(rows) == 12
    for job, row in zip(wide_sweep, rows, strict=True):
        assert row.split()[:4] == [str(job.number), *job.label.split()]
        assert (job.name in row.split()) == (width > 150)
        assert job.state in row.split()
    assert total.startswith("1 running, 10 waiting, 1 failed")


def test_the_live_table_never_shows_a_time_below_zero(make_job, monkeypatch):
    """The clock moves on between two looks at it."""
    clock = count(100.0, 0.25)
    monkeypatch.setattr("trust_exp.launch.board.time.monotonic", lambda: next(clock))
    board = Board([job := make_job(1)], Path("night"))
    assert board.took(job) == ""
    end(job, "running")
    board.changed(job)
    assert re.fullmatch(r"\d+ s", board.took(job))


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
