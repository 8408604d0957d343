"""A table as text: what stands where, and that no label can break out of its format."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from trust_exp.results.comparison import Cell, Number, Table, TableRow
from trust_exp.results.formats import FORMATS, to_console, to_csv, to_html, to_latex, to_markdown

NASTY = "a &\nb_c <script>alert(1)</script> | 5% $x$ {y} #1 \\z ~ ^ `q` *s*"
CLEAN, K = "clean/accuracy", "certify/lipschitz"


@pytest.fixture
def table():
    full = TableRow(
        name="full",
        label="CLL, 4C3F",
        group="CIFAR-10",
        cells={
            CLEAN: Cell(Number(0.776, None, 1), Number(0.77, 0.002, 3)),
            K: Cell(Number(709.3, None, 1), Number(700.04, 5.0, 2)),
        },
        size="full",
        seeds=(0, 1, 2),
        runs=("a", "b", "c"),
    )
    small = TableRow(
        name="small",
        label=NASTY,
        group="CIFAR-10",
        note="50% of & <b>",
        cells={CLEAN: Cell(Number(0.5, None, 1), Number(0.5, None, 1), aside=True), K: Cell()},
        size="small",
        reserve="size small: less data or fewer steps than the paper",
        seeds=(0,),
        runs=("d",),
    )
    waiting = TableRow(
        name="waiting",
        label="SOC",
        group="CIFAR-100",
        cells={CLEAN: Cell(Number(0.478, 0.004, 9)), K: Cell(Number(1.4, None, 1))},
        state="not run, cannot yet: method 'soc' does not exist",
    )
    return Table("p/t", "Ti_tle", "Losch 2024", {CLEAN: "Clean (%)", K: "K(f)"}, [full, small, waiting])


def test_every_format_prints_every_label_paper_measured_and_difference(table):
    for name, text in {name: to(table) for name, to in FORMATS.items()}.items():
        assert "CLL, 4C3F" in text, name
        assert "not run, cannot yet" in text
        assert "77.6" in text or name == "csv"
        if name != "csv":
            for number in ("709.3", "700.0", "-9.3", "-0.6", "47.8", "1.4"):
                assert number in text, name


def test_the_console_table(table):
    lines = to_console(table).splitlines()
    text = "\n".join(lines)
    assert re.search(r"^  measured, full, n = 3 +77\.0 ± 0\.2 +700\.0 ± 5\.0 \(n = 2\)$", text, re.MULTILINE)
    assert re.search(r"^  difference +-0\.6 +-9\.3$", text, re.MULTILINE)
    assert re.search(r"^  measured\*, small, n = 1 +50\.0† +-$", text, re.MULTILINE)
    assert re.search(r"^  difference\* +\+0\.0† +-$", text, re.MULTILINE)
    assert re.search(r"^  paper, n = 9 +47\.8 ± 0\.4 +1\.4$", text, re.MULTILINE)
    assert lines.index("CIFAR-10") < lines.index("CLL, 4C3F") < lines.index("CIFAR-100") < lines.index("SOC")
    assert "* no comparison with the paper (size small: less data or fewer steps than the paper)." in text
    assert "† measured with other settings of the eval than the row's." in text


def test_the_papers_numbers_stand_on_lines_that_say_so(table):
    for line in to_console(table).splitlines():
        if "77.6" in line or "709.3" in line or "47.8" in line:
            assert line.strip().startswith("paper")


def test_markdown_has_equal_cells_and_no_open_marks(table):
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    nasty = next(line for line in lines if "alert" in line)
    assert "\\<script>" in nasty
    assert "\\*s\\*" in nasty
    assert "\\`q\\`" in nasty


def test_latex_is_balanced_and_escaped(table):
    text = to_latex(table)
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    for line in rows:
        ends = len(re.findall(r"(?<!\\)&", line)) + 1
        spans = sum(int(width) - 1 for width in re.findall(r"\\multicolumn\{(\d)\}", line))
        assert ends + spans == 4, line
    assert text.count("\\begin{") == text.count("\\end{") == 2
    for escaped in (
        r"a \& b\_c $<$script$>$",
        r"5\% \$x\$ \{y\} \#1 \textbackslash{}z",
        r"50\% of \&",
        r"77.0 $\pm$ 0.2",
    ):
        assert escaped in text
    plain = text.replace("\\\\", "").replace("\\&", "").replace("\\%", "")
    assert len(re.findall(r"(?<!\\)\$", plain)) % 2 == 0
    for letter in "±ε∘†":
        assert letter not in text


def test_csv_is_tidy_and_in_the_metrics_units(table):
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert len(rows) == 6
    assert float(rows[0]["paper_mean"]) == 0.776
    assert (float(rows[0]["measured_mean"]), int(rows[0]["measured_n"])) == (0.77, 3)
    assert float(rows[0]["difference"]) == pytest.approx(-0.006)
    assert rows[0]["runs"] == "a b c"
    assert rows[2]["label"] == NASTY
    assert "size small" in rows[2]["reserve"]
    assert "other settings" in rows[2]["reserve"]
    assert rows[3]["measured_mean"] == rows[3]["paper_mean"] == ""
    assert rows[4]["state"].startswith("not run, cannot yet")


class Tags(HTMLParser):
    """Counts tags and checks that they nest."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_nests_and_lets_nothing_in(table):
    text, tags = to_html(table), Tags()
    tags.feed(text)
    assert not tags.open
    assert tags.seen == {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert "&lt;script&gt;" in text
    widths = []
    for line in re.findall(r"<tr.*?</tr>", text):
        spans = [int(span) for span in re.findall(r'colspan="(\d)"', line)]
        widths.append(len(re.findall("<t[dh]", line)) - len(spans) + sum(spans) + ("rowspan" not in line))
    assert set(widths) <= {4, 5}, "4 columns, of which rows below a label that spans them lack the first"


def test_no_difference_is_printed_as_minus_nothing(table):
    row = table.rows[0]
    row.cells[CLEAN] = Cell(Number(0.776, None, 1), Number(0.77599, None, 1))
    assert "-0.0" not in to_console(table)
