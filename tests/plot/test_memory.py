"""The picture of memory: bars are the projection, the curve is what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import streamplan
from streamplan.planning.forecast import Forecast
from streamplan.planning.projection import PhaseProjection, ProjectedItem
from streamplan.plot import MeasuredMemory, MeasuredPhase, NotDrawableError, draw_memory, measure_memory, save_memory
from streamplan.plot.memory import ITEM_COLOURS
from tests.plot.plans import PNG, classifier, local_net

SIZE = (1, 3, 128, 128)


@pytest.fixture(scope="module")
def plan() -> streamplan.Plan:
    return streamplan.plan(classifier(), SIZE, tile_size=32, optimizer="adam")


def forecast(plan: streamplan.Plan) -> Forecast:
    assert plan.forecast is not None
    return plan.forecast


def stacks(axes: Axes) -> dict[float, list[tuple[str, float]]]:
    """Colours and heights of the bars at each place."""
    found: dict[float, list[tuple[str, float]]] = {}
    for bar in axes.patches:
        found.setdefault(bar.get_x(), []).append((to_hex(bar.get_facecolor()), bar.get_height()))
    return dict(sorted(found.items()))


def test_bars_are_the_phases(plan: streamplan.Plan) -> None:
    (axes,) = draw_memory(plan).axes
    phases = (*forecast(plan).memory.phases, *forecast(plan).plain_memory.phases)
    heights = [sum(height for _, height in stack) for stack in stacks(axes).values()]
    assert heights == [phase.num_bytes for phase in phases]
    assert max(heights) == max(forecast(plan).memory.peak_bytes, forecast(plan).plain_memory.peak_bytes)
    assert [label.get_text() for label in axes.get_xticklabels()] == [phase.phase for phase in phases]
    tops = sorted(bar.get_y() + bar.get_height() for bar in axes.patches)
    assert tops[-1] < axes.get_ylim()[1]


def test_segments_are_items_in_the_legend_s_colours(plan: streamplan.Plan) -> None:
    (axes,) = draw_memory(plan).axes
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    colours = {to_hex(patch.get_facecolor()): name for patch, name in zip(legend.get_patches(), names, strict=True)}
    assert len(colours) == len(names)
    backward = list(stacks(axes).values())[2]
    items = {item.what: item.num_bytes for item in forecast(plan).memory.phases[2].items}
    shown = {colours[colour]: height for colour, height in backward}
    rest = shown.pop("smaller items", 0)
    assert shown == {name: items[name] for name in shown}
    assert rest == sum(items.values()) - sum(shown.values())
    assert {"image", "work space of kernels"} < set(shown)


def test_items_are_told_apart() -> None:
    assert len(set(ITEM_COLOURS.values())) == len(ITEM_COLOURS)


def test_an_item_nobody_knows_is_drawn(plan: streamplan.Plan) -> None:
    new = PhaseProjection("end", (ProjectedItem("something new", 2**24),))
    memory = replace(forecast(plan).memory, phases=(*forecast(plan).memory.phases[:3], new))
    (axes,) = draw_memory(replace(plan, forecast=replace(forecast(plan), memory=memory))).axes
    legend = axes.get_legend()
    assert legend is not None
    assert "something new" in [text.get_text() for text in legend.get_texts()]
    assert list(stacks(axes).values())[3][0][1] == 2**24


def test_the_budget_is_a_line(plan: streamplan.Plan) -> None:
    peak = forecast(plan).memory.peak_bytes
    (axes,) = draw_memory(replace(plan, memory_budget=2 * peak)).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[2 * peak, 2 * peak]]
    assert not draw_memory(plan).axes[0].lines


def test_the_curve_stands_on_what_was_there(plan: streamplan.Plan) -> None:
    names = ("preparation", "forward", "head", "backward", "end")
    spans = tuple(MeasuredPhase(name, float(i), float(i + 1)) for i, name in enumerate(names))
    measured = MeasuredMemory((0.0, 1.5, 3.5, 5.0), (100, 5000, 90000, 70), spans)
    _, axes = draw_memory(plan, measured).axes
    items = {item.what: item.num_bytes for item in forecast(plan).memory.phases[0].items}
    assert items["optimiser state"] > 0
    base = sum(items[what] for what in ("parameters", "image"))  # there are no buffers
    curve = next(line for line in axes.lines if line.get_label() == "measured")
    assert list(curve.get_xdata()) == [0.0, 1.5, 3.5, 5.0]
    assert list(curve.get_ydata()) == [base + count for count in (100, 5000, 90000, 70)]
    found = [(list(line.get_xdata()), line.get_ydata()[0]) for line in axes.lines if line.get_label() == "projected"]
    phases = forecast(plan).memory.phases
    expected = [phase.num_bytes - items["optimiser state"] for phase in phases]  # no optimiser was measured
    assert found == [([i, i + 1], count) for i, count in zip(range(1, 5), expected, strict=True)]
    assert {text.get_text() for text in axes.texts} == set(names)


def test_a_plan_without_a_forecast(plan: streamplan.Plan) -> None:
    with pytest.raises(NotDrawableError, match="does not know") as caught:
        draw_memory(replace(plan, forecast=None, forecast_failure="RuntimeError: no data"))
    assert caught.value.why == "RuntimeError: no data"
    with pytest.raises(NotDrawableError, match="planning alone"):
        draw_memory(replace(plan, forecast=None))


@pytest.mark.parametrize("num_axes", [1, 3])
def test_other_numbers_of_axes(num_axes: int) -> None:
    plan = streamplan.plan(local_net(num_axes), (1, 1, *(32,) * num_axes), tile_size=16)
    (axes,) = draw_memory(plan).axes
    assert len(stacks(axes)) == 6


def test_png(plan: streamplan.Plan, tmp_path: Path) -> None:
    streamed = streamplan.compile(classifier(), SIZE, tile_size=64)
    save_memory(streamed.plan, tmp_path / "both.png", measure_memory(streamed, torch.randn(SIZE)))
    save_memory(plan, tmp_path / "bars.png")
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("both.png", "bars.png"))
