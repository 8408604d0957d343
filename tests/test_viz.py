"""Figures hold what they are said to hold: drawn values are read back from the axes, words from the tiles."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from trust_exp.config import FIGURES
from trust_exp.results.comparison import Number
from trust_exp.results.plots import Curve, Figure, Matrix, Panel, Point
from trust_exp.viz import certified, classes, difficulty, plane, style
from trust_exp.viz.contact_sheet import Sheet, Tile, draw_contact_sheet, plain_sheet, write_contact_sheet
from trust_exp.viz.curves import draw_curves
from trust_exp.viz.prototypes import explanation, intervention


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


def words_of(strip):
    """The words of each tile; each shows the image."""
    assert all(tile.image.min() < 255 for tile in strip), "an empty box"
    return [(tile.words, tile.remark) for tile in strip]


def test_an_explanation_names_every_part_of_the_logit_and_has_no_empty_box():
    parts = [3.0, -0.5, 0.25, -0.02]
    strip = explanation(torch.zeros(3, 8, 8), torch.rand(2, 2, 2), torch.rand(2, 2), parts, ("is cat", "said dog"))
    assert words_of(strip) == [
        ("is cat", "said dog: 2.73"),
        ("+3.00", "1"),
        ("-0.50", "2"),
        ("+0.25 residual", "-0.02 bias"),
    ]


def test_an_intervention_says_at_what_is_dropped_what_follows_and_has_no_empty_box():
    given = (torch.zeros(3, 8, 8), torch.rand(3, 2, 2), [3.0, -0.5, 0.25, 0.1, -0.02])
    strip = intervention(*given, [1], ("#4 is cat", "said dog"), "cat", "dog")
    assert words_of(strip) == [
        ("#4 is cat", "said dog"),
        ("+3.00 for dog", "1"),
        ("-0.50", "dropped: now cat"),
        ("+0.25", "3"),
    ]


def test_a_shorter_strip_leaves_its_end_of_the_page_empty():
    tile = Tile(np.zeros((10, 10, 3), np.uint8), "")
    page = Image.open(io.BytesIO(draw_contact_sheet("", Sheet([[tile, tile], [tile]], 2))))
    middle, below = page.width // 2, page.height * 6 // 10  # the title is above
    left = page.crop((0, below, middle, page.height))
    right = page.crop((middle, below, page.width, page.height))
    assert left.getextrema() != right.getextrema() == ((255, 255), (255, 255), (255, 255))


SIGNS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}
DATES = (b"CreationDate", b"ModDate", b"<dc:date>")


@pytest.mark.parametrize("ending", FIGURES)
def test_a_figure_has_the_format_of_its_ending_and_no_date(tmp_path, ending):
    radii = {"test": np.array([0.1, 0.2])}
    drawn = [
        certified.draw_certified_accuracy(tmp_path / folder / f"c.{ending}", radii, {"test": 3}, [0.15], "t")
        for folder in ("a", "b")
    ]
    first, second = (path.read_bytes() for path in drawn)
    assert first == second
    assert first.startswith(SIGNS[ending])
    assert not any(date in first for date in DATES)


def test_a_contact_sheet_has_the_format_of_its_ending_and_all_its_pixels(tmp_path):
    page = "a page", plain_sheet(np.full((2, 8, 8, 3), 77, np.uint8), ["a", "b"], [0, 1])
    for ending in FIGURES:
        first, second = (
            write_contact_sheet(tmp_path / folder / f"s.{ending}", *page).read_bytes() for folder in ("a", "b")
        )
        assert first == second == draw_contact_sheet(*page, f".{ending}")
        assert first.startswith(SIGNS[ending])
        assert not any(date in first for date in DATES)
    width, height = Image.open(io.BytesIO(draw_contact_sheet(*page))).size
    assert f"/Width {width}".encode() in (tmp_path / "a" / "s.pdf").read_bytes()
    assert f"/Height {height}".encode() in (tmp_path / "a" / "s.pdf").read_bytes()


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
