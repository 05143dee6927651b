"""Memory against time: the plans that no other one beats in both, and the plain net beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import nn

from streamplan.features.front import ParetoPoint, pareto_front
from streamplan.module import plan as make_plan
from streamplan.options import resolve_budget
from streamplan.planning import Plan
from streamplan.planning.text import format_bytes
from streamplan.plot.depth import cut_name
from streamplan.plot.figures import (
    GREY,
    INK,
    RED,
    SMALL,
    byte_axis,
    extents_text,
    new_figure,
    plain_text,
    save_figure,
    set_heading,
    shorten,
    tidy,
)
from streamplan.plot.labels import place_labels
from streamplan.plot.memory import forecast_of

_MARKERS = {"reuse": "o", "recompute": "s"}
_HALOS = {"reuse": "carried", "recompute": "recomputed"}
_MOST_LABELS = 10
_WIDE = 3
"""Largest over smallest time from which their axis is logarithmic."""
_Place = tuple[float, float]
_Line = tuple[_Place, _Place]
_NAME_WIDTH = 26


def save_pareto_front(model: nn.Module, input_size: Any, path: str | Path, **options: Any) -> None:
    """Write a PNG of memory against time; see `draw_pareto_front`."""
    save_figure(draw_pareto_front(model, input_size, **options), path)


def draw_pareto_front(model: nn.Module, input_size: Any = None, **options: Any) -> Figure:
    """Estimated peak memory of a training step against its estimated time over the plain net's.

    A point for every plan of `streamplan.pareto_front`, its colour by the cut and its marker by the halo policy; some
    are named. The plain net is a star at time 1. A budget or a slowdown among the options is a line.

    Args:
        model: Any `nn.Module`; it may be on the meta device.
        input_size: Size of the image, batch and channels included.
        **options: Those of `streamplan.pareto_front`; what they fix is the same in all points.

    Raises:
        StreamPlanError: As for `plan`.
    """
    points = pareto_front(model, input_size, **options)
    plan = _plan_of(points[0], model, input_size, options)
    plain_bytes = forecast_of(plan).plain_memory.peak_bytes
    figure = new_figure(9, 5.6)
    axes = figure.add_subplot()
    known = {candidate.values: place for place, candidate in enumerate(plan.cuts)}
    names = {candidate.values: cut_name(candidate) for candidate in plan.cuts}
    names = {point.cut: names.get(point.cut, plain_text(", ".join(point.cut))) for point in points}
    cuts = sorted({point.cut for point in points}, key=lambda cut: known.get(cut, len(known)))
    colours = {cut: _colour(place, len(cuts)) for place, cut in enumerate(cuts)}
    _draw_points(axes, points, colours, plain_bytes)
    _set_limits(axes, points, plain_bytes)
    wishes = _draw_wishes(axes, options)
    set_heading(
        figure,
        f"{plan.model} on {extents_text(plan.input_size)}: memory against time of a training step",
        f"{len(points)} plans that no other one beats in both, for {plan.device}, estimated from shapes; "
        "names: tile size, kept tiles, cut, halos",
    )
    _draw_legend(axes, points, names, colours)
    _name_points(axes, points, names, plain_bytes, wishes)
    return figure


def _plan_of(point: ParetoPoint, model: nn.Module, input_size: Any, options: Mapping[str, Any]) -> Plan:
    """The plan of a point."""
    fixed = {name: value for name, value in options.items() if name not in {"memory_budget", "max_slowdown"}}
    chosen: dict[str, Any] = {"tile_size": point.tile_size, "cut": point.cut, "halo": point.halo}
    chosen |= {"keep_tiles": point.keep_tiles, "carries": point.carries}
    return make_plan(model, input_size, **{**fixed, **chosen})


def _colour(place: int, count: int) -> str:
    """From dark to light with depth."""
    return to_hex(colormaps["viridis"](0.9 * place / max(1, count - 1)))


def _draw_points(
    axes: Axes, points: Sequence[ParetoPoint], colours: Mapping[tuple[str, ...], str], plain_bytes: int
) -> None:
    """The front as a staircase, its points, and the plain net."""
    tidy(axes)
    times, peaks = [point.time_ratio for point in points], [point.peak_bytes for point in points]
    axes.plot(times, peaks, color=GREY, linewidth=0.8, drawstyle="steps-post", zorder=1)
    for (cut, halo), chosen in _grouped(points).items():
        axes.scatter(
            [point.time_ratio for point in chosen], [point.peak_bytes for point in chosen], s=34,
            marker=_MARKERS[halo], color=colours[cut], edgecolors="white", linewidths=0.5, zorder=3,
        )  # fmt: skip
    axes.scatter([1.0], [plain_bytes], s=150, marker="*", color=RED, edgecolors="white", linewidths=0.5, zorder=4)
    axes.set_xlabel("estimated time over that of the plain net", fontsize=SMALL, color=INK)
    axes.set_ylabel("estimated peak memory", fontsize=SMALL, color=INK)


def _grouped(points: Sequence[ParetoPoint]) -> dict[tuple[tuple[str, ...], str], list[ParetoPoint]]:
    """Points by cut and halo policy."""
    groups: dict[tuple[tuple[str, ...], str], list[ParetoPoint]] = {}
    for point in points:
        groups.setdefault((point.cut, point.halo), []).append(point)
    return groups


def _set_limits(axes: Axes, points: Sequence[ParetoPoint], plain_bytes: int) -> None:
    """Axes that hold all points, logarithmic where the range is wide."""
    peaks = [plain_bytes, *(point.peak_bytes for point in points)]
    byte_axis(axes, min(peaks), max(peaks), may_be_log=True)
    times = [1.0, *(point.time_ratio for point in points)]
    least, most = min(times), max(times)
    if most > _WIDE * least:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.1, most * 1.1)
        ratios = [part * 2.0**power for power in range(-4, 16) for part in (1, 1.5)]
        axes.xaxis.set_major_locator(FixedLocator([ratio for ratio in ratios if least / 1.1 <= ratio <= most * 1.1]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.06 * (most - least) or 0.05
        axes.set_xlim(least - margin, most + margin)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:.3g}\u00d7"))


def _draw_wishes(axes: Axes, options: Mapping[str, Any]) -> list[_Line]:
    """The budget and the slowdown, where they lie within the picture; returns their ends."""
    budget, slowdown = resolve_budget(options.get("memory_budget")), options.get("max_slowdown")
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    lines = []
    if budget is not None and bottom < budget < top:
        axes.axhline(budget, color=RED, linewidth=1.2, linestyle="--", label=f"budget {format_bytes(budget)}")
        lines.append(((left, float(budget)), (right, float(budget))))
    if slowdown is not None and left < slowdown < right:
        axes.axvline(slowdown, color=RED, linewidth=1.2, linestyle=":", label=f"slowdown {slowdown:g}\u00d7")
        lines.append(((slowdown, bottom), (slowdown, top)))
    return lines


def _draw_legend(
    axes: Axes,
    points: Sequence[ParetoPoint],
    names: Mapping[tuple[str, ...], str],
    colours: Mapping[tuple[str, ...], str],
) -> None:
    """Cuts by colour, halo policies by marker, the plain net, and lines."""

    def dot(label: str, colour: str, marker: str, size: float = 6) -> Line2D:
        return Line2D([], [], color=colour, marker=marker, markersize=size, linestyle="", label=label)

    lines, _ = axes.get_legend_handles_labels()
    handles = [dot("plain net", RED, "*", 11), *lines]
    handles += [dot(f"cut at {shorten(names[cut], _NAME_WIDTH)}", colours[cut], "D") for cut in colours]
    halos = {point.halo for point in points}
    handles += [dot(f"{_HALOS[halo]} halos", GREY, mark) for halo, mark in _MARKERS.items() if halo in halos]
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0),
        fontsize=SMALL, frameon=False, labelcolor=INK, borderaxespad=0,
    )  # fmt: skip


def _name_points(
    axes: Axes,
    points: Sequence[ParetoPoint],
    names: Mapping[tuple[str, ...], str],
    plain_bytes: int,
    lines: Sequence[_Line],
) -> None:
    """Name some points: of every cut the fastest and the smallest first, then others between them."""
    wanted = [(len(points), "plain net")]
    wanted += [(number, _name(points[number], names[points[number].cut])) for number in _most_telling(points)]
    places = [*((point.time_ratio, float(point.peak_bytes)) for point in points), (1.0, float(plain_bytes))]
    place_labels(axes, places, wanted[: 1 + _MOST_LABELS], [*_stairs(places[:-1]), *lines])


def _stairs(places: Sequence[_Place]) -> Iterator[_Line]:
    """The lines between points: along the time, then down."""
    for before, after in pairwise(places):
        corner = (after[0], before[1])
        yield before, corner
        yield corner, after


def _most_telling(points: Sequence[ParetoPoint]) -> Iterator[int]:
    """Numbers of points: first and last of each group, then their middles."""
    groups = [[points.index(point) for point in group] for group in _grouped(points).values()]
    picks = ([group[0], group[-1], group[len(group) // 2]] for group in groups)
    in_turn = chain.from_iterable(zip_longest(*picks))
    return iter(dict.fromkeys(number for number in in_turn if number is not None))


def _name(point: ParetoPoint, cut: str) -> str:
    kept = f", {point.keep_tiles} kept" if point.keep_tiles else ""
    return f"{extents_text(point.tile_size)}{kept}\n{shorten(cut, _NAME_WIDTH)}, {_HALOS[point.halo]}"
