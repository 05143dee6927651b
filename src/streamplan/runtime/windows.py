"""What a call reads of a region: crop, border, and padding that it adds itself; the same for all tiles of a kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamplan.analysis.regions import AxisStep
from streamplan.geometry import Interval
from streamplan.runtime.crops import NativeFit
from streamplan.runtime.segment import Segment


@dataclass(frozen=True, slots=True)
class Window:
    """One read."""

    spans: tuple[Interval, ...] | None
    """Along each image axis, the part of the region that is read; None where that is all of it."""
    border: tuple[tuple[int, int], ...] | None
    """Along each image axis, samples to add before and after; None where there are none."""
    padding: tuple[int, ...]
    """Along each image axis, what the operation adds itself on both sides."""


def find_window(segment: Segment, steps: Sequence[AxisStep], reader: str, source: str, *, native: bool) -> Window:
    """How `reader` reads the region of `source` in a tile.

    Args:
        segment: The segment.
        steps: The tile's steps.
        reader: A call.
        source: A map that it reads.
        native: Whether it is to add padding itself where it can, and to leave samples behind its last window alone.
    """
    reads = [step.reads[reader, source] for step in steps]
    regions = [step.regions[source] for step in steps]
    spans, border = [read.span for read in reads], [(read.before, read.after) for read in reads]
    padding = (0,) * len(steps)
    if native and not any(span.is_empty for span in spans):  # torch refuses maps without samples
        edge = segment.edges[reader, source]
        fits = [
            NativeFit.find(axis_map, read, step.regions[source].stop, step.computed[reader].size)
            for axis_map, read, step in zip(edge.axis_maps, reads, steps, strict=True)
        ]
        padding = tuple(fit.padding for fit in fits)
        spans = [Interval(span.start, fit.stop) for span, fit in zip(spans, fits, strict=True)]
        border = [(0, 0) if fit.padding or not any(pair) else pair for fit, pair in zip(fits, border, strict=True)]
    # An empty span may lie outside the region; which zero samples are taken does not matter.
    inside = tuple(
        Interval(0, 0) if span.is_empty else span.relative_to(region.start)
        for span, region in zip(spans, regions, strict=True)
    )
    is_whole = all(span == Interval(0, region.size) for span, region in zip(inside, regions, strict=True))
    has_border = any(pair != (0, 0) for pair in border)
    return Window(None if is_whole else inside, tuple(border) if has_border else None, padding)
