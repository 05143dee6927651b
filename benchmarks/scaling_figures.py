"""Draws what `benchmarks.scaling` wrote: lines are projected, points with bars are measured.

Projected memory is the plan's. A plan tells time as a ratio to the plain net's, so lines of time need one measured
number for each net: the plain net's seconds at the image size where tiles are varied. Plain seconds at other sizes are
those times the ratio of the areas; streamed seconds are those times the plan's ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

Result = dict[str, Any]
_NAMES = {"plain": "plain", "reuse": "streamed, halos carried", "recompute": "streamed, halos recomputed"}
_COLOURS = {"plain": "#444444", "reuse": "#00796b", "recompute": "#d9822b"}
_MARKERS = {"plain": "s", "reuse": "o", "recompute": "^"}
_TITLES = {"tupac": "the paper's net (TUPAC16, 22 layers)", "resnet50": "ResNet-50"}
_UNITS = {"seconds": 1.0, "peak_bytes": 1 / 2**30}
_LABELS = {"seconds": "seconds", "peak_bytes": "peak memory, GiB"}
_STEPS = {"seconds": "steps", "peak_bytes": "memory_steps"}
"""Which steps tell it."""
Series = list[tuple[float, float]]


def draw(results: Result, folder: Path) -> list[Path]:
    """Draw both figures; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"tile": _draw_tiles, "input": _draw_images}
    return [_draw(results, folder / f"scaling-{kind}.png", draw_axes) for kind, draw_axes in kinds.items()]


def _draw(results: Result, path: Path, draw_axes: Callable[[Axes, Result, str], None]) -> Path:
    nets = results["nets"]
    figure = Figure(figsize=(9, 3.4 * len(nets) + 0.5), dpi=100, layout="constrained")
    panels = figure.subplots(len(nets), 2, squeeze=False)
    for row, net in zip(panels, nets, strict=True):
        for axes, quantity in zip(row, _UNITS, strict=True):
            draw_axes(axes, net, quantity)
            axes.set_ylabel(_LABELS[quantity])
            axes.set_title(_TITLES[net["net"]], fontsize=10)
            axes.grid(visible=True, alpha=0.3)
    handles, labels = panels[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(path)
    return path


def _draw_tiles(axes: Axes, net: Result, quantity: str) -> None:
    """Against the tile, at one image size."""
    image = net["image"]
    extents = sorted({point["tile"] for point in net["projected"] if point["image"] == image})
    for method in ("reuse", "recompute"):
        points = [p for p in net["projected"] if p["image"] == image and p["method"] == method and "reason" not in p]
        _line(axes, method, [(point["tile"], projected(net, point, quantity)) for point in points])
        _points(axes, net, method, quantity, lambda p: p["tile"], image=image)
    plain = plain_projected(net, image, quantity)
    _line(axes, "plain", [] if plain is None else [(extents[0], plain), (extents[-1], plain)])
    _points(axes, net, "plain", quantity, lambda p: p["image"], image=image)
    axes.set_ylim(bottom=0)
    axes.set_xscale("log", base=2)
    _name_extents(axes, f"tile, pixels along each axis; image {image} x {image}", extents)


def _draw_images(axes: Axes, net: Result, quantity: str) -> None:
    """Against the image, at one tile size."""
    tile = net["tile"]
    points = [p for p in net["projected"] if p["tile"] == tile and p["method"] == "reuse" and "reason" not in p]
    points.sort(key=lambda p: int(p["image"]))
    _line(axes, "plain", [(p["image"], plain_projected(net, p["image"], quantity)) for p in points])
    _line(axes, "reuse", [(p["image"], projected(net, p, quantity)) for p in points])
    _points(axes, net, "plain", quantity, lambda p: p["image"])
    _points(axes, net, "reuse", quantity, lambda p: p["image"], tile=tile)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=10)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _name_extents(axes, f"image, pixels along each axis; tile {tile} x {tile}", [p["image"] for p in points])


def projected(net: Result, point: Result, quantity: str) -> float | None:
    """What a plan tells of a point, in the unit of the figure; None if the plain net was not timed."""
    if quantity == "peak_bytes":
        return float(point["peak_bytes"]) * _UNITS[quantity]
    plain = plain_projected(net, point["image"], quantity)
    return None if plain is None else plain * float(point["time_ratio"])


def plain_projected(net: Result, image: int, quantity: str) -> float | None:
    """The same of the plain net on an image."""
    if quantity == "peak_bytes":
        known = (p["plain_peak_bytes"] for p in net["projected"] if p["image"] == image and "reason" not in p)
        value = next(known, None)
        return None if value is None else float(value) * _UNITS[quantity]
    timed = [p for p in net["measured"] if p["method"] == "plain" and p["image"] == net["image"] and p["steps"]]
    if not timed:
        return None
    return median(step[quantity] for step in timed[0]["steps"]) * float(image / net["image"]) ** 2


def _line(axes: Axes, method: str, values: Sequence[tuple[float, float | None]]) -> None:
    known = [(x, y) for x, y in values if y is not None]
    if known:
        xs, ys = zip(*known, strict=True)
        axes.plot(xs, ys, color=_COLOURS[method], linewidth=1.3, label=f"{_NAMES[method]}, projected")


def _points(
    axes: Axes, net: Result, method: str, quantity: str, where: Callable[[Result], float], **fixed: int
) -> None:
    """Medians of what was measured, with bars from the least to the most."""
    points = [
        point
        for point in net["measured"]
        if point["method"] == method and point["steps"] and all(point[name] == value for name, value in fixed.items())
    ]
    if not points:
        return
    samples = [[step[quantity] * _UNITS[quantity] for step in point[_STEPS[quantity]]] for point in points]
    middles = [median(each) for each in samples]
    bars = [
        [middle - min(each) for middle, each in zip(middles, samples, strict=True)],
        [max(each) - middle for middle, each in zip(middles, samples, strict=True)],
    ]
    axes.errorbar(
        [where(point) for point in points],
        middles,
        yerr=bars,
        fmt=_MARKERS[method],
        color=_COLOURS[method],
        markersize=6,
        capsize=3,
        label=f"{_NAMES[method]}, measured",
    )


def _name_extents(axes: Axes, label: str, extents: Sequence[int]) -> None:
    powers = [extent for extent in extents if extent & (extent - 1) == 0]
    axes.set_xticks(powers)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label)
