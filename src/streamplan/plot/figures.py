"""What all pictures share: figures without pyplot, one way to save them, colours, and units of axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from streamplan.ir import escaped
from streamplan.planning.text import format_bytes

DPI = 110
"""Dots per inch: a figure of 9 inches fits a page of documentation."""
SMALL, NORMAL, LARGE = 8, 9, 11
"""Font sizes, in points."""

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072b2", "#d55e00", "#009e73", "#b2182b", "#7b5aa6"
"""Told apart by those who do not see all colours (Okabe and Ito, 2008), but for the last two."""
INK, GREY, PALE = "#333333", "#888888", "#e6e6e6"

_MARGIN, _TITLE, _LINE, _CHARACTER = 0.1, 0.25, 0.17, 0.059
"""Inches: above the title, of the title, and of a line and a character of the small print."""
_WIDE = 6
"""Largest over smallest value from which an axis is logarithmic."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that belongs to no window; sizes in inches."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG; equal figures give equal files."""
    figure.savefig(path, format="png", metadata={"Software": None})


def plain_text(text: str) -> str:
    """Text with names in it, as it is: on one line, and no formula between dollar signs."""
    return escaped(text).replace("$", r"\$")


def set_heading(figure: Figure, title: str, below: str, legend: Sequence[Artist] = ()) -> None:
    """A title at the top left, what is told in small print under it, and a legend at the bottom; room is made for them.

    Args:
        figure: The figure.
        title: One line.
        below: Small print; wrapped.
        legend: Artists with labels; none for a figure whose legend stands elsewhere.
    """
    width, height = figure.get_size_inches()
    lines = wrap(plain_text(below), int(width / _CHARACTER))
    room = _MARGIN + _TITLE + _LINE * len(lines)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    foot = (_LINE * len(legend) + 2 * _MARGIN) / height if legend else 0
    engine.set(rect=(0, foot, 1, 1 - room / height - foot))
    left, top = _MARGIN / width, 1 - _MARGIN / height
    if legend:
        figure.legend(
            handles=legend, loc="lower left", bbox_to_anchor=(left, _MARGIN / height), borderaxespad=0, borderpad=0,
            fontsize=SMALL, frameon=False, labelcolor=INK, labelspacing=0.5,
        )  # fmt: skip
    figure.text(left, top, plain_text(title), ha="left", va="top", fontsize=LARGE, color=INK)
    figure.text(
        left, top - _TITLE / height, "\n".join(lines),
        ha="left", va="top", fontsize=SMALL, color=GREY, linespacing=1.3,
    )  # fmt: skip


def tidy(axes: Axes) -> None:
    """Only the lines that are read."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def byte_axis(axes: Axes, least: float, most: float, *, may_be_log: bool = False, num_ticks: int = 8) -> None:
    """The vertical axis in binary units, from 0 on or, if it may be and the range is wide, logarithmic.

    Args:
        axes: Where bytes are drawn.
        least: Smallest value drawn.
        most: Largest value drawn.
        may_be_log: Whether the axis need not begin at 0.
        num_ticks: Most ticks above 0.
    """
    if may_be_log and most > _WIDE * least > 0:
        axes.set_yscale("log", base=2)
        axes.set_ylim(least / 1.3, most * 1.3)
        powers = [2.0**power for power in range(64) if least / 1.3 <= 2.0**power <= most * 1.3]
        axes.yaxis.set_major_locator(FixedLocator(powers))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        step = _byte_step(most, num_ticks)
        axes.set_ylim(0, most * 1.1)
        axes.yaxis.set_major_locator(FixedLocator([step * i for i in range(int(most * 1.1 / step) + 1)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: short_bytes(count)))


def _byte_step(most: float, num_ticks: int) -> int:
    """The smallest power of two of which no more than so many fit."""
    step = 1
    while most / step > num_ticks:
        step *= 2
    return step


def short_bytes(count: float) -> str:
    """A number of bytes for a tick.

    >>> short_bytes(0), short_bytes(1536), short_bytes(3 * 2**30)
    ('0', '1.5 KiB', '3 GiB')
    """
    if not count:
        return "0"
    number, unit = format_bytes(round(count)).split()
    return f"{float(number):g} {unit}"


def shorten(text: str, width: int) -> str:
    """The end of a text that is too long.

    >>> shorten("layer1.0.conv1", 10), shorten("layer1.0.conv1", 9)
    ('...0.conv1', '...conv1')
    """
    return text if len(text) <= width else "..." + text[3 - width :].lstrip(".")


def extents_text(extents: tuple[int, ...]) -> str:
    """`512 x 256`, with the sign that printers use."""
    return " \u00d7 ".join(map(str, extents))
