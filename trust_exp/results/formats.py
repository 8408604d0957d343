"""A paper's table with measured numbers, as text for the console, Markdown, LaTeX, CSV and HTML.

Each row has one line for the paper's numbers, one for the measured ones and one for their difference, each labelled.
Imports no torch.
"""

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape

from trust_exp.results.comparison import Cell, Number, Table, TableRow

RESERVE, ASIDE = "*", "†"
NONE = "-"
ASIDE_NOTE = "measured with other settings of the eval than the row's"
HEADER_WIDTH = 11


@dataclass(frozen=True)
class Line:
    """One line of a row: ``kind`` is paper, measured, difference or state; a state has no cells."""

    kind: str
    text: str
    cells: list[str] = field(default_factory=list)


def lines(table: Table, row: TableRow) -> list[Line]:
    """The lines of a row, without its label."""
    mark = RESERVE if row.reserve else ""
    paper = [number(table, metric, cell.paper) for metric, cell in row.cells.items()]
    shown = [Line("paper", f"paper{_seeds(row, lambda cell: cell.paper)}", paper)]
    if row.state:
        return [*shown, Line("state", row.state)]
    own = [_measured(table, row, metric, cell) for metric, cell in row.cells.items()]
    shown.append(Line("measured", f"measured{mark}, {row.size}, n = {len(row.runs)}", own))
    if any(cell.difference is not None for cell in row.cells.values()):
        differ = [_difference(table, metric, cell) for metric, cell in row.cells.items()]
        shown.append(Line("difference", f"difference{mark}", differ))
    return shown


def notes(table: Table) -> list[str]:
    """The notes below the table."""
    found = [f"paper: {table.source}. n > 1: mean ± sample standard deviation over n seeds."]
    found += [table.note] if table.note else []
    reserves = sorted({row.reserve for row in table.rows if row.reserve})
    found += [f"{RESERVE} no comparison with the paper ({reserve})." for reserve in reserves]
    if any(cell.aside for row in table.rows for cell in row.cells.values()):
        found.append(f"{ASIDE} {ASIDE_NOTE}.")
    labels = Counter(row.label for row in table.rows)
    for row in table.rows:
        if row.note:
            where = f"{row.group}, " if row.group and labels[row.label] > 1 else ""
            found.append(f"{where}{row.label}: {row.note}.")
    return found


def sections(table: Table) -> Iterator[tuple[str | None, list[TableRow]]]:
    """Consecutive rows of the same group."""
    group: list[TableRow] = []
    for row in table.rows:
        if group and row.group != group[0].group:
            yield group[0].group, group
            group = []
        group.append(row)
    if group:
        yield group[0].group, group


# --- numbers --------------------------------------------------------------------------------------------------------


def number(table: Table, metric: str, value: Number | None) -> str:
    """A number as its column shows it: a percentage with one decimal, else with the paper's decimals; - for None."""
    if value is None:
        return NONE
    factor, digits = _scale(table, metric)
    spread = "" if value.std is None else f" ± {factor * value.std:.{digits}f}"
    return f"{factor * value.mean:.{digits}f}{spread}"


def _scale(table: Table, metric: str) -> tuple[float, int]:
    if "%" in table.columns[metric]:
        return 100.0, 1
    printed = [row.cells[metric].paper for row in table.rows]
    decimals = [len(f"{value.mean:.6g}".partition(".")[2]) for value in printed if value is not None and value.n == 1]
    if not decimals:  # the paper gives no numbers: three decimals if all are at most 1
        found = [abs(value.mean) for row in table.rows if (value := row.cells[metric].measured)]
        return 1.0, 3 if found and max(found) <= 1 else 1
    return 1.0, max(1, min(3, max(decimals)))


def _measured(table: Table, row: TableRow, metric: str, cell: Cell) -> str:
    text = number(table, metric, cell.measured) + (ASIDE if cell.aside else "")
    fewer = cell.measured is not None and cell.measured.n < len(row.runs)
    return f"{text} (n = {cell.measured.n})" if fewer and cell.measured else text


def _difference(table: Table, metric: str, cell: Cell) -> str:
    if cell.difference is None:
        return NONE
    factor, digits = _scale(table, metric)
    return f"{round(factor * cell.difference, digits) + 0.0:+.{digits}f}" + (ASIDE if cell.aside else "")


def _seeds(row: TableRow, of: Callable[[Cell], Number | None]) -> str:
    most = max((found.n for cell in row.cells.values() if (found := of(cell))), default=1)
    return f", n = {most}" if most > 1 else ""


# --- formats --------------------------------------------------------------------------------------------------------


def to_console(table: Table) -> str:
    """Aligned columns of plain text."""
    headers = [textwrap.wrap(label, HEADER_WIDTH) for label in table.columns.values()]
    rows = [(row, lines(table, row)) for row in table.rows]
    shown = [line for _, found in rows for line in found if line.cells]
    first = max(len(line.text) for line in shown) + 2 if shown else 10
    widths = [
        max(max(len(part) for part in header), *(len(line.cells[column]) for line in shown), 1)
        for column, header in enumerate(headers)
    ]

    def aligned(text: str, cells: list[str]) -> str:
        return f"{text:<{first}}" + "".join(f"  {cell:>{w}}" for cell, w in zip(cells, widths, strict=True))

    out = [f"{table.name}: {table.title} ({table.source})", ""]
    depth = max(len(header) for header in headers)
    for level in range(depth):
        out.append(aligned("", [([""] * (depth - len(header)) + header)[level] for header in headers]))
    for group, members in sections(table):
        out += ["", group] if group else [""]
        for row in members:
            out.append(row.label)
            out += [
                aligned(f"  {line.text}", line.cells) if line.cells else f"  {line.text}" for line in lines(table, row)
            ]
    wrapped = [textwrap.fill(note, 110, subsequent_indent="  ") for note in notes(table)]
    return "\n".join(line.rstrip() for line in [*out, "", *wrapped]) + "\n"


def to_markdown(table: Table) -> str:
    """A table of GitHub's Markdown, with its notes as a list."""

    def line(*cells: str) -> str:
        return "| " + " | ".join(cells) + " |"

    columns = [markdown(label) for label in table.columns.values()]
    nothing = [""] * len(columns)
    out = [f"**{markdown(table.title)}** ({markdown(table.source)})", ""]
    out += [line("", "", *columns), line("---", "---", *["---:"] * len(columns))]
    for group, members in sections(table):
        out += [line(f"**{markdown(group)}**", "", *nothing)] if group else []
        for row in members:
            for position, shown in enumerate(lines(table, row)):
                label = markdown(row.label) if position == 0 else ""
                out.append(line(label, markdown(shown.text), *(map(markdown, shown.cells) if shown.cells else nothing)))
    return "\n".join([*out, "", *(f"- {markdown(note)}" for note in notes(table))]) + "\n"


def markdown(text: str) -> str:
    """``text`` on one line, with Markdown's special characters escaped."""
    return "".join(f"\\{letter}" if letter in "\\|*`<" else letter for letter in " ".join(text.split()))


def to_latex(table: Table) -> str:
    """A table environment; it needs the package booktabs."""
    columns = list(table.columns.values())
    width = len(columns) + 2
    out = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{latex(table.title)} ({latex(table.source)})}}",
        f"\\begin{{tabular}}{{ll{'r' * len(columns)}}}",
        "\\toprule",
        " & ".join(["", "", *map(latex, columns)]) + " \\\\",
    ]
    for group, members in sections(table):
        out.append("\\midrule")
        out += [f"\\multicolumn{{{width}}}{{l}}{{\\textbf{{{latex(group)}}}}} \\\\"] if group else []
        for row in members:
            for position, shown in enumerate(lines(table, row)):
                label = latex(row.label) if position == 0 else ""
                cells = list(map(latex, shown.cells))
                text = latex(shown.text)
                state = f"\\multicolumn{{{width - 1}}}{{l}}{{{text}}}"
                out.append(" & ".join([label, text, *cells] if cells else [label, state]) + " \\\\")
    out += ["\\bottomrule", "\\end{tabular}"]
    out += [f"\\par\\raggedright\\footnotesize {latex(note)}" for note in notes(table)]
    return "\n".join([*out, "\\end{table}"]) + "\n"


LATEX = {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "<": "$<$",
    ">": "$>$",
    "±": "$\\pm$",
    "ε": "$\\varepsilon$",
    "∘": "$\\circ$",
    "†": "$^\\dagger$",
    "*": "$^*$",
}


def latex(text: str) -> str:
    """``text`` on one line, with LaTeX's special characters escaped."""
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def to_csv(table: Table) -> str:
    """Tidy CSV, one line per row and metric; numbers in the metrics' own units."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    fields = ("mean", "std", "n")
    writer.writerow(
        ["table", "row", "label", "group", "metric"]
        + [f"paper_{name}" for name in fields]
        + [f"measured_{name}" for name in fields]
        + ["difference", "size", "state", "reserve", "runs"]
    )
    for row in table.rows:
        for metric, cell in row.cells.items():
            reserve = "; ".join(filter(None, (row.reserve, ASIDE_NOTE if cell.aside else "")))
            writer.writerow(
                [table.name, row.name, row.label, row.group, metric]
                + [getattr(cell.paper, name, None) for name in fields]
                + [getattr(cell.measured, name, None) for name in fields]
                + [
                    None if cell.difference is None else round(cell.difference, 10),
                    row.size,
                    row.state,
                    reserve,
                    " ".join(row.runs),
                ]
            )
    return file.getvalue()


def to_html(table: Table) -> str:
    """A <table> for an HTML page; classes: comparison, and group, paper, measured, difference, state on lines."""
    width = len(table.columns) + 2
    heads = "".join(f'<th scope="col">{escape(label)}</th>' for label in table.columns.values())
    out = [
        '<table class="comparison">',
        f"<caption>{escape(table.title)} ({escape(table.source)})</caption>",
        f"<thead><tr><th></th><th></th>{heads}</tr></thead>",
    ]
    for group, members in sections(table):
        out.append("<tbody>")
        if group:
            out.append(f'<tr class="group"><th colspan="{width}" scope="rowgroup">{escape(group)}</th></tr>')
        for row in members:
            found = lines(table, row)
            for position, shown in enumerate(found):
                label = f'<th rowspan="{len(found)}" scope="row">{escape(row.label)}</th>' if position == 0 else ""
                cells = "".join(f"<td>{escape(cell)}</td>" for cell in shown.cells)
                rest = f"<td>{escape(shown.text)}</td>{cells}"
                state = f'<td colspan="{width - 1}">{escape(shown.text)}</td>'
                out.append(f'<tr class="{shown.kind}">{label}{rest if cells else state}</tr>')
        out.append("</tbody>")
    feet = "".join(f'<tr><td colspan="{width}">{escape(note)}</td></tr>' for note in notes(table))
    return "\n".join([*out, f"<tfoot>{feet}</tfoot>", "</table>"]) + "\n"


FORMATS: dict[str, Callable[[Table], str]] = {
    "console": to_console,
    "md": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "html": to_html,
}
