"""What all pictures share, and the package without matplotlib."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from matplotlib import _pylab_helpers
from matplotlib.text import Text
from torch import nn

import streamplan
from streamplan import plot
from streamplan.ir import escaped
from streamplan.plot import draw_depth, draw_tiles
from streamplan.plot.figures import byte_axis, new_figure, set_heading
from tests.plot.plans import classifier


@pytest.mark.parametrize(
    ("most", "ticks"),
    [
        (900, ["0", "128 B", "256 B", "384 B", "512 B", "640 B", "768 B", "896 B"]),
        (3 * 2**30, ["0", "512 MiB", "1 GiB", "1.5 GiB", "2 GiB", "2.5 GiB", "3 GiB"]),
    ],
)
def test_ticks_are_round_in_binary_units(most: float, ticks: list[str]) -> None:
    axes = new_figure(4, 3).add_subplot()
    byte_axis(axes, 0, most)
    assert [label.get_text() for label in axes.get_yticklabels()] == ticks


def test_a_wide_range_is_logarithmic_if_it_may_be() -> None:
    axes = new_figure(4, 3).add_subplot()
    byte_axis(axes, 2**28, 2**31, may_be_log=True)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["256 MiB", "512 MiB", "1 GiB", "2 GiB"]
    axes = new_figure(4, 3).add_subplot()
    byte_axis(axes, 2**30, 2**31, may_be_log=True)
    assert axes.get_ylim()[0] == 0


def test_small_print_is_wrapped_above_the_picture() -> None:
    figure = new_figure(4, 4)
    axes = figure.add_subplot()
    set_heading(figure, "Title", "a line of small print that is far too long for a figure of four inches " * 2)
    figure.draw_without_rendering()
    below = figure.texts[1]
    assert below.get_text().count("\n") >= 1
    box = below.get_window_extent()
    assert box.y0 >= axes.get_window_extent().y1
    assert box.x1 <= figure.bbox.x1


def test_pyplot_knows_of_nothing() -> None:
    draw_depth(classifier(), (1, 3, 32, 32))
    draw_tiles(streamplan.plan(classifier(), (1, 3, 32, 32), tile_size=16))
    assert not _pylab_helpers.Gcf.figs


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("streamplan.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(streamplan, "plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'streamplan\[plot\]'") as caught:
        importlib.import_module("streamplan.plot")
    assert isinstance(caught.value, streamplan.StreamPlanError)


@pytest.mark.parametrize("name", ["$\\frac$", "$x", "a\nb", "{x}", "[/b]"])
def test_names_are_drawn_as_they_are(name: str, tmp_path: Path) -> None:
    """A dollar sign begins no formula; one that cannot be read would fail."""
    model = type(name, (nn.Sequential,), {})()
    for number in range(3):
        model.add_module(f"{name}{number}", nn.Conv2d(3, 3, 3, stride=1 + number % 2))
    size, path = (1, 3, 40, 40), tmp_path / "x.png"
    plan = streamplan.plan(model, size, 16)
    plot.save_tiles(plan, path)
    plot.save_memory(plan, path)
    plot.save_depth(model, size, path)
    plot.save_pareto_front(model, size, path)
    figure = plot.draw_depth(model, size)
    assert any(text.get_text().startswith(escaped(name).replace("$", "\\$")) for text in figure.findobj(Text))
