"""Jobs that build on the runs of other jobs: when they start, and what becomes of them if those fail."""

from pathlib import Path

import pytest

from tests.waiting import PATIENCE
from trust_exp.launch import slurm, sweep
from trust_exp.launch.board import Board
from trust_exp.launch.process import StopRequests, work_through
from trust_exp.launch.slurm import Cluster
from trust_exp.launch.sweep import add_sources, end
from trust_exp.launch.sweep_job import SweepJob

OPTIONS = {"workers": 4, "gpus": None, "timeout_min": None, "retries": 0, "grace_s": PATIENCE}
ORDER = "echo $(basename $PWD) >> ../order; "


def work(jobs: list[SweepJob], **options: object) -> None:
    work_through(jobs, {**OPTIONS, **options}, Board(jobs, Path("sweep")))


def states(jobs: list[SweepJob]) -> list[str]:
    return [job.state for job in jobs]


def order(jobs: list[SweepJob]) -> list[int]:
    names = (jobs[0].run.folder.parent / "order").read_text().split()
    return [next(job.number for job in jobs if job.name == name) for name in names]


def test_what_builds_on_a_run_waits_for_it_and_nothing_else_does(make_job, shell_jobs, succeed):
    jobs = [make_job(number, f"{ORDER} {succeed}") for number in (1, 2, 3)]
    source = make_job(4, f"until [ -f ../{jobs[2].name}/weights.pt ]; do sleep 0.05; done; {ORDER} {succeed}")
    jobs[0].needs = jobs[1].needs = [source]
    work([*jobs, source])
    assert states([*jobs, source]) == ["done"] * 4
    assert order([*jobs, source])[:2] == [3, 4]


def test_what_builds_on_a_run_starts_when_that_is_trained(make_job, shell_jobs, succeed):
    """Its evals, which may take longer, have nothing to do with it."""
    child = make_job(1, f"{ORDER} touch ran; {succeed}")
    source = make_job(2, f"touch weights.pt; until [ -f ../{child.name}/ran ]; do sleep 0.05; done; {ORDER} {succeed}")
    child.needs = [source]
    work([child, source])
    assert states([child, source]) == ["done", "done"]
    assert order([child, source]) == [1, 2]


def test_what_builds_on_a_run_that_failed_fails_with_its_reason(make_job, shell_jobs, succeed):
    children = [make_job(1), make_job(2)]
    middle, source, other = make_job(3), make_job(4, "echo error: no such data >&2; exit 2"), make_job(5)
    children[0].needs, children[1].needs, middle.needs = [middle], [source], [source]
    work([*children, middle, source, other])
    assert states([*children, middle, source, other]) == ["failed"] * 4 + ["done"]
    why = f"it builds on {source.name}, which failed: no such data"
    assert [job.reason for job in (middle, children[1])] == [why, why]
    assert children[0].reason == f"it builds on {middle.name}, which failed: {why}"
    for job in (*children, middle):
        assert (job.result()["status"], job.result()["error"]) == ("failed", job.reason)
        assert job.tries == 0


def test_a_further_try_of_a_source_is_waited_for(make_job, shell_jobs, succeed):
    child, source = make_job(1), make_job(2, f"if [ $TRY = 1 ]; then exit 1; fi; {succeed}")
    child.needs = [source]
    work([child, source], retries=1)
    assert states([child, source]) == ["done", "done"]


@pytest.fixture
def needing(make_job, monkeypatch):
    """Let jobs build on the runs of others: job -> those."""

    def say(table: dict[SweepJob, list[SweepJob]]) -> None:
        jobs = {job.run.folder: [source.spec for source in sources] for job, sources in table.items()}
        monkeypatch.setattr(sweep, "sources_of", lambda job: jobs.get(job.run.folder, []))

    return say


def test_sources_are_added_once_and_before_what_builds_on_them(make_job, needing):
    first, shared, own, job = (make_job(number) for number in (11, 12, 13, 14))
    jobs = [make_job(1), make_job(2), make_job(3), job]
    needing({jobs[0]: [shared], jobs[1]: [shared, own], jobs[2]: [job], shared: [first]})
    added = add_sources(jobs)
    assert [job.run for job in added] == [job.run for job in (first, shared, own)]
    assert [job.number for job in added] == [15, 16, 17]
    assert [job.label for job in added] == ["source of 16", "source of 1, 2", "source of 2"]
    assert jobs[0].needs == [added[1]]
    assert jobs[1].needs == [added[1], added[2]]
    assert added[1].needs == [added[0]]
    assert jobs[2].needs == [job], "a job of the sweep is no second time one"


def test_a_source_that_is_trained_is_not_added_unless_it_is_to_start_anew(make_job, needing):
    source = make_job(9)
    source.run.weights.touch()
    child = make_job(1)
    needing({child: [source]})
    assert add_sources([child]) == []
    assert child.needs == []
    forced = make_job(2, run=source.name, force=True)
    assert add_sources([child, forced]) == []
    assert child.needs == [forced]


def test_a_cluster_gets_what_builds_on_a_run_when_that_is_trained(make_job, monkeypatch):
    jobs = [make_job(number) for number in (1, 2, 3, 4)]
    jobs[0].needs, jobs[3].needs = [jobs[2]], [jobs[1]]
    cluster = Cluster(jobs, {"partition": None}, Board(jobs, Path("sweep")), StopRequests())
    submitted: list[list[int]] = []

    def submit(group: list[SweepJob]) -> None:
        submitted.append([job.number for job in group])
        cluster.ids |= {job: str(job.number) for job in group}

    def look() -> None:
        for job in list(cluster.ids):
            if job.state == "waiting":
                if job.number != 2:
                    job.run.weights.touch()
                end(job, "failed" if job.number == 2 else "done", "no such data" if job.number == 2 else "")

    monkeypatch.setattr(slurm, "in_queue", dict)
    monkeypatch.setattr(slurm, "has_gpus", lambda _: False)
    monkeypatch.setattr(slurm, "array_limit", lambda: 100)
    monkeypatch.setattr(slurm, "make_ready", lambda *_: None)
    monkeypatch.setattr(cluster, "submit_array", submit)
    monkeypatch.setattr(cluster, "look", look)
    monkeypatch.setattr(cluster, "rest", lambda: None)
    cluster.run()
    assert submitted == [[2, 3], [1]]
    assert states(jobs) == ["done", "failed", "done", "failed"]
    assert jobs[3].reason == f"it builds on {jobs[1].name}, which failed: no such data"
