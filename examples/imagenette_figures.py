"""The two figures of `imagenette.py`: loss curves, and how far they are from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREY, PALE, INK = "#0072b2", "#d55e00", "#888888", "#e6e6e6", "#333333"
"""Told apart by those who do not see all colours (Okabe and Ito, 2008)."""
SMALL = 8
"""Font size of small print, in points."""

Points = Sequence[tuple[int, float]]
"""Steps and values."""


def save_curves(path: Path, curves: Mapping[str, Mapping[str, tuple[Sequence[float], Points]]]) -> None:
    """Draw the losses of two runs over each other, one panel for each dtype.

    Args:
        path: A PNG.
        curves: By dtype, then by title, the first one drawn broad and the second thin on top of it: losses of all
            steps, and tuning losses after some.
    """
    figure = Figure(figsize=(9, 3.6), dpi=110, layout="constrained")
    for axes, (dtype, runs) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        styles = ({"color": ORANGE, "linewidth": 4, "alpha": 0.45}, {"color": BLUE, "linewidth": 1.1})
        markers = ({"color": ORANGE, "markersize": 9, "alpha": 0.45}, {"color": BLUE, "markersize": 4})
        for (title, (losses, tuning)), style, marker in zip(runs.items(), styles, markers, strict=True):
            axes.plot(range(1, len(losses) + 1), losses, label=f"{title}, training", **style)
            axes.plot(
                [step for step, _ in tuning], [loss for _, loss in tuning], "o", label=f"{title}, tuning", **marker
            )
        axes.set_title(dtype, loc="left", fontsize=10, color=INK)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xlabel("step", fontsize=9)
        _tidy(axes)
    figure.axes[0].set_ylabel("cross entropy", fontsize=9)
    figure.axes[0].legend(fontsize=SMALL, frameon=False)
    _save(figure, path)


def save_differences(path: Path, differences: Mapping[tuple[str, str], Sequence[float]], parted: float) -> None:
    """Draw relative differences from the conventional loss on a logarithmic axis.

    Args:
        path: A PNG.
        differences: By dtype and title, of all steps; steps without any difference are left out.
        parted: Where curves are said to have parted.
    """
    figure = Figure(figsize=(9, 4.8), dpi=110, layout="constrained")
    axes = figure.subplots()
    titles = list(dict.fromkeys(title for _, title in differences))
    for (dtype, title), values in differences.items():
        steps = [step for step, value in enumerate(values, 1) if value]
        axes.plot(
            steps,
            [values[step - 1] for step in steps],
            "o-" if dtype == "float32" else "s-",
            color=(BLUE, GREY)[titles.index(title)],
            label=f"{dtype}: {title}",
            linewidth=0.8,
            markersize=3,
        )
    for dtype in dict.fromkeys(dtype for dtype, _ in differences):
        _draw_level(axes, torch.finfo(getattr(torch, dtype)).eps / 2, f"one rounding of {dtype}", ORANGE)
    _draw_level(axes, parted, "parted", INK)
    axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=9)
    axes.set_ylabel("difference from the conventional loss, relative", fontsize=9)
    _tidy(axes)
    figure.legend(fontsize=SMALL, frameon=False, loc="outside lower center", ncols=2)
    _save(figure, path)


def _draw_level(axes: Axes, level: float, text: str, colour: str) -> None:
    """A horizontal line with its meaning to the right of it."""
    axes.axhline(level, color=colour, linewidth=0.8, linestyle="--")
    axes.annotate(text, (1.01, level), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL, color=colour)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG; equal figures give equal files."""
    figure.savefig(path, format="png", metadata={"Software": None})
