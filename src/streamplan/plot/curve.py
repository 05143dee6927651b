"""The memory of a measured step over time, under the projected peaks of its phases."""

from __future__ import annotations

from matplotlib.axes import Axes

from streamplan.planning import Plan
from streamplan.planning.forecast import Forecast
from streamplan.planning.text import format_bytes
from streamplan.plot.figures import BLUE, GREY, INK, NORMAL, ORANGE, PALE, RED, SMALL, byte_axis, tidy
from streamplan.plot.measured import MeasuredMemory, MeasuredPhase

_BEFORE = frozenset({"parameters", "buffers", "image"})
"""Items that are there when a measured step begins."""
_NARROW = 0.08
"""Share of the time up to which a phase's name is written upwards."""


def bytes_before(forecast: Forecast) -> int:
    """What is there before a step, as the plan counts it, without the state of an optimiser, which no step here has."""
    return sum(item.num_bytes for item in forecast.memory.phases[0].items if item.what in _BEFORE)


def projected_at(forecast: Forecast, phase: str) -> int | None:
    """Projected peak of a phase, without the state of an optimiser; None for the preparation, which has none."""
    found = next((one for one in forecast.memory.phases if one.phase == phase), None)
    return None if found is None else sum(item.num_bytes for item in found.items if item.what != "optimiser state")


def draw_curve(axes: Axes, plan: Plan, forecast: Forecast, measured: MeasuredMemory) -> None:
    """Memory over time.

    Args:
        axes: Where to draw.
        plan: The plan.
        forecast: Its forecast.
        measured: A step of a module with that plan.
    """
    base = bytes_before(forecast)
    heights = [base + count for count in measured.num_bytes]
    projected = {span.phase: projected_at(forecast, span.phase) for span in measured.phases}
    stop = measured.seconds[-1]
    byte_axis(axes, 0, max(*heights, *(count or 0 for count in projected.values()), plan.memory_budget or 0) * 1.08)
    tidy(axes)
    axes.set_xlim(0, stop)
    axes.set_xlabel("seconds", fontsize=SMALL, color=INK)
    axes.fill_between(measured.seconds, heights, step="post", color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(measured.seconds, heights, drawstyle="steps-post", color=BLUE, linewidth=0.9, label="measured")
    axes.fill_between([0, stop], [base, base], color=GREY, alpha=0.5, linewidth=0, label="there before the step")
    for number, span in enumerate(measured.phases):
        _draw_phase(axes, span, projected[span.phase], stop, is_shaded=number % 2 == 1)
    if plan.memory_budget is not None:
        axes.axhline(plan.memory_budget, color=RED, linewidth=1.4, linestyle="--", label="budget")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(
        unique.values(), unique.keys(), loc="upper left", bbox_to_anchor=(1.0, 1.0),
        fontsize=SMALL, frameon=False, labelcolor=INK, borderaxespad=0, handlelength=1.2,
    )  # fmt: skip
    most, projection = format_bytes(max(heights)), format_bytes(forecast.memory.peak_bytes)
    title = f"measured over one step on the CPU: at most {most}, of {projection} projected"
    axes.set_title(title, loc="left", fontsize=NORMAL, color=INK)


def _draw_phase(axes: Axes, span: MeasuredPhase, projected: int | None, stop: float, *, is_shaded: bool) -> None:
    """The span of a phase, its name, and the most it was projected to need."""
    if is_shaded:
        axes.axvspan(span.start_seconds, span.stop_seconds, color=PALE, alpha=0.6, linewidth=0, zorder=0)
    is_narrow = span.stop_seconds - span.start_seconds < _NARROW * stop
    middle = (span.start_seconds + span.stop_seconds) / 2
    is_at_start = is_narrow and span.start_seconds == 0
    axes.annotate(
        span.phase, (middle, 1), (2 if is_at_start else 0, -3), ("data", "axes fraction"), "offset points",
        ha="left" if is_at_start else "center", va="top", fontsize=SMALL, color=GREY, rotation=90 if is_narrow else 0,
    )  # fmt: skip
    if projected is not None:
        ends = [span.start_seconds, span.stop_seconds]
        axes.plot(
            ends, [projected, projected], color=ORANGE, linewidth=2.5, label="projected", solid_capstyle="projecting"
        )
