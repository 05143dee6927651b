"""One tile in the middle of the image: its own samples, and what it needs from around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from streamplan.geometry import Interval
from streamplan.plot.figures import BLUE, INK, ORANGE, PURPLE
from streamplan.plot.grid import AxisTiles, View

_ARROW = 0.2
"""Reach of an arrow into a tile, as a share of it."""
_MOST_ARROWS = 16
"""Tiles along an axis up to which arrows lead from each to the next; beyond, only to and from the one in the middle."""


def draw_middle_tile(axes: Axes, view: View, *, is_carried: bool) -> list[Artist]:
    """Draw it, and tell what the legend is made of.

    Args:
        axes: Where tiles are drawn.
        view: The tiles.
        is_carried: Whether tiles hand computed samples to each other; else each reads its whole halo.
    """
    return _draw_carried(axes, view) if is_carried else _draw_recomputed(axes, view)


def _draw_recomputed(axes: Axes, view: View) -> list[Artist]:
    """The block and what is read."""
    rows, columns = view.down.read, view.across.read
    text = f"reads {_size(view, rows, columns)}: its halo reaches {_reach(view)}"
    read = _rectangle(rows, columns, text, facecolor=ORANGE, alpha=0.22, linewidth=0, zorder=3)
    edge = _rectangle(rows, columns, "", fill=False, edgecolor=ORANGE, linestyle="--", linewidth=1.2, zorder=4)
    block = _block(view, "its block of the cut")
    for patch in (read, edge, block):
        axes.add_patch(patch)
    return [block, read]


def _reach(view: View) -> str:
    """How far a halo reaches."""
    named = [axis for axis in (view.down, view.across) if axis.name]
    if len({(axis.before, axis.after) for axis in named}) == 1:
        return f"{named[0].before} before and {named[0].after} after its block"
    return ", ".join(f"{axis.before} before and {axis.after} after its {axis.name}" for axis in named)


def _draw_carried(axes: Axes, view: View) -> list[Artist]:
    """The samples that are new, and those behind what is received: along the columns above the tile as well."""
    handles: list[Any] = [_block(view, "new to it")]
    above, left = view.down.received, view.across.received
    if above.size:
        text = f"samples behind what it receives from the tile above: {above.size} rows"
        handles.append(_hatched(above, view.across.block, text, BLUE, "////"))
    if left.size:
        where = f"to the left: {left.size} columns" if view.down.name else f"before: {left.size}"
        text = f"samples behind what it receives from the tile {where}"
        handles.append(_hatched(Interval(above.start, view.down.block.stop), left, text, PURPLE, r"\\\\"))
    for patch in handles:
        axes.add_patch(patch)
    if _draw_arrows(axes, view):
        text = "what a tile computed and the next one along the axis needs; tiles run in the order of their numbers"
        handles.append(Line2D([], [], color=INK, marker=">", markersize=5, linewidth=1, label=text))
    late = [f"{axis.num_late} along the {axis.name}" for axis in (view.down, view.across) if axis.num_late]
    if late:
        text = f"further steps compute what is left when the image has ended: {', '.join(late)}"
        handles.append(Line2D([], [], linestyle="", label=text))
    return handles


def _draw_arrows(axes: Axes, view: View) -> int:
    """From tile to tile; returns how many."""
    middle = (view.down.middle, view.across.middle)
    is_fine = view.most > _MOST_ARROWS
    shown = [ends for receiver, sender, ends in _arrows(view) if not is_fine or middle in (receiver, sender)]
    for start, stop in shown:
        axes.annotate(
            "", stop, start, zorder=6,
            arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
    return len(shown)


_Index = tuple[int, int]
_Point = tuple[float, float]


def _arrows(view: View) -> Iterator[tuple[_Index, _Index, tuple[_Point, _Point]]]:
    """Receiver, sender and ends of every arrow, across the border between them."""
    down, across = view.numbers
    for i in down:
        for j in across:
            rows, columns = view.down.blocks[i], view.across.blocks[j]
            if j - 1 in across:
                y, ends = _centre(rows), _ends(view.across, j)
                yield (i, j), (i, j - 1), ((ends[0], y), (ends[1], y))
            if i - 1 in down:
                x, ends = _centre(columns), _ends(view.down, i)
                yield (i, j), (i - 1, j), ((x, ends[0]), (x, ends[1]))


def _ends(axis: AxisTiles, receiver: int) -> tuple[float, float]:
    """Where an arrow begins and ends along its axis."""
    sender, block = axis.blocks[receiver - 1], axis.blocks[receiver]
    return sender.stop - _ARROW * sender.size, block.start + _ARROW * block.size


def _block(view: View, what: str) -> Rectangle:
    """The samples that are the tile's own."""
    rows, columns = view.down.block, view.across.block
    number = view.down.middle * view.across.num_tiles + view.across.middle + 1
    text = f"tile {number}: {_size(view, rows, columns)} samples that are {what}"
    return _rectangle(rows, columns, text, facecolor=ORANGE, alpha=0.6, edgecolor=ORANGE, linewidth=1.5, zorder=3)


def _size(view: View, rows: Interval, columns: Interval) -> str:
    return f"{rows.size} \u00d7 {columns.size}" if view.down.name else str(columns.size)


def _hatched(rows: Interval, columns: Interval, label: str, colour: str, hatch: str) -> Rectangle:
    return _rectangle(rows, columns, label, fill=False, edgecolor=colour, hatch=hatch, linewidth=1.2, zorder=4)


def _rectangle(rows: Interval, columns: Interval, label: str, **look: Any) -> Rectangle:
    return Rectangle((columns.start, rows.start), columns.size, rows.size, label=label, **look)


def _centre(interval: Interval) -> float:
    return (interval.start + interval.stop) / 2
