"""The HTML report: one self-contained page of many runs, which opens from disk and asks the network for nothing.

``runs.py`` says what the page knows of each run, ``curves.py`` and ``figures.py`` keep that small, ``page.py`` puts it
into ``page.html`` with ``page.css``, ``chart.js`` and ``page.js``. What comes from a run is data, never markup.
"""

from trust_exp.results.report.page import About, render, write_report

__all__ = ["About", "render", "write_report"]
