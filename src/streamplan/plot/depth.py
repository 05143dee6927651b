"""How far each cut sees, and how large its map is, from the image to the latest cut."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator
from torch import nn

from streamplan.module import plan as make_plan
from streamplan.planning import Plan
from streamplan.planning.plan import CutCandidate
from streamplan.plot.figures import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
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

_ONE_TILE = 2**31
"""Samples, more than an image has along an axis: what a cut reads does not depend on the tiles."""
_MOST_LABELS = 32
"""Cuts that are named below the axis."""
_NAME_WIDTH = 22
"""Columns for a name."""
_MOST_MARKERS = 48
"""Cuts up to which each has a marker."""
_STYLES = ("-", "--", ":")
"""Of lines, by image axis."""
_FLAT = 80
"""Characters up to which names stand side by side."""
_Hashable = TypeVar("_Hashable", bound=Hashable)


def save_depth(model: nn.Module, input_size: Any, path: str | Path, **options: Any) -> None:
    """Write a PNG of what the cuts of a model read; see `draw_depth`."""
    save_figure(draw_depth(model, input_size, **options), path)


def draw_depth(model: nn.Module, input_size: Any, **options: Any) -> Figure:
    """What every candidate cut reads of the image, and the bytes of its map.

    Above, on a scale of powers of two: the receptive field of one position, the halo, which is what it reads beyond its
    own samples, and the extent of the image. Axes that are alike share a line. Below, the bytes of the cut values.

    Args:
        model: Any `nn.Module`; it may be on the meta device.
        input_size: Size of the image, batch and channels included.
        **options: Those of `streamplan.plan`; without a tile size or a budget, one tile is planned.

    Raises:
        StreamPlanError: As for `plan`.
    """
    is_open = all(options.get(name) is None for name in ("tile_size", "memory_budget", "max_slowdown"))
    plan = make_plan(model, input_size, **({**options, "tile_size": _ONE_TILE} if is_open else options))
    figure = new_figure(9, 6.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    _draw_fields(above, plan)
    _draw_maps(below, plan)
    _name_cuts(below, plan.cuts)
    set_heading(
        figure,
        f"{plan.model} on {extents_text(plan.input_size)}: what a cut reads, by its depth",
        "samples that one position of the cut reads; halo: those beyond its own share of the image",
    )
    return figure


def strides_of(plan: Plan, candidate: CutCandidate) -> tuple[int, ...]:
    """Samples of the image per position of a cut, along each axis."""
    image = plan.input_size[2:]
    return tuple(max(1, round(whole / part)) for whole, part in zip(image, candidate.extents, strict=True))


def _draw_fields(axes: Axes, plan: Plan) -> None:
    """Receptive field and halo, a line for each group of axes that are alike; extents of the image."""
    fields = list(zip(*(candidate.receptive_field for candidate in plan.cuts), strict=True))
    beyond = list(zip(*(candidate.halo for candidate in plan.cuts), strict=True))
    marker = "o" if len(plan.cuts) <= _MOST_MARKERS else ""
    places = range(len(plan.cuts))
    tidy(axes)
    for style, (extent, name) in zip(_STYLES, _alike(plan.input_size[2:]), strict=False):
        axes.axhline(extent, color=GREEN, linestyle=style, linewidth=1.4, label=f"image{name}: {extent}")
    for style, ((along, more), name) in zip(_STYLES, _alike(list(zip(fields, beyond, strict=True))), strict=False):
        look: dict[str, Any] = {"linestyle": style, "marker": marker, "markersize": 4, "linewidth": 1.4}
        axes.plot(places, along, color=BLUE, label=f"receptive field{name}", **look)
        axes.plot(places, more, color=ORANGE, label=f"halo{name}", **look)
    most = max(*plan.input_size[2:], *(max(line) for line in fields))
    _power_axis(axes, most, has_zero=any(min(line) < 1 for line in beyond))
    axes.set_ylabel("samples", fontsize=SMALL, color=INK)
    axes.legend(fontsize=SMALL, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _alike(by_axis: Sequence[_Hashable]) -> list[tuple[_Hashable, str]]:
    """What axes have, once for those that have the same, with their numbers if there are several groups.

    >>> _alike([5, 5]), _alike([5, 3])
    ([(5, '')], [(5, ', axis 0'), (3, ', axis 1')])
    """
    groups: dict[_Hashable, list[int]] = {}
    for axis, item in enumerate(by_axis):
        groups.setdefault(item, []).append(axis)
    several = len(groups) > 1
    return [(item, f", axis {', '.join(map(str, axes))}" if several else "") for item, axes in groups.items()]


def _power_axis(axes: Axes, most: int, *, has_zero: bool) -> None:
    """Powers of two; with 0 below 1 if it is needed."""
    if has_zero:
        axes.set_yscale("symlog", base=2, linthresh=1, linscale=0.7)
        axes.set_ylim(-0.2, most * 1.5)
    else:
        axes.set_yscale("log", base=2)
        axes.set_ylim(0.8, most * 1.5)
    powers = [2**power for power in range(64) if 2**power <= most * 1.5]
    kept = powers[:: 1 + len(powers) // 12]
    axes.set_yticks([*([0] if has_zero else []), *kept])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:g}"))


def _draw_maps(axes: Axes, plan: Plan) -> None:
    """A bar for the bytes of each cut."""
    counts = [candidate.cut_bytes for candidate in plan.cuts]
    tidy(axes)
    axes.bar(range(len(counts)), counts, 0.7, color=GREY)
    byte_axis(axes, min(counts), max(counts), num_ticks=4)
    axes.set_ylabel("bytes of the cut", fontsize=SMALL, color=INK)


def _name_cuts(axes: Axes, cuts: Sequence[CutCandidate]) -> None:
    """Module paths below the axis, some of them if there are many, the last among them."""
    step = -(-len(cuts) // _MOST_LABELS)
    named = [place for place in range(len(cuts)) if (len(cuts) - 1 - place) % step == 0]
    names = [shorten(cut_name(cuts[place]), _NAME_WIDTH) for place in named]
    if len(named) * max(map(len, names)) <= _FLAT:
        axes.set_xticks(named, names, fontsize=SMALL)
    else:
        axes.set_xticks(named, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=SMALL)
    axes.xaxis.set_minor_locator(MultipleLocator(1))
    axes.tick_params(axis="x", which="minor", length=2 if step > 1 else 0)
    axes.set_xlim(-0.7, len(cuts) - 0.3)


def cut_name(candidate: CutCandidate) -> str:
    """The module that computes a cut, with the number of further values."""
    more = f" +{len(candidate.values) - 1}" if len(candidate.values) > 1 else ""
    return plain_text(candidate.module_path or candidate.values[-1]) + more
