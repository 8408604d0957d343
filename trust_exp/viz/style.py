"""One look for all figures: drawn without a display, saved as PNG, PDF or SVG."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#d9730d", "#448361", "#9065b0", "#787774")
VIOLATED = "#e03e3e"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "text.parse_math": False,  # names of classes may have $, ^, _ or \
    "text.usetex": False,
}


UNDATED: dict[str, Any] = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}


def save(figure: Figure, file: Path | BinaryIO, ending: str) -> None:
    """Write a figure as ``ending`` says: .png with 160 dots an inch, .pdf or .svg.

    The same figure gives the same bytes: PDF and SVG hold no date, and the names within an SVG are not random.
    """
    with mpl.rc_context({"svg.hashsalt": "trust_exp"}):
        figure.savefig(file, format=ending.removeprefix("."), dpi=160, metadata=UNDATED.get(ending))


@contextmanager
def axes(path: Path, width: float = 4.8, height: float = 3.4) -> Iterator[Axes]:
    """Axes to draw on; saved to ``path`` when the body ends, see ``save``."""
    with mpl.rc_context(STYLE):
        figure = Figure((width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.add_subplot()
        path.parent.mkdir(parents=True, exist_ok=True)
        save(figure, path, path.suffix)
