"""The picture of the Pareto front: every plan of it, where it belongs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

import streamplan
from streamplan.plot import draw_pareto_front, save_pareto_front
from tests.plot.plans import PNG, classifier

SIZE = (1, 3, 256, 256)


def dots(figure: Figure) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for group in figure.axes[0].collections for x, y in group.get_offsets()]


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def test_every_point_and_the_plain_net() -> None:
    net = classifier()
    figure = draw_pareto_front(net, SIZE)
    front = streamplan.pareto_front(net, SIZE)
    plan = streamplan.plan(net, SIZE, tile_size=64)
    assert plan.forecast is not None
    plain = (1.0, plan.forecast.plain_memory.peak_bytes)
    assert sorted(dots(figure)) == sorted([*((p.time_ratio, p.peak_bytes) for p in front), plain])
    groups = len({(point.cut, point.halo) for point in front})
    assert len(figure.axes[0].collections) == groups + 1


def test_colours_are_cuts_and_the_legend_names_them() -> None:
    net = classifier()
    axes = draw_pareto_front(net, SIZE).axes[0]
    front = streamplan.pareto_front(net, SIZE)
    of_cut: dict[tuple[str, ...], set[str]] = {}
    for group in axes.collections[:-1]:
        x, y = (float(value) for value in group.get_offsets()[0])
        (point,) = [point for point in front if (point.time_ratio, point.peak_bytes) == (x, y)]
        of_cut.setdefault(point.cut, set()).add(to_hex(group.get_facecolor()[0]))
    assert all(len(colours) == 1 for colours in of_cut.values())
    assert len(set.union(*of_cut.values())) == len(of_cut)
    assert sum(text.startswith("cut at ") for text in legend(axes)) == len(of_cut)
    assert [text for text in legend(axes) if text.endswith("halos")]


def test_labels_stand_apart() -> None:
    figure = draw_pareto_front(classifier(), SIZE)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(boxes) >= 3
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    inside = axes.get_window_extent()
    assert all(inside.x0 <= box.x0 and box.x1 <= inside.x1 for box in boxes)
    assert all(inside.y0 <= box.y0 and box.y1 <= inside.y1 for box in boxes)
    dot_places = axes.transData.transform(dots(figure))
    assert not any(box.contains(x, y) for box in boxes for x, y in dot_places)


def test_what_is_wished_is_a_line() -> None:
    net = classifier()
    middle = streamplan.pareto_front(net, SIZE)[1]
    axes = draw_pareto_front(net, SIZE, memory_budget=middle.peak_bytes, max_slowdown=middle.time_ratio).axes[0]
    across = [list(line.get_ydata()) for line in axes.lines if str(line.get_label()).startswith("budget")]
    down = [list(line.get_xdata()) for line in axes.lines if str(line.get_label()).startswith("slowdown")]
    assert across == [[middle.peak_bytes] * 2]
    assert down == [[middle.time_ratio] * 2]
    far = draw_pareto_front(net, SIZE, memory_budget="1TiB").axes[0]
    assert not any(text.startswith("budget") for text in legend(far))


def test_a_wide_range_is_logarithmic() -> None:
    net = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(40)))
    axes = draw_pareto_front(net, (1, 4, 512, 512)).axes[0]
    assert axes.get_yscale() == "log"
    assert {text.get_text() for text in axes.get_yticklabels()} >= {"16 MiB", "32 MiB", "64 MiB", "128 MiB"}


@pytest.mark.parametrize(("conv", "size"), [(nn.Conv1d, (1, 2, 4096)), (nn.Conv3d, (1, 2, 32, 32, 32))])
def test_other_numbers_of_axes(conv: type[nn.Module], size: tuple[int, ...]) -> None:
    net = nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 4, 3, padding=1))
    assert len(dots(draw_pareto_front(net, size))) == 1 + len(streamplan.pareto_front(net, size))


def test_png(tmp_path: Path) -> None:
    save_pareto_front(classifier(), SIZE, tmp_path / "front.png", halo="reuse")
    assert (tmp_path / "front.png").read_bytes().startswith(PNG)
