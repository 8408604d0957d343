"""The rows of ProtoNMF's tables: what they quote, read once more from the paper's lines, and that they compose."""

import pytest

from trust_exp.results import experiments
from trust_exp.results.composing import compose_row, composing

TABLES = {name: experiments.read(name) for name in experiments.names() if name.startswith("protonmf")}
ROWS = [(name, row) for name, table in TABLES.items() if table.table == name for row in table.rows]
LATER = {"coc_tiny", "protopshare", "protopool", "def_protopnet", "protoknn"}

TABLE_1 = "43.5 10.2 24.9 6.5 / 99.0 10.6 25.7 1.4 / 110.2 14.8 25.1 2.7"  # ProtoPNet ±, NMF ±, by cycle
TABLE_2 = "79.2 74.7 80.3 76.8 77.6 82.3 65.5 75.1"
TABLE_3 = """
1.3 / 55.1 / 50.7	74.8 / 80.1 / 71.7	75.1 / 76.3 / 71.9
16.4 / 50.8 / 45.1	72.6 / 79.1 / 60.3	75.1 / 76.3 / 71.9
20.4 / 52.1 / 49.3	72.0 / 78.5 / 56.9	75.1 / 76.3 / 71.9
28.4 / 54.8 / 54.3	71.0 / 77.3 / 48.3	75.1 / 76.3 / 71.9
"""


def values(table: str) -> dict[str, dict[str, float]]:
    return {row.name: row.paper.values for row in TABLES[f"protonmf/{table}"].rows}


def test_table_1_quotes_the_paper():
    (found,) = values("table_1").values()
    for cycle, line in enumerate(TABLE_1.split(" / "), 1):
        names = ["feature_error", "feature_error_spread", "nmf_feature_error", "nmf_feature_error_spread"]
        assert [found[f"patches/{name}@{cycle}"] for name in names] == [float(number) for number in line.split()]


def test_table_2_quotes_the_paper():
    found = [100 * told["clean/accuracy"] for told in values("table_2").values()]
    assert found == pytest.approx([float(number) for number in TABLE_2.split()])


def test_tables_3_and_4_quote_the_paper():
    found = values("table_3")
    for count, line in zip((1, 3, 5, 10), TABLE_3.strip().splitlines(), strict=True):
        cells = [[float(number) for number in cell.split(" / ")] for cell in line.split("\t")]
        for network, *numbers in zip(("resnet34", "vit_b32", "coc_tiny"), *cells, strict=True):
            metrics = [f"accuracy_prototypes_only@{count}", f"accuracy_residual_only@{count}", "accuracy@3"]
            assert [100 * found[network][f"prototypes/{name}"] for name in metrics] == pytest.approx(numbers)
    assert values("table_4")["coc_tiny"] == {"prototypes/accuracy@3": 0.719, "prototypes/intervened_accuracy@3": 0.827}


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name}/{row.name}" for name, row in ROWS])
def test_a_row_composes_and_gives_what_its_table_shows(name, row):
    if LATER & set(map(str, row.choices.values())):
        assert "does not exist" in experiments.missing_choices(row)
        return
    with composing():
        checked = compose_row(row, "small" if "small" in name else "full")
    suites = {metric.partition("/")[0] for metric in TABLES[name].columns}
    assert suites <= set(checked["eval"]), "every column is measured"


def test_figures_have_the_runs_of_tables_and_what_the_small_rows_measure_is_printed_nowhere():
    assert {name for name, table in TABLES.items() if table.table != name} == {
        f"protonmf/figure_{number}" for number in (2, 4, 5, 7, 9)
    }
    assert {name: len(table.rows) for name, table in TABLES.items() if "small" in name} == {
        "protonmf_small/bases": 5,
        "protonmf_small/cycles": 1,
    }
    assert not any(row.paper.values for name, row in ROWS if "small" in name)
