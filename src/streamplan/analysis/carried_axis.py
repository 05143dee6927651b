"""One axis of a streamed part, as the schedule with carried halos sees it: what does not depend on the steps.

Only the roots of clusters count. A call with several sources of one extent, read through one map, reads the same
positions of all of them, and is asked once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamplan.analysis.clusters import Clusters
from streamplan.analysis.regions import EdgeKey, StreamedEdge, StreamedPart, pull_regions
from streamplan.geometry import AffineWindow, AveragingWindow, AxisMap, Interval


@dataclass(frozen=True)
class Window:
    """What a root reads through one map: the same positions of one or of many values, such as those it joins."""

    axis_map: AxisMap
    extent: int
    """Of the values that are read."""
    roots: tuple[str, ...]
    """Roots of those values."""
    keys: tuple[EdgeKey, ...]
    """The reads."""
    affine: AffineWindow | None
    """The map as a window of which every position that is needed reads a sample, not padding alone; None if it is
    none."""


@dataclass(frozen=True)
class CarriedAxis:
    """See above."""

    part: StreamedPart
    clusters: Clusters
    axis: int
    """Image axis."""
    needs: Mapping[str, Interval]
    """Positions of every root that the whole cut demands: the hull over its cluster. Inputs first, then in order."""
    windows: Mapping[str, tuple[Window, ...]]
    """Reads of every root that is computed."""
    inside: tuple[StreamedEdge, ...]
    """Reads inside clusters."""


def carried_axis(part: StreamedPart, clusters: Clusters, axis: int) -> CarriedAxis:
    """Collect what schedules of an axis have in common.

    Args:
        part: The streamed part.
        clusters: Its clusters.
        axis: Image axis.
    """
    edges = clusters.reads_between(part)
    needs = _needs(part, clusters, axis)
    windows = {
        name: _windows(part, clusters, axis, edges[name], needs[name]) for name in needs if name not in part.input_maps
    }
    inside = tuple(edge for edge in part.edges if clusters.is_inside(edge))
    return CarriedAxis(part, clusters, axis, needs, windows, inside)


def _needs(part: StreamedPart, clusters: Clusters, axis: int) -> dict[str, Interval]:
    whole = {name: Interval(0, part.extents[name][axis]) for name in part.frontier}
    demands = pull_regions(part, axis, whole).regions
    hulls: dict[str, Interval] = {}
    for name in (*part.input_maps, *part.order):
        root, demand = clusters.root[name], demands[name]
        known = hulls.get(root, demand)
        hulls[root] = Interval(min(known.start, demand.start), max(known.stop, demand.stop))
    return hulls


def _windows(
    part: StreamedPart, clusters: Clusters, axis: int, edges: list[StreamedEdge], need: Interval
) -> tuple[Window, ...]:
    """The reads of a call, alike ones together."""
    alike: dict[tuple[AxisMap, int], list[StreamedEdge]] = {}
    for edge in edges:
        alike.setdefault((edge.axis_maps[axis], part.extents[edge.source][axis]), []).append(edge)
    return tuple(
        Window(
            axis_map,
            extent,
            tuple(clusters.root[edge.source] for edge in reads),
            tuple(edge.key for edge in reads),
            _affine(axis_map, extent, need),
        )
        for (axis_map, extent), reads in alike.items()
    )


def _affine(axis_map: AxisMap, extent: int, need: Interval) -> AffineWindow | None:
    window = axis_map.window if isinstance(axis_map, AveragingWindow) else axis_map
    if not isinstance(window, AffineWindow) or window.num < 1 or need.is_empty:
        return None
    first, last = window.pull(Interval(need.start, need.start + 1)), window.pull(Interval(need.stop - 1, need.stop))
    return window if first.stop > 0 and last.start < extent else None
