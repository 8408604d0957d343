"""The project's own rows after Losch 2024, chapter 3: nothing is quoted, and all of a table is measured alike."""

import pytest

from trust_exp.compose import composing
from trust_exp.results import experiments
from trust_exp.results.composing import compose_row
from trust_exp.results.series import rows_of

TABLES = {name: experiments.read(name) for name in experiments.names() if name.startswith("sat_small/")}
FILES = {
    f"{name}/{path.stem}": path for name in TABLES for path in sorted((experiments.EXPERIMENTS / name).glob("*.yaml"))
}


def test_all_tables_are_there_and_quote_nothing():
    assert {name: len(table.rows) for name, table in TABLES.items()} == {
        "sat_small/added_class": 2 * 20,
        "sat_small/classes": 2 * 10,
        "sat_small/examples": 3 * (3 * 3 + 2),
        "sat_small/long_tail": 2 * 7,
        "sat_small/weights": 2 * (3 * 3 + 2),
    }
    for table in TABLES.values():
        assert table.source.startswith("after Losch 2024")
        assert table.figure is not None
        assert not any(row.paper.values for row in table.rows)


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_readable_and_its_last_row_runs(file):
    lines = FILES[file].read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith("# ")
    assert max(map(len, lines)) <= 120
    table, name = TABLES[file.rpartition("/")[0]], list(rows_of(FILES[file]))[-1]
    (row,) = [row for row in table.rows if row.name == name]
    with composing():
        checked = compose_row(row, "small")
    assert checked["recipe"]
    attack = checked["eval"].get("autoattack")
    assert (attack is None) == ("difficulty" in file)
    if attack is not None:
        assert (attack["version"], attack["samples"]) == ("fast", 500)
        assert attack["epsilon"] == checked["method"].get("epsilon", attack["epsilon"])


@pytest.mark.slow
def test_the_same_part_is_attacked_whichever_it_is():
    """Of the long tail: what five rare classes have, or as many others."""
    kept = [round(6000 * 50 ** (-number / 9)) for number in range(10)]
    tail, total = sum(kept[5:]), sum(kept)
    shares = {}
    with composing():
        for row in TABLES["sat_small/long_tail"].rows:
            if row.paper.curve in ("head", "random", "hardest", "easiest"):
                subset = compose_row(row, "full")["method"]["subset"]
                of = kept[0] if subset["classes"] == [0] or subset["classes"] == ["0"] else total
                shares[row.name] = round(subset["fraction"] * of)
    assert len(shares) == 8
    assert all(abs(amount - tail) <= 1 for amount in shares.values()), shares
