"""The image and its tiles, one of them with what it needs from around it.

Drawn are the last two axes of the first input map, the first row at the top; tiles run in raster order.
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from streamplan.geometry import Interval
from streamplan.planning import Plan
from streamplan.plot.depth import cut_name
from streamplan.plot.figures import GREY, INK, NORMAL, PALE, SMALL, extents_text, new_figure, save_figure, set_heading
from streamplan.plot.grid import AxisTiles, View, tiles_along
from streamplan.plot.middle_tile import draw_middle_tile

_FINE = 16
"""Tiles along an axis from which the surroundings of the middle one are drawn once more, larger."""
_THIN = 40
"""Tiles along an axis from which lines are thin."""
_MOST_NUMBERED = 12
"""Tiles along an axis up to which each has its number."""
_LONGEST = 6
"""Longest over shortest side of what is drawn to scale."""
_STRIP = 6
"""Length over height of the strip that stands for an image with one axis."""
_WIDTH, _WIDE = 7.5, 9.5
"""Inches of a figure with one and with two pictures."""
_AROUND = 2.1
"""Inches of a figure's height that are title and legend."""


def save_tiles(plan: Plan, path: str | Path) -> None:
    """Write a PNG of the image and its tiles; see `draw_tiles`."""
    save_figure(draw_tiles(plan), path)


def draw_tiles(plan: Plan) -> Figure:
    """The image divided into tiles, in pixels, with the tile in the middle highlighted.

    With recomputed halos: the block that is the tile's own, and around it what it reads. With carried halos: the
    samples that are new to it; hatched, the samples behind what it receives from the tile above and from the one to the
    left; and arrows from tile to tile. In a fine grid the middle is drawn once more, larger. Of an image with one axis
    there is no tile above; of one with three axes the last two are drawn. The halo is taken to lie evenly around the
    block, as a plan tells its size alone.
    """
    extents = plan.input_size[2:]
    across = tiles_along(plan, len(extents) - 1, "columns")
    down = tiles_along(plan, len(extents) - 2, "rows") if len(extents) > 1 else _strip(across)
    is_fine = max(len(down.blocks), len(across.blocks)) > _FINE
    views = [View(down, across), *([View(down, across, is_detail=True)] if is_fine else [])]
    figure = new_figure(_WIDE if is_fine else _WIDTH, _AROUND + _height(views))
    pictures = figure.subplots(1, len(views), squeeze=False)[0]
    for axes, view in zip(pictures, views, strict=True):
        _draw_view(axes, view)
    if is_fine:
        _mark_detail(pictures[0], pictures[1], views[1])
    handles = draw_middle_tile(pictures[-1], views[-1], is_carried=plan.halo == "reuse")
    set_heading(figure, *_titles(plan, views), handles)
    return figure


def _strip(across: AxisTiles) -> AxisTiles:
    """The axis that an image with one axis does not have, to draw it as a strip."""
    height = max(1, across.extent // _STRIP)
    return AxisTiles("", height, (Interval(0, height),))


def _is_to_scale(view: View) -> bool:
    rows, columns = view.window
    return bool(view.down.name) and max(rows.size, columns.size) <= _LONGEST * min(rows.size, columns.size)


def _height(views: list[View]) -> float:
    """Inches of the pictures, so that they fill the width if they are not too high."""
    width = _WIDTH - 1 if len(views) == 1 else _WIDE / 2 - 0.7
    ratios = [0.4 if views[0].down.name else 0.18]
    ratios += [rows.size / columns.size for view in views if _is_to_scale(view) for rows, columns in [view.window]]
    return min(_WIDTH - 1, max(1.0, width * max(ratios)))


def _titles(plan: Plan, views: list[View]) -> tuple[str, str]:
    """The title, and what is told in small print."""
    halos = "recomputed" if plan.halo == "recompute" else "carried"
    grid = extents_text(plan.grid) + (f" = {plan.num_tiles}" if len(plan.grid) > 1 else "")
    own = "are its own" if plan.halo == "recompute" else "are new"
    image = plan.inputs[0]
    lines = [
        f"cut at {cut_name(plan.chosen)}; a tile reads at most {extents_text(image.max_read)} samples, "
        f"of which at most {extents_text(image.max_step)} {own}"
    ]
    if len(plan.grid) > 2:
        lines.append("the last two axes are drawn")
    if len(plan.grid) > 1 and not _is_to_scale(views[0]):
        lines.append("not to scale")
    if any(
        len(n) < len(axis.blocks) for n, axis in zip(views[0].numbers, (views[0].down, views[0].across), strict=True)
    ):
        lines.append("tiles where it is grey are left out")
    return f"{plan.model} on {extents_text(plan.input_size)}: {grid} tiles, {halos} halos", "; ".join(lines)


def _draw_view(axes: Axes, view: View) -> None:
    """Axes in pixels, and tiles as outlines."""
    rows, columns = view.window
    axes.set_aspect("equal" if _is_to_scale(view) else "auto")
    axes.set_anchor("NW")
    axes.set_xlim(columns.start, columns.stop)
    axes.set_ylim(rows.stop, rows.start)
    axes.locator_params(nbins=6)
    axes.tick_params(labelsize=SMALL)
    axes.set_xlabel("columns, in pixels" if view.down.name else "samples", fontsize=SMALL, color=INK)
    axes.set_ylabel("rows, in pixels", fontsize=SMALL, color=INK)
    axes.yaxis.set_visible(bool(view.down.name))
    axes.set_facecolor(PALE)
    corners = [
        [(right.start, below.start), (right.stop, below.start), (right.stop, below.stop), (right.start, below.stop)]
        for below in (view.down.blocks[i] for i in view.numbers[0])
        for right in (view.across.blocks[j] for j in view.numbers[1])
    ]
    width = 0.3 if view.most > _THIN else 0.8
    axes.add_collection(PolyCollection(corners, facecolors="white", edgecolors=GREY, linewidths=width, zorder=1))
    if view.most <= _MOST_NUMBERED:
        _draw_numbers(axes, view)


def _draw_numbers(axes: Axes, view: View) -> None:
    """The order in which tiles run."""
    for i in view.numbers[0]:
        for j in view.numbers[1]:
            rows, columns = view.down.blocks[i], view.across.blocks[j]
            axes.text(
                (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2,
                str(i * view.across.num_tiles + j + 1), ha="center", va="center", fontsize=SMALL, color=INK, zorder=7,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.75},
            )  # fmt: skip


def _mark_detail(whole: Axes, detail: Axes, view: View) -> None:
    """Where in the image the larger picture lies."""
    rows, columns = view.window
    frame = Rectangle((columns.start, rows.start), columns.size, rows.size, fill=False, edgecolor=INK, zorder=5)
    frame.set_label("shown larger")
    whole.add_patch(frame)
    for axes, name in ((whole, "the whole image"), (detail, "around the tile in the middle")):
        axes.set_title(name, fontsize=NORMAL, color=INK, loc="left")
