"""Figures hold what they are said to hold: drawn values are read back from the axes."""

import numpy as np
import pytest
import torch

from trust_exp.results.comparison import Number
from trust_exp.results.plots import Curve, Figure, Matrix, Panel, Point
from trust_exp.viz import certified, classes, difficulty, plane, style
from trust_exp.viz.curves import draw_curves


def recorded(monkeypatch, module):
    """The axes that the module draws on, for a look at what is on them."""
    seen = []

    def axes(path, *size, **named):
        manager = style.axes(path, *size, **named)

        class Recorder:
            def __enter__(self):
                seen.append(manager.__enter__())
                return seen[-1]

            def __exit__(self, *error):
                return manager.__exit__(*error)

        return Recorder()

    monkeypatch.setattr(module, "axes", axes)
    return seen


def test_curve_falls_where_radii_end(tmp_path, monkeypatch):
    seen = recorded(monkeypatch, certified)
    radii = {"test": np.array([0.1, 0.2, 0.2, 0.4]), "train": np.array([0.3])}
    path = certified.draw_certified_accuracy(tmp_path / "c.png", radii, {"test": 5, "train": 1}, [0.15], "t")
    assert path.stat().st_size > 5000
    (plot,) = seen
    curve = plot.lines[0]
    x, y = curve.get_xdata(), curve.get_ydata()
    for radius in (0.05, 0.15, 0.25, 0.5):
        drawn = y[np.searchsorted(x, radius, side="right") - 1]
        assert drawn == (radii["test"] > radius).sum() / 5
    assert {text.get_text() for text in plot.texts} == {"60.0%", "100.0%"}


def test_plane_marks_exactly_the_violated_points(tmp_path, monkeypatch):
    seen = recorded(monkeypatch, plane)
    points, labels = torch.randn(50, 2), torch.randint(2, (50,))
    violated = torch.zeros(50, dtype=torch.bool)
    violated[[3, 7]] = True
    path = plane.draw_plane(tmp_path / "p.png", lambda grid: grid[:, 0], points, labels, violated, 0.15, "t")
    assert path.stat().st_size > 5000
    (plot,) = seen
    scatters = [
        part for part in plot.collections if len(part.get_offsets()) and part.get_label().startswith(("c", "v"))
    ]
    assert sum(len(part.get_offsets()) for part in scatters) == 50
    (red,) = [part for part in scatters if part.get_label() == "violated (2)"]
    np.testing.assert_allclose(np.asarray(red.get_offsets()), points[violated].numpy(), rtol=1e-6)
    levels = [tuple(part.levels) for part in plot.collections if hasattr(part, "levels")]
    assert (-0.15, 0.15) in levels
    assert (0.0,) in levels


NAMES = ["$a^{$", "$\\nothing$", "a_b^c", "e\\f", "$$", "{0}%s", "\u732b"]  # formulas, some of them broken; a cat


@pytest.mark.filterwarnings("ignore:Glyph")  # that the font has no such letter
def test_names_are_drawn_as_they_are(tmp_path, monkeypatch):
    seen = recorded(monkeypatch, classes)
    some = np.linspace(0, 1, len(NAMES))
    classes.draw_class_accuracies(tmp_path / "a.png", NAMES, some, some, [True] * len(NAMES), "$t^{$")
    assert sorted(label.get_text() for label in seen[0].get_xticklabels()) == sorted(NAMES)
    difficulty.draw_difficulty(tmp_path / "b.png", some, np.arange(len(NAMES)), NAMES, "loss of $x^{$")
    number = Number(1.0, None, 1)
    bars = Panel("$p^{$", "accuracy", "classes", [Curve("$l^{$", [Point(name, number, None) for name in NAMES])])
    cells = [[number] * len(NAMES)] * len(NAMES)
    matrix = Panel("", "accuracy", "matrix", matrix=Matrix(NAMES, NAMES, cells, cells))
    draw_curves(tmp_path / "c.png", Figure("$f^{$", "$x^{$", [[bars], [matrix]], ["$n^{$"], []))
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in "abc")


def test_dollars_make_no_formula(tmp_path):
    with style.axes(tmp_path / "a.png") as plot:
        texts = [plot.text(0, 0, name) for name in ("$ab$", "ab")]
        with_dollars, without = (text.get_window_extent().width for text in texts)
    assert with_dollars > 1.5 * without
