"""Pictures: the marks at all input sizes, and the scores of the study beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slide_study import classify
from slide_study.nets import NUM_LAYERS, PAPER_SIZES
from slide_study.slides import BLOCK, PERIODS, Slide, averaged
from slide_study.stored import FACTORS
from slide_study.study import Run

PAPER_CORRELATIONS = {2048: (0.491, 0.448, 0.533), 4096: (0.570, 0.531, 0.606), 8192: (0.560, 0.520, 0.597)}
"""The paper's table 3, increasing depth: Spearman's correlation on TUPAC16 by input size, and its 95 % interval."""
PAPER_AREAS = {
    "macro-metastases": (0.515, 0.663, 0.827),
    "micro-metastases": (0.689, 0.669, 0.709),
    "isolated tumour cells": (0.450, 0.533, 0.463),
}
"""The paper's table of CAMELYON17 (here called table 5): area under the ROC curve against negative slides."""

_BLUE, _ORANGE, _GREEN, _GREY, _INK = "#0072b2", "#d55e00", "#009e73", "#888888", "#333333"
"""Told apart by those who do not see all colours (Okabe and Ito, 2008)."""
_DPI = 100
_CROP_CORNER = (420, 130)
"""In the photograph: tissue with stained and unstained parts."""


def save_marks(path: Path) -> None:
    """One patch of tissue without marks and with each kind, at all input sizes."""
    extent = 2 * BLOCK
    figure = Figure(figsize=(8, 6.4), dpi=_DPI, layout="constrained")
    grid = figure.subplots(len(FACTORS), len(PERIODS) + 1)
    names = ["no marks", *(f"period {period} px" for period in PERIODS)]
    for column, name in enumerate(names):
        kinds = np.full((2, 2), column, np.int8)
        pixels = Slide(extent, _CROP_CORNER, (0.0,) * len(PERIODS), kinds).pixels(slice(0, extent), slice(0, extent))
        for axes, factor in zip(grid[:, column], reversed(FACTORS), strict=True):
            axes.imshow(averaged(pixels, factor), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if factor == 1:
                axes.set_title(name, fontsize=10, color=_INK)
            if column == 0:
                axes.set_ylabel(_size_name(factor), fontsize=10, color=_INK)
    figure.suptitle(f"{extent} x {extent} pixels of a synthetic slide, as the nets see them", fontsize=11, color=_INK)
    _save(figure, path)


def save_scores(path: Path, runs: Sequence[Run]) -> None:
    """The paper's results above, the study's below; rank correlation left, areas under ROC curves right."""
    figure = Figure(figsize=(9, 7), dpi=_DPI, layout="constrained")
    above, below = figure.subfigures(2, 1)
    above.suptitle("The paper's results (Pinckaers et al., 2020), on real slides", fontsize=11, color=_GREY)
    below.suptitle("Ours, on small synthetic slides with a known answer", fontsize=11, color=_BLUE)
    (left, right), (ours_left, ours_right) = above.subplots(1, 2), below.subplots(1, 2)
    _draw_paper(left, right)
    _draw_correlations(ours_left, runs)
    _draw_areas(ours_right, runs)
    for axes in (left, right, ours_left, ours_right):
        _finish(axes)
    _save(figure, path)


def save_areas(path: Path, runs: Sequence[classify.Run]) -> None:
    """Classifiers: areas under ROC curves, the paper's left, ours right."""
    figure = Figure(figsize=(9, 3.8), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_paper_areas(left, "The paper's CAMELYON17: by metastases, against negative slides")
    places = range(len(runs))
    right.plot(places, [run.area for run in runs], color=_INK, marker="s", linestyle=":", label="any marks")
    _plot_kinds(right, [run.areas for run in runs])
    _finish_areas(right, "Ours, synthetic slides: by marks, against slides without", "lower right")
    right.set_xticks(places, [f"{run.size}²\n{run.num_layers} layers" for run in runs])
    for axes in (left, right):
        _finish(axes)
    _save(figure, path)


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.set_xlim(-0.4, 2.4)
    axes.set_xlabel("input size, pixels", fontsize=9)


def _draw_paper(left: Axes, right: Axes) -> None:
    values = np.array(list(PAPER_CORRELATIONS.values()))
    errors = np.abs(values[:, 1:] - values[:, :1]).T
    left.errorbar(range(3), values[:, 0], errors, color=_GREY, marker="s", capsize=4, label="with its 95 % interval")
    left.set_ylim(0, 1.05)
    left.set_title("TUPAC16, table 3", fontsize=9)
    left.set_ylabel("Spearman's correlation", fontsize=9)
    left.legend(fontsize=8, frameon=False, loc="upper left")
    _set_paper_sizes(left)
    _draw_paper_areas(right, "CAMELYON17, table 5: against negative slides")


def _draw_paper_areas(axes: Axes, title: str) -> None:
    for (name, areas), style in zip(PAPER_AREAS.items(), ("-", "--", ":"), strict=True):
        axes.plot(range(3), areas, color=_GREY, marker="s", linestyle=style, label=name)
    _finish_areas(axes, title, "upper left")
    _set_paper_sizes(axes)


def _set_paper_sizes(axes: Axes) -> None:
    layers = zip(PAPER_SIZES.values(), NUM_LAYERS.values(), strict=True)
    axes.set_xticks(range(3), [f"{size}²\n{count} layers" for size, count in layers])


def _draw_correlations(axes: Axes, runs: Sequence[Run]) -> None:
    sizes = sorted({run.size for run in runs})
    groups = [[run for run in runs if run.size == size] for size in sizes]
    places = range(len(groups))
    axes.plot(
        places,
        [group[0].ceiling for group in groups],
        color=_INK,
        linestyle=":",
        label="at most: what can be seen of the label",
    )
    axes.plot(
        places, [np.mean([run.correlation for run in group]) for group in groups],
        color=_BLUE, marker="o", label="mean over seeds",
    )  # fmt: skip
    for place, group in enumerate(groups):
        axes.plot(
            [place] * len(group), [run.correlation for run in group],
            color=_BLUE, marker="_", markersize=14, linestyle="none", label="" if place else "each seed",
        )  # fmt: skip
    axes.set_ylim(min(0.0, *(run.correlation - 0.05 for run in runs)), 1.05)
    axes.set_title("Spearman's correlation of prediction and label", fontsize=9)
    axes.set_ylabel("Spearman's correlation", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    _set_sizes(axes, groups)


def _draw_areas(axes: Axes, runs: Sequence[Run]) -> None:
    groups = [[run for run in runs if run.size == size] for size in sorted({run.size for run in runs})]
    _plot_kinds(axes, [np.mean([run.areas for run in group], axis=0).tolist() for group in groups])
    _finish_areas(axes, "Slides with one kind of marks, against slides without", "lower left")
    _set_sizes(axes, groups)


def _plot_kinds(axes: Axes, areas: Sequence[Sequence[float]]) -> None:
    """Areas (sizes, kinds)."""
    styles = zip(PERIODS, (_ORANGE, _GREEN, _BLUE), ("^", "D", "o"), strict=True)
    for kind, (period, colour, marker) in enumerate(styles):
        along = [of_size[kind] for of_size in areas]
        axes.plot(range(len(along)), along, color=colour, marker=marker, label=f"marks of period {period} px")


def _finish_areas(axes: Axes, title: str, legend: str) -> None:
    axes.axhline(0.5, color=_INK, linewidth=0.8, linestyle=(0, (1, 3)))
    axes.text(2.4, 0.505, "chance", ha="right", va="bottom", fontsize=8, color=_INK)
    axes.set_ylim(0.3, 1.05)
    axes.set_title(title, fontsize=9)
    axes.set_ylabel("area under the ROC curve", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc=legend)


def _set_sizes(axes: Axes, groups: Sequence[Sequence[Run]]) -> None:
    axes.set_xticks(range(len(groups)), [f"{group[0].size}²\n{group[0].num_layers} layers" for group in groups])


def _size_name(factor: int) -> str:
    return "full extent" if factor == 1 else f"averaged {factor} x {factor}"


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG; equal figures give equal files."""
    figure.savefig(path, format="png", metadata={"Software": None})
