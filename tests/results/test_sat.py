"""The rows of Losch 2024, chapter 3 and appendix A: what they ask for, and what they quote."""

import pytest
from hydra import compose

from trust_exp.compose import Composer, check, composing
from trust_exp.data.sources.cifar import SUPER_CLASSES
from trust_exp.identity import cell_id
from trust_exp.results import experiments
from trust_exp.results.composing import compose_row
from trust_exp.results.series import find_row, rows_of
from trust_exp.schema import CONF

TABLES = {name: experiments.read(name) for name in experiments.names() if name.startswith("sat/")}
OWN = {name: table for name, table in TABLES.items() if table.table == name}
ROWS = [(name, row) for name, table in OWN.items() for row in table.rows]
FILES = {f"{path.parent.name}/{path.stem}": path for name in OWN for path in (experiments.EXPERIMENTS / name).iterdir()}
# One row of each file, in turn the first, the middle and the last; the rest is for the slow test.
SAMPLE = [
    next((f"sat/{file.split('/')[0]}", row) for row in OWN[f"sat/{file.split('/')[0]}"].rows if row.name == names[at])
    for place, (file, path) in enumerate(sorted(FILES.items()))
    for names in [list(rows_of(path))]
    for at in [(0, len(names) // 2, -1)[place % 3]]
]
FAST = SAMPLE[::6]


def name_of(item):
    return f"{item[0]}/{item[1].name}"


def row(path):
    table, _, name = path.partition("/")
    return next(row for row in TABLES[f"sat/{table}"].rows if row.name == name)


def composed(path, size="full"):
    with composing():
        return compose_row(row(path), size)


def printed(table):
    """All numbers that a table or figure quotes: row -> metric -> number."""
    return {row.name: row.paper.values for row in TABLES[f"sat/{table}"].rows if row.paper.values}


# --- which rows there are -------------------------------------------------------------------------------------------


def test_all_figures_and_tables_are_there():
    grid = dict.fromkeys(("hardest first", "easiest first", "random"), 9)
    counts = {name.removeprefix("sat/"): len(table.rows) for name, table in TABLES.items()}
    assert counts == {
        "figure_3_2": 3 * 9,
        "figure_3_4": 10 + 1,
        "figure_3_5": 2 * 10,
        "figure_3_6": 1,
        "figure_3_7": 2 * 20,
        "figure_3_8": 2 * 4,
        "figure_3_9": 3 * (27 + 1),
        "figure_3_10": 3 * (27 + 1),
        "figure_3_11": 2 * (27 + 1),
        "figure_3_12": 3 * (27 + 1),
        "figure_3_13": 3 * (18 + 1),
        "figure_3_14": 3 * (18 + 1),
        "figure_a4": 84,
        "figure_a5": 84,
        "figure_a6": 84,
        "figure_a7": 84,
        "figure_a8": 28,
        "figure_a9": 84,
        "table_3_3": 5,
        "table_3_4": 20,
    }
    for name in ("figure_3_9", "figure_3_10", "figure_3_12", "figure_a6", "figure_a7", "figure_a9"):
        rows = TABLES[f"sat/{name}"].rows
        groups = dict.fromkeys(row.paper.group for row in rows)
        assert len(groups) == 3
        for group in groups:
            curves = [row.paper.curve for row in rows if row.paper.group == group and row.paper.x is not None]
            assert {curve: curves.count(curve) for curve in curves} == grid


def test_every_table_but_3_3_can_be_drawn():
    assert [name for name, table in TABLES.items() if table.figure is None] == ["sat/table_3_3"]


def test_the_added_classes_are_the_super_classes():
    rows = TABLES["sat/figure_3_7"].rows
    names = [known.thesis for known in SUPER_CLASSES.values()]
    for curve in ("CIFAR-10+1", "entropy"):
        assert [row.paper.x for row in rows if row.paper.curve == curve] == names


@pytest.mark.parametrize("file", FILES)
def test_a_file_says_what_it_is(file):
    first, second = FILES[file].read_text().splitlines()[:2]
    assert first == "# @package _global_"
    assert second.startswith("# ")
    assert max(map(len, FILES[file].read_text().splitlines())) <= 120


# --- what they ask for ----------------------------------------------------------------------------------------------

RADII = {"cifar10": 0.5, "cifar100": 0.5, "cifar10plus1": 0.5, "svhn": 0.5}  # the other data sets: 3.0


def assert_is_the_papers(name, row, composer=None):
    """The attacks, the network and the evaluation of sec. 3.3.1, 3.3.5 and A.5, whatever made them so; its cell."""
    checked = compose_row(row, "full", composer=composer)
    method, dataset, attack = checked["method"], checked["dataset"]["name"], checked["eval"].get("autoattack")
    assert checked["recipe"], "it has the paper's schedule"
    inf = name in ("sat/figure_a6", "sat/figure_a7")
    eps = 8 / 255 if inf else RADII.get(dataset, 3.0)
    if name == "sat/figure_3_5":
        eps = {"ε = 0.25": 0.25, "ε = 1.0": 1.0}[row.paper.group]
    if attack is not None:
        assert (attack["norm"], attack["epsilon"]) == ("Linf" if inf else "L2", eps)
    if method["name"] in ("sat", "trades", "fast_at"):
        assert (method["norm"], method["epsilon"]) == ("Linf" if inf else "L2", eps)
        assert checked["model"]["name"] == ("resnet50" if dataset == "imagenet200" else "preact_resnet18")
        assert method["stopping"], "it stops early, by AutoAttack on a part of the test set"
    if method["name"] == "sat":
        step = {0.5: 0.1, 0.25: 0.1, 1.0: 0.2, 3.0: 0.5}.get(eps, 1 / 255)
        assert method["attack"]["step_size"] == pytest.approx(step)
        assert method["attack"]["steps"] == (10 if inf else 7)
    if method["name"] == "fast_at":
        assert (method["step_size"] or 1.25 * eps) == {0.5: 0.625, 3.0: 3.75}[eps]
    if dataset == "flowers102":
        assert checked["dataset"]["test"] == ["val"]
    for metric in TABLES[name].columns:
        assert metric.partition("/")[0] in ("robust", "autoattack", "difficulty")
    return cell_id(checked)


@pytest.mark.parametrize("item", FAST, ids=map(name_of, FAST))
def test_a_row_composes_and_asks_for_what_the_paper_did(item):
    with composing():
        assert_is_the_papers(*item)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_row_composes_and_asks_for_what_the_paper_did():
    cells, composer = {}, Composer()
    with composing():
        for item in ROWS:
            cells.setdefault(item[0], set()).add(assert_is_the_papers(*item, composer))
    assert {name: len(ids) for name, ids in cells.items()} == {name: len(table.rows) for name, table in OWN.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_file_composes_at_each_size():
    composer = Composer()
    with composing():
        for name, row in SAMPLE:
            for size in ("small", "smoke"):
                assert compose_row(row, size, composer=composer)["size"] == size, name


def test_the_part_that_is_attacked_grows_with_x():
    for name, table in OWN.items():
        for row in table.rows:
            if not isinstance(row.paper.x, int | float) or name == "sat/figure_3_8":
                continue
            _, content = find_row(experiments.EXPERIMENTS / name, row.name)
            words = dict(word.split("=", 1) for word in content.get("source", []))
            share = content.get("method", {}).get("subset", {}).get("fraction", words.get("method.subset.fraction"))
            assert float(share or 1) == pytest.approx(row.paper.x / 100)


@pytest.mark.slow
def test_the_same_run_in_two_figures_is_one_run():
    pairs = [
        ("figure_3_4/a_cat", "table_3_3/sat"),
        ("figure_3_4/none", "figure_3_9/cifar10_none"),
        ("figure_3_10/cifar10_hardest_50", "table_3_4/sat_50"),
        ("figure_3_12/cifar10_hardest_30", "figure_3_14/cifar10_pgd_30"),
    ]
    for one, other in pairs:
        assert cell_id(composed(one)) == cell_id(composed(other)), (one, other)
    assert cell_id(composed("figure_3_10/cifar10_hardest_50")) != cell_id(composed("figure_3_9/cifar10_hardest_50"))


def test_a_difficulty_ranking_and_a_transfers_source_are_runs_of_their_own():
    checked = composed("figure_3_12/cifar10_hardest_30")
    assert "method.subset.ranking=[method=standard,dataset=cifar100" in checked["references"]["source"]["written"]
    assert "method.subset.ranking" in composed("figure_3_10/cifar100_easiest_10")["references"]
    assert "method.subset.ranking" not in composed("figure_3_10/cifar100_random_10").get("references", {})


def test_a_row_lacks_nothing_on_other_data():
    """Any row runs on what is at hand, which the docs promise."""
    with composing():
        given = ["+experiments/sat/figure_3_4=a_cat", "dataset=mnist", "model=conv_2c2f", "method.subset.classes=['3']"]
        assert check(compose("config", given))["method"]["subset"]["classes"] == ["3"]


def test_what_they_choose_exists():
    assert {text for _, row in ROWS if (text := experiments.missing_choices(row))} == set()
    assert (CONF / "method" / "transfer.yaml").exists()


# --- the numbers ----------------------------------------------------------------------------------------------------

# As the thesis prints them, line by line.
TABLE_3_3 = """
w/o 91.0 49.6 37.8 39.0
1.0 92.4 41.5 32.0 33.0
6.0 85.9 70.2 42.1 44.9
12.0 81.0 78.2 42.9 46.4
24.0 81.6 80.1 41.8 45.6
"""
TABLE_3_4 = {
    ("trades", "autoattack/accuracy"): "57.2 62.1 65.7 66.1 67.7 67.6 68.2 66.4 69.0 69.0",
    ("trades", "robust/clean_accuracy"): "87.0 87.4 84.2 85.6 84.3 87.0 84.0 88.0 88.4 88.6",
    ("sat", "autoattack/accuracy"): "52.1 59.1 63.3 64.9 66.3 66.8 67.7 68.7 68.5 69.0",
    ("sat", "robust/clean_accuracy"): "91.9 91.2 90.5 89.7 89.4 89.4 89.2 89.4 89.5 89.2",
}
CLEAN, A, B, ALL = "robust/clean_accuracy", "robust/accuracy_a", "robust/accuracy_b", "autoattack/accuracy"


def percent(value):
    return pytest.approx(100 * value)


def test_table_3_3_is_quoted_as_printed():
    found = printed("table_3_3")
    for line in TABLE_3_3.split("\n")[1:-1]:
        beta, *numbers = line.split()
        values = found["sat" if beta == "w/o" else f"trades_{beta.replace('.', '_')}"]
        assert [float(number) for number in numbers] == [percent(values[metric]) for metric in (CLEAN, A, B, ALL)]
    assert len(found) == 5


def test_table_3_3_adds_up():
    """One class of ten is attacked, so the accuracy on all is a tenth of A's and nine tenths of B's."""
    for values in printed("table_3_3").values():
        assert (values[A] + 9 * values[B]) / 10 == pytest.approx(values[ALL], abs=0.00051)


def test_table_3_3_says_what_the_text_says():
    """42.9 (+5.1) on B, 78.2 (+28.6) on A, clean 81.0 (-10.0) at beta = 12."""
    found = printed("table_3_3")
    gains = {metric: 100 * (found["trades_12_0"][metric] - found["sat"][metric]) for metric in (A, B, CLEAN)}
    assert gains == pytest.approx({A: 28.6, B: 5.1, CLEAN: -10.0})
    assert max(found, key=lambda name: found[name][B]) == "trades_12_0", "the best transfer to B"


def test_table_3_4_is_quoted_as_printed():
    found = printed("table_3_4")
    for (stem, metric), text in TABLE_3_4.items():
        names = [f"{stem}_{percent_}" for percent_ in range(10, 100, 10)] + [f"{stem}_full"]
        assert [float(number) for number in text.split()] == [percent(found[name][metric]) for name in names]
    assert len(found) == 20


def test_table_3_4_says_what_the_text_says():
    """66 % at 20,000 examples with TRADES, at 25,000 without; and the misprint that the note names."""
    found = printed("table_3_4")
    at_least_66 = {
        stem: next(n for n in range(10, 100, 10) if found[f"{stem}_{n}"][ALL] >= 0.66) for stem in ("sat", "trades")
    }
    assert at_least_66 == {"trades": 40, "sat": 50}
    assert (found["trades_40"][CLEAN], found["sat_full"][CLEAN]) == (0.856, 0.892)
    assert (found["sat_40"][CLEAN], found["sat_50"][CLEAN]) == (0.897, 0.894)
    assert "89.7" in row("table_3_4/sat_full").paper.note


def test_beta_falls_from_12_to_6_in_equal_steps():
    table = experiments.EXPERIMENTS / "sat" / "table_3_4"
    betas = [
        content["method"]["beta"]
        for name in ("trades", "trades_full")
        for content in rows_of(table / f"{name}.yaml").values()
    ]
    assert betas == pytest.approx([12 - 6 * step / 9 for step in range(10)], abs=1e-4)


# What the text and the captions print of the figures: sections 3.2.4, 3.3.2, 3.3.4, A.5, A.6.
FIGURES = {
    "figure_3_2": {
        ("entropy_10", ALL): 21.0,
        ("entropy_50", ALL): 38.0,
        ("vog_10", ALL): 21.9,
        ("vog_50", ALL): 38.8,
        ("svar_10", ALL): 22.3,
        ("svar_50", ALL): 38.1,
    },
    "figure_3_4": {
        ("a_cat", B): 37.8,
        ("a_automobile", B): 17.1,
        ("a_cat", "robust/class_accuracy[truck]"): 53,
        ("a_automobile", "robust/class_accuracy[truck]"): 35,
        ("a_bird", "robust/class_accuracy[truck]"): 56,
    },
    "figure_3_7": {("extra_rodent", B): 33.3},
    "figure_3_11": {("target_vanilla_10", ALL): 8, ("target_balanced_10", ALL): 30},
    "figure_a6": {("cifar10_hardest_10", ALL): 0, ("cifar100_hardest_10", ALL): 0},
    "figure_a8": {("svhn_hardest_30", ALL): 22, ("svhn_full", ALL): 20},
}


@pytest.mark.parametrize("table", [name.removeprefix("sat/") for name in TABLES if "figure" in name])
def test_a_figure_quotes_what_the_text_prints_and_nothing_else(table):
    found = {
        (name, metric): pytest.approx(100 * value)
        for name, values in printed(table).items()
        for metric, value in values.items()
    }
    assert FIGURES.get(table, {}) == found


def test_figures_without_printed_numbers_say_so():
    for name, table in TABLES.items():
        if "figure" in name and not printed(name.removeprefix("sat/")):
            assert "prints no number of this figure" in table.note, name


def test_the_cat_of_figure_3_4_is_that_of_table_3_3():
    assert printed("figure_3_4")["a_cat"][B] == printed("table_3_3")["sat"][B]
