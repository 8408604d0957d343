"""Fill the template of the page, so that no data can become markup, and write it in one step."""

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from trust_exp.errors import UserError
from trust_exp.results import experiments
from trust_exp.results.collect import Collection, Found
from trust_exp.results.comparison import fill
from trust_exp.results.formats import to_html
from trust_exp.results.report.runs import Book
from trust_exp.runs import write_out

SCRIPTS = ("chart.js", "data.js", "table.js", "run.js", "page.js")
# U+2028 and U+2029 need no entry: json.dumps escapes all that is not ASCII
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


@dataclass(frozen=True)
class About:
    """What the head of the page says about its origin."""

    runs: str
    selection: Sequence[str]
    made: str
    host: str
    version: str


@dataclass(frozen=True)
class Written:
    """Summary of a written page: runs by status, size in bytes, and a sentence for each unreadable file."""

    statuses: dict[str, int]
    size: int
    unreadable: list[str]


def write_report(found: Collection, about: About, out: Path, figures_mb: float) -> Written:
    """Write the page of all results in ``found`` to ``out``, replacing what is there.

    Raises:
        UserError: if the file cannot be written.
    """
    book = Book(found, figures_mb)
    content = render(book, about).encode(errors="replace")
    write_out(out, content)
    statuses: dict[str, int] = {}
    for run in book.runs:
        statuses[run["status"]] = statuses.get(run["status"], 0) + 1
    return Written(statuses, len(content), book.unreadable)


def render(book: Book, about: About) -> str:
    """The whole page as text."""
    style, script = _asset("page.css"), "\n".join(_asset(name) for name in SCRIPTS)
    tables = [_article(*found) for found in paper_tables(book.shown, book.unreadable)]
    notes = {"unreadable": book.unreadable, "alarms": book.alarms}
    count = f"{len(book.runs):,} run{'s' * (len(book.runs) != 1)}"
    return Template(_asset("page.html")).substitute(
        policy=policy(style, script),
        title=html.escape(f"{count} in {about.runs}"),
        style=style,
        about=_about(count, about),
        tables="\n".join(tables),
        index=embed(book.index() | notes),
        script=script,
        details="\n".join(_blocks(book)),
    )


def embed(value: Any) -> str:
    """``value`` as JSON that cannot end its script element; nan and inf, which JSON lacks, become strings."""
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_without_nan(value), separators=(",", ":"))
    return text.translate(ESCAPES)


def policy(style: str, script: str) -> str:
    """Content security policy: the page's own style, script and embedded pictures, and nothing else."""
    return (
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _about(count: str, about: About) -> str:
    selected = f"selected by <code>{html.escape(' '.join(about.selection))}</code>" if about.selection else ""
    made = html.escape(f"made {about.made[:16].replace('T', ' ')} UTC on {about.host} by trust_exp {about.version}")
    parts = (f"{count} in <code>{html.escape(about.runs)}</code>", selected, made)
    return "".join(f"<span>{part}</span>" for part in parts if part)


def paper_tables(results: Sequence[Found], unreadable: list[str]) -> Iterator[tuple[str, str]]:
    """Name and HTML of each paper's table with a measured cell; a sentence about each unreadable table is appended."""
    for name in experiments.names():
        try:
            table = fill(name, results)
        except UserError as error:
            unreadable.append(str(error))
            continue
        if not table.is_empty:
            yield name, to_html(table)


def _article(name: str, table: str) -> str:
    return f'<article><h2>{html.escape(name)}</h2><div class="scroll">{table}</div></article>'


def _blocks(book: Book) -> Iterator[str]:
    """One data block for each run and each picture; the page parses them when it needs them."""
    for i, detail in enumerate(book.details):
        yield f'<script type="application/json" id="run-{i}">{embed(detail)}</script>'
    for i, picture in enumerate(book.album.pictures):
        yield f'<script type="text/plain" id="picture-{i}">{picture}</script>'


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
