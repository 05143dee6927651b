"""Memory of a training step: bars of what each phase needs, and a curve of what a step took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from streamplan.planning import Plan
from streamplan.planning.forecast import Forecast
from streamplan.planning.projection import PhaseProjection
from streamplan.planning.text import format_bytes
from streamplan.plot.curve import draw_curve
from streamplan.plot.figures import (
    INK,
    NORMAL,
    RED,
    SMALL,
    byte_axis,
    extents_text,
    new_figure,
    save_figure,
    set_heading,
    tidy,
)
from streamplan.plot.measured import MeasuredMemory
from streamplan.plot.refusals import NotDrawableError

ITEM_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "parameters": "#08519c",
        "buffers": "#9ecae1",
        "optimiser state": "#4292c6",
        "image": "#238b45",
        "regions of the image": "#74c476",
        "tensors made for tiles": "#6baed6",
        "cut": "#01665e",
        "gradient of the cut": "#5ab4ac",
        "carried samples": "#6a51a3",
        "carried samples on their way": "#9e9ac8",
        "gradients of carried samples": "#bcbddc",
        "kept tiles": "#8c510a",
        "one tile": "#f16913",
        "inside one tile": "#fdae6b",
        "activations saved for the backward pass": "#d94801",
        "temporaries": "#fee391",
        "gradients and temporaries": "#fec44f",
        "resident part": "#c994c7",
        "gradients of the resident part": "#dd1c77",
        "sums of gradients": "#a50f15",
        "gradients of parameters": "#ef3b2c",
        "work space of kernels": "#bdbdbd",
        "small tensors": "#737373",
    }
)
"""What takes memory, from the bottom of a bar to its top: what is there before a step, maps, tiles, gradients, rest."""
OTHER = "smaller items"
_OTHER_COLOUR, _NEW_COLOUR = "#d9d9d9", "#333333"
"""Of smaller items, and of what is not among the above."""
_LEAST_SHARE = 0.012
"""Items of a bar that take less than this share of the highest bar are drawn together."""
_LEAST_LABELLED = 0.04
"""Share of the axis from which an item tells its size."""
_BAR = 0.72
_GAP = 0.9
"""Between the streamed net's bars and the plain net's."""


def save_memory(plan: Plan, path: str | Path, measured: MeasuredMemory | None = None) -> None:
    """Write a PNG of the memory of a training step; see `draw_memory`."""
    save_figure(draw_memory(plan, measured), path)


def draw_memory(plan: Plan, measured: MeasuredMemory | None = None) -> Figure:
    """Memory of a training step.

    Above, what each phase of the streamed net and of the plain net is projected to need, item by item, with the budget.
    Below, if a step was measured, memory over time with the projected peak of each phase. The curve begins at what is
    there before a step as the plan counts it; the measured step itself adds to that.

    Args:
        plan: The plan.
        measured: What `measure_memory` told of a module with this plan.

    Raises:
        NotDrawableError: The plan does not know what a step takes.
    """
    forecast = forecast_of(plan)
    figure = new_figure(9, 5 if measured is None else 8.4)
    set_heading(figure, f"{plan.model} on {extents_text(plan.input_size)}: memory of a training step", _small(plan))
    if measured is None:
        draw_bars(figure.add_subplot(), plan, forecast)
    else:
        above, below = figure.subplots(2, 1, height_ratios=(1.25, 1), gridspec_kw={"hspace": 0.08})
        draw_bars(above, plan, forecast)
        draw_curve(below, plan, forecast, measured)
    return figure


def _small(plan: Plan) -> str:
    """What the bars are of."""
    halos = "carried" if plan.halo == "reuse" else "recomputed"
    text = f"{plan.num_tiles} tiles with {halos} halos; projected on {plan.device}: the most at once in each phase"
    host = forecast_of(plan).memory.host_bytes
    return f"{text}; {format_bytes(host)} of carried samples in host memory" if host else text


def forecast_of(plan: Plan) -> Forecast:
    """The plan's forecast.

    Raises:
        NotDrawableError: It has none.
    """
    if plan.forecast is None:
        raise NotDrawableError(
            "the plan does not know what a step takes",
            why=plan.forecast_failure or "it was made by planning alone, which projects nothing",
            do="take the plan that streamplan.plan(...) or a streamed module's .plan returns",
        )
    return plan.forecast


def draw_bars(axes: Axes, plan: Plan, forecast: Forecast) -> None:
    """A bar for each phase, of the streamed net and beside it of the plain one."""
    phases = (*forecast.memory.phases, *forecast.plain_memory.phases)
    places = [float(i) for i in range(len(forecast.memory.phases))]
    places += [places[-1] + 1 + _GAP + i for i in range(len(forecast.plain_memory.phases))]
    highest = max(*(phase.num_bytes for phase in phases), plan.memory_budget or 0)
    byte_axis(axes, 0, highest)
    tidy(axes)
    seen = [_draw_bar(axes, place, phase, highest) for place, phase in zip(places, phases, strict=True)]
    axes.set_xticks(places, [phase.phase for phase in phases], fontsize=NORMAL)
    axes.tick_params(axis="x", length=0)
    for name, group in (("streamed", forecast.memory.phases), ("plain net", forecast.plain_memory.phases)):
        at = [place for place, phase in zip(places, phases, strict=True) if any(phase is one for one in group)]
        middle = sum(at) / len(at)
        axes.annotate(
            name, (middle, 0), (0, -24), ("data", "axes fraction"), "offset points",
            ha="center", va="top", fontsize=NORMAL, color=INK, fontweight="bold",
        )  # fmt: skip
    if plan.memory_budget is not None:
        _draw_budget(axes, plan.memory_budget, places[len(forecast.memory.phases)] - (1 + _GAP) / 2)
    _draw_legend(axes, seen)


def _draw_bar(axes: Axes, place: float, phase: PhaseProjection, highest: int) -> list[str]:
    """One bar, from the bottom up; returns what it shows."""
    height, items = 0, drawn_items(phase, highest)
    for what, count in items.items():
        colour = _colour(what)
        axes.bar(place, count, _BAR, bottom=height, color=colour, edgecolor="white", linewidth=0.5)
        if count > _LEAST_LABELLED * highest:
            axes.text(
                place, height + count / 2, format_bytes(count),
                ha="center", va="center", fontsize=SMALL - 1, color=_readable_on(colour),
            )  # fmt: skip
        height += count
    axes.annotate(
        format_bytes(height), (place, height), (0, 2), "data", "offset points",
        ha="center", va="bottom", fontsize=NORMAL, color=INK, fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )  # fmt: skip
    return list(items)


def drawn_items(phase: PhaseProjection, highest: int) -> dict[str, int]:
    """The items of a bar in the order they are stacked, small ones together.

    Args:
        phase: The phase.
        highest: Bytes of the highest bar.
    """
    large = {item.what: item.num_bytes for item in phase.items if item.num_bytes >= _LEAST_SHARE * highest}
    order = {what: place for place, what in enumerate(ITEM_COLOURS)}
    items = dict(sorted(large.items(), key=lambda item: order.get(item[0], len(order))))
    rest = phase.num_bytes - sum(items.values())
    return {**items, OTHER: rest} if rest else items


def _draw_budget(axes: Axes, budget: int, place: float) -> None:
    """The budget as a line across, with its size between the streamed net's bars and the plain net's."""
    axes.axhline(budget, color=RED, linewidth=1.4, linestyle="--", zorder=1.5)
    axes.annotate(
        f"budget\n{format_bytes(budget)}", (place, budget), (0, 3), "data", "offset points",
        ha="center", va="bottom", fontsize=SMALL, color=RED,
    )  # fmt: skip


def _colour(what: str) -> str:
    return _OTHER_COLOUR if what == OTHER else ITEM_COLOURS.get(what, _NEW_COLOUR)


def _readable_on(colour: str) -> str:
    """White on dark colours."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else INK


def _draw_legend(axes: Axes, seen: Sequence[Sequence[str]]) -> None:
    """One legend for all bars, in the order of the stack."""
    shown = {what for bar in seen for what in bar}
    order = [what for what in (*ITEM_COLOURS, *sorted(shown - {OTHER} - set(ITEM_COLOURS)), OTHER) if what in shown]
    handles = [Patch(facecolor=_colour(what), label=what) for what in reversed(order)]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0),
        fontsize=SMALL, frameon=False, labelcolor=INK, borderaxespad=0, handlelength=1.2,
    )  # fmt: skip
