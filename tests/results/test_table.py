"""A result on the console: values and intervals in the unit of their row."""

import math

import pytest

from trust_exp.results.record import fraction, mean_difference
from trust_exp.results.table import cells, print_result


def row(value, unit, interval=None, n=None, **detail):
    return {"suite": "s", "metric": "m", "value": value, "unit": unit, "n": n, "interval": interval, "detail": detail}


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (row(0.875, "fraction", (0.8, 0.91234), 8, how="L2"), ("87.50%", "80.0-91.2", "8", "L2")),
        (row(1.5, "seconds", (1.25, 1.75), 30), ("1.5", "1.25-1.75", "30", "")),
        (row(0.0712345, "probability", (0.06, 0.08231)), ("0.07123", "0.06-0.08231", "", "")),
        (row(12_345.6, "K", (-2.0, 3e5)), ("1.235e+04", "-2 to 3e+05", "", "")),
        (row(-0.25, "fraction", (-0.3, -0.2), 5), ("-25.00%", "-30.0 to -20.0", "5", "")),
        (row(math.nan, "fraction", None, 0), ("-", "", "0", "")),
        (row(math.nan, "seconds"), ("-", "", "", "")),
        (row(math.inf, "K"), ("inf", "", "", "")),
    ],
)
def test_an_interval_has_the_unit_of_its_row(given, shown):
    assert cells(given) == shown


def test_a_result_is_printed_with_what_was_not_measured(tmp_path, capsys):
    rows = [fraction("s/accuracy", 0, 0), mean_difference("s/gain", [1.0, 2.0], [3.0, 3.0], "seconds")]
    config = {"model": {"name": "m"}, "size": "full", "seed": 0, "recipe": "r"}
    derived = {"derived/scale": math.nan, "derived/bound": 2.0}
    result = {"name": "x", "config": config, "rows": [{"suite": "s", **vars(one)} for one in rows]}
    print_result({**result, "metrics": derived, "seconds": {}, "figures": []}, tmp_path)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["s/accuracy", "-", "0"] in lines
    assert ["s/gain", "-1.5", "-2", "to", "-1", "2"] in lines
    assert ["derived:", "scale", "-,", "bound", "2"] in lines


def printed_figures(figures, folder, capsys) -> list[str]:
    config = {"model": {"name": "m"}, "size": "full", "seed": 0, "recipe": "r"}
    result = {"name": "x", "config": config, "rows": [], "metrics": {}, "seconds": {}, "figures": figures}
    print_result(result, folder)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("figure")]


def test_a_few_figures_are_named_and_many_are_counted(tmp_path, capsys):
    names = [f"figures/prototypes_{label}.png" for label in range(32)]
    assert printed_figures([], tmp_path, capsys) == []
    assert printed_figures(names[:5], tmp_path, capsys) == [f"figure:  {tmp_path / name}" for name in names[:5]]
    assert printed_figures(names, tmp_path, capsys) == [f"figures: 32 in {tmp_path / 'figures'}/"]
    deeper = [*names, "figures/watch/1/plane.png"]
    assert printed_figures(deeper, tmp_path, capsys) == [f"figures: 33 in {tmp_path / 'figures'}/"]
