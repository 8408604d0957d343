"""The dashboard's specification, built without a network."""

import json
from importlib import util
from math import nan

import pytest

from trust_exp.cli import run
from trust_exp.errors import UserError
from trust_exp.identity import cell_id, run_id
from trust_exp.messages import exit_code_of
from trust_exp.results.collect import Found
from trust_exp.results.dashboard import report_of, specification, spread, table_of_means
from trust_exp.results.record import Record, Row
from trust_exp.runs import open_run

if util.find_spec("wandb_workspaces") is None:
    pytest.skip("wandb-workspaces is not installed", allow_module_level=True)

RADII = ("0.1", "0.25", "1e-05")


@pytest.fixture
def results(composed, tmp_path):
    """Two methods, two seeds each; one of another has failed."""
    found = []
    for method in ("cll", "gloro"):
        for seed in (0, 1):
            found.append(make(composed, tmp_path, f"method={method}", f"seed={seed}", clean=0.9 + 0.02 * seed))
    broken = make(composed, tmp_path, "method=standard", clean=0.1)
    broken.values["status"] = "failed"
    return [*found, broken]


def make(composed, tmp_path, *overrides: str, clean: float) -> Found:
    config = composed("size=smoke", *overrides)
    name = f"{config['method']['name']}-digits-{run_id(config)}"
    (tmp_path / "runs").mkdir(exist_ok=True)
    record = Record(open_run(config, tmp_path / "runs" / name, []), config)
    rows = [Row("clean/accuracy", clean), Row("certify/lipschitz", 12.5, "")]
    rows += [Row(f"certify/accuracy@{radius}", 0.5) for radius in RADII]
    record.add("certify", {}, rows, [record.path.parent / "figures" / "certified_accuracy.png"])
    record.write(status="done")
    return Found(record.path.parent, record.values)


def grids(specified) -> list:
    return [block["metadata"] for block in specified["spec"]["blocks"] if block["type"] == "panel-grid"]


def panels(grid, kind: str) -> dict[str, dict]:
    shown = grid["panelBankSectionConfig"]["panels"]
    return {panel["config"].get("chartTitle"): panel["config"] for panel in shown if panel["viewType"] == kind}


def test_the_specification_has_the_panels_and_metrics(results):
    specified = specification(report_of(results, "us", "thesis"))
    assert (specified["entity"], specified["project"]) == ("us", "thesis")
    assert specified["title"] == "trust_exp: cll, gloro on digits"
    grouped, single = grids(specified)

    bars = panels(grouped, "Bar Chart")
    for radius in RADII:
        assert bars[f"certified accuracy at {radius}"]["metrics"] == [f"certify/accuracy@{radius}"]
    assert bars["clean accuracy"]["metrics"] == ["clean/accuracy"]
    assert bars["Lipschitz constant (upper bound)"]["metrics"] == ["certify/lipschitz"]
    assert "accuracy under AutoAttack" not in bars, "no run has it"
    curves = panels(grouped, "Run History Line Plot")
    assert curves["training loss"]["metrics"] == ["train/loss"]
    assert curves["Lipschitz constant"]["metrics"] == ["train/lipschitz"]
    for panel in (*bars.values(), *curves.values()):
        assert (panel["groupAgg"], panel["groupArea"]) == ("mean", "stddev")
    for panel in curves.values():
        assert panel["xAxis"] == "step"

    scatter = panels(single, "Scatter Plot")
    assert list(scatter) == [f"clean against certified accuracy at {radius}" for radius in ("1e-05", "0.1", "0.25")]
    assert scatter["clean against certified accuracy at 0.1"]["xAxis"] == "summary:clean/accuracy"
    assert scatter["clean against certified accuracy at 0.1"]["yAxis"] == "summary:certify/accuracy@0.1"
    (media,) = panels(single, "Media Browser").values()
    assert media["mediaKeys"] == ["figures/certified_accuracy"]


def test_runs_are_grouped_and_only_the_selected_ones(results):
    grouped, single = grids(specification(report_of(results, "us", "thesis")))
    (runs,) = grouped["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["method.value.name", "dataset.value.name"]
    for grid in (grouped, single):
        (chosen,) = grid["runSets"][0]["filters"]["filters"]
        assert chosen["key"] == {"section": "run", "name": "name"}, "W&B's name of a run's id"
        assert chosen["value"] == sorted(result.id for result in results[:4])
    (runs,) = single["runSets"]
    assert not runs.get("grouping")
    assert runs["runFeed"]["columnOrder"][:5] == [
        "config:method.value.name",
        "config:dataset.value.name",
        "config:model.value.name",
        "config:size.value",
        "config:seed.value",
    ]
    assert "summary:certify/lipschitz" in runs["runFeed"]["columnOrder"]


def test_panels_do_not_overlap(results):
    for grid in grids(specification(report_of(results, "us", "thesis"))):
        places = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in grid["panelBankSectionConfig"]["panels"]]
        assert len(set(places)) == len(places)
        assert all(x + 8 <= 24 for x, _ in places)


def test_the_table_holds_mean_and_deviation_over_seeds(results, composed, tmp_path):
    lines = table_of_means(results[:4]).splitlines()
    assert lines[0].startswith(
        "| method | dataset | model | size | cell | runs | clean/accuracy | certify/accuracy@1e-05 |"
    )
    cell = cell_id(results[0].config)
    assert lines[2].startswith(f"| cll | digits | conv_2c2f | smoke | {cell} | 2 | 91.0 ± 1.4 % | 50.0 ± 0.0 % |")
    assert "| 12.5 ± 0.0 |" in lines[2]
    assert len(lines) == 4
    assert "| 1 | 90.0 % |" in table_of_means(results[:1])
    other = make(composed, tmp_path, "method=cll", "method.epsilon=0.3", clean=0.5)
    assert len(table_of_means([*results[:4], other]).splitlines()) == 5, "it differs in more than its seed"


def test_means_are_of_what_was_measured_in_its_unit(composed, tmp_path):
    made = [make(composed, tmp_path, "method=cll", f"seed={seed}", clean=value) for seed, value in ((7, 0.5), (8, nan))]
    assert spread(made, "clean/accuracy") == "50.0 % (n 1)"
    assert spread(made, "certify/lipschitz") == "12.5 ± 0.0"
    assert spread(made[1:], "clean/accuracy") == spread(made, "certify/tightness") == ""


def test_n_is_that_of_the_metric_and_of_one_way_to_measure_it(composed, tmp_path):
    made = [make(composed, tmp_path, "method=cll", f"seed={seed}", clean=0.5) for seed in (7, 8, 9)]
    for found in made:
        found.values["evals"]["certify"]["id"] = "as now"
    for metric in ("certify/lipschitz", "certify/accuracy@0.1"):
        del made[0].values["metrics"][metric]
    assert spread(made, "certify/lipschitz") == "12.5 ± 0.0 (n 2)"
    made[1].values["evals"]["certify"]["id"] = "as before"
    made[1].values["metrics"]["certify/lipschitz"] = 99.0
    assert spread(made, "certify/lipschitz") == "12.5 (n 1)"
    line = table_of_means(made).splitlines()[2]
    assert "| 3 | 50.0 ± 0.0 % (n 2) | 50.0 ± 0.0 % (n 2) | 50.0 % (n 1) |" in line


def test_the_command_names_runs_that_the_server_does_not_have(results, tmp_path, capsys):
    results[2].values["config"]["logger"] = {"name": "wandb"}
    for result in results:
        (result.folder / "result.json").write_text(json.dumps(result.values))
    first, second, _, fourth, _ = (result.folder for result in results)
    part = second / "wandb" / "offline-run-1-x"  # of an eval with logger=wandb
    part.mkdir(parents=True)
    (part / "run-x.wandb").touch()
    run(["wandb", "dashboard", "--runs", str(tmp_path / "runs"), "--entity", "us", "--dry-run"])
    told = capsys.readouterr()
    assert json.loads(told.out)["entity"] == "us"
    nothing, parts = told.err.splitlines()
    before, names = nothing.split(": ")
    assert before == "W&B has nothing of runs that never had logger=wandb (2 of 4)"
    assert set(names.split(", ")) == {first.name, fourth.name}
    assert parts == f"W&B has not all of runs that wait for trust-exp wandb sync (1 of 4): {second.name}"


def test_the_command_shows_what_it_would_send(results, tmp_path, capsys):
    runs = ["--runs", str(tmp_path / "runs")]
    arguments = ["wandb", "dashboard", "method=cll", *runs, "--entity", "us", "--dry-run"]
    run(arguments)
    printed = json.loads(capsys.readouterr().out)
    assert printed["title"] == "trust_exp: cll on digits"
    run([*arguments, "--out", str(tmp_path / "spec.json")])
    assert json.loads((tmp_path / "spec.json").read_text())["project"] == "trust_exp"
    capsys.readouterr()
    assert exit_code_of(lambda: run(["wandb", "dashboard", *runs])) == 2
    assert "there is no API key for https://api.wandb.ai" in capsys.readouterr().err
    assert exit_code_of(lambda: run(["wandb", "dashboard", *runs, "--out", "x"])) == 2


def test_what_a_dashboard_lacks_is_one_sentence(results, monkeypatch):
    with pytest.raises(UserError, match="none of the 1 selected runs is"):
        report_of(results[4:], "us", "thesis")
    monkeypatch.setattr(util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'trust_exp\[workspaces\]'"):
        report_of(results, "us", "thesis")
