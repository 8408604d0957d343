"""Tasks that build on the runs of other tasks: when they start, and what becomes of them if those fail."""

from pathlib import Path

import pytest

from tests.waiting import PATIENCE
from trust_exp.launch import slurm, sweep
from trust_exp.launch.board import Board
from trust_exp.launch.process import StopRequests, work_through
from trust_exp.launch.slurm import Cluster
from trust_exp.launch.sweep import Task, add_sources, end

OPTIONS = {"workers": 4, "gpus": None, "timeout_min": None, "retries": 0, "grace_s": PATIENCE}
ORDER = "echo $(basename $PWD) >> ../order; "


def work(tasks: list[Task], **options: object) -> None:
    work_through(tasks, {**OPTIONS, **options}, Board(tasks, Path("sweep")))


def states(tasks: list[Task]) -> list[str]:
    return [task.state for task in tasks]


def order(tasks: list[Task]) -> list[int]:
    names = (tasks[0].job.run.folder.parent / "order").read_text().split()
    return [next(task.number for task in tasks if task.name == name) for name in names]


def test_what_builds_on_a_run_waits_for_it_and_nothing_else_does(make_task, shell_jobs, succeed):
    tasks = [make_task(number, f"{ORDER} {succeed}") for number in (1, 2, 3)]
    source = make_task(4, f"until [ -f ../{tasks[2].name}/weights.pt ]; do sleep 0.05; done; {ORDER} {succeed}")
    tasks[0].needs = tasks[1].needs = [source]
    work([*tasks, source])
    assert states([*tasks, source]) == ["done"] * 4
    assert order([*tasks, source])[:2] == [3, 4]


def test_what_builds_on_a_run_starts_when_that_is_trained(make_task, shell_jobs, succeed):
    """Its evals, which may take longer, have nothing to do with it."""
    child = make_task(1, f"{ORDER} touch ran; {succeed}")
    source = make_task(2, f"touch weights.pt; until [ -f ../{child.name}/ran ]; do sleep 0.05; done; {ORDER} {succeed}")
    child.needs = [source]
    work([child, source])
    assert states([child, source]) == ["done", "done"]
    assert order([child, source]) == [1, 2]


def test_what_builds_on_a_run_that_failed_fails_with_its_reason(make_task, shell_jobs, succeed):
    children = [make_task(1), make_task(2)]
    middle, source, other = make_task(3), make_task(4, "echo error: no such data >&2; exit 2"), make_task(5)
    children[0].needs, children[1].needs, middle.needs = [middle], [source], [source]
    work([*children, middle, source, other])
    assert states([*children, middle, source, other]) == ["failed"] * 4 + ["done"]
    why = f"it builds on {source.name}, which failed: no such data"
    assert [task.reason for task in (middle, children[1])] == [why, why]
    assert children[0].reason == f"it builds on {middle.name}, which failed: {why}"
    for task in (*children, middle):
        assert (task.result()["status"], task.result()["error"]) == ("failed", task.reason)
        assert task.tries == 0


def test_a_further_try_of_a_source_is_waited_for(make_task, shell_jobs, succeed):
    child, source = make_task(1), make_task(2, f"if [ $TRY = 1 ]; then exit 1; fi; {succeed}")
    child.needs = [source]
    work([child, source], retries=1)
    assert states([child, source]) == ["done", "done"]


@pytest.fixture
def needing(make_task, monkeypatch):
    """Let tasks build on the runs of others: task -> those."""

    def say(table: dict[Task, list[Task]]) -> None:
        jobs = {task.job.run.folder: [source.job for source in sources] for task, sources in table.items()}
        monkeypatch.setattr(sweep, "sources_of", lambda job: jobs.get(job.run.folder, []))

    return say


def test_sources_are_added_once_and_before_what_builds_on_them(make_task, needing):
    first, shared, own, job = (make_task(number) for number in (11, 12, 13, 14))
    jobs = [make_task(1), make_task(2), make_task(3), job]
    needing({jobs[0]: [shared], jobs[1]: [shared, own], jobs[2]: [job], shared: [first]})
    added = add_sources(jobs)
    assert [task.job.run for task in added] == [task.job.run for task in (first, shared, own)]
    assert [task.number for task in added] == [15, 16, 17]
    assert [task.label for task in added] == ["source of 16", "source of 1, 2", "source of 2"]
    assert jobs[0].needs == [added[1]]
    assert jobs[1].needs == [added[1], added[2]]
    assert added[1].needs == [added[0]]
    assert jobs[2].needs == [job], "a job of the sweep is no second time one"


def test_a_source_that_is_trained_is_not_added_unless_it_is_to_start_anew(make_task, needing):
    source = make_task(9)
    source.job.run.weights.touch()
    child = make_task(1)
    needing({child: [source]})
    assert add_sources([child]) == []
    assert child.needs == []
    forced = make_task(2, run=source.name, force=True)
    assert add_sources([child, forced]) == []
    assert child.needs == [forced]


def test_a_cluster_gets_what_builds_on_a_run_when_that_is_trained(make_task, monkeypatch):
    tasks = [make_task(number) for number in (1, 2, 3, 4)]
    tasks[0].needs, tasks[3].needs = [tasks[2]], [tasks[1]]
    cluster = Cluster(tasks, {"partition": None}, Board(tasks, Path("sweep")), StopRequests())
    submitted: list[list[int]] = []

    def submit(group: list[Task]) -> None:
        submitted.append([task.number for task in group])
        cluster.ids |= {task: str(task.number) for task in group}

    def look() -> None:
        for task in list(cluster.ids):
            if task.state == "waiting":
                if task.number != 2:
                    task.job.run.weights.touch()
                end(task, "failed" if task.number == 2 else "done", "no such data" if task.number == 2 else "")

    monkeypatch.setattr(slurm, "in_queue", dict)
    monkeypatch.setattr(slurm, "has_gpus", lambda _: False)
    monkeypatch.setattr(slurm, "array_limit", lambda: 100)
    monkeypatch.setattr(slurm, "settle", lambda *_: None)
    monkeypatch.setattr(cluster, "submit_array", submit)
    monkeypatch.setattr(cluster, "look", look)
    monkeypatch.setattr(cluster, "rest", lambda: None)
    cluster.run()
    assert submitted == [[2, 3], [1]]
    assert states(tasks) == ["done", "failed", "done", "failed"]
    assert tasks[3].reason == f"it builds on {tasks[1].name}, which failed: no such data"
