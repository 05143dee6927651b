"""The flush: what is left to compute when the image has ended, spread over steps of its own.

    steps of 4 on 8 samples, two convs k3 p1:    image   4 | 8 |        4 | 8 | 8
                                                 conv 1  3 | 8 |        3 | 7 | 8
                                                 conv 2  2 | 8 |        2 | 6 | 8

At its end the image needs no further samples, so everything could be computed at once; in a deep net that is a large
last step. Until the last step every value advances only as far as it could if the image went on for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamplan.analysis.clusters import Clusters
from streamplan.analysis.regions import StreamedEdge, StreamedPart
from streamplan.geometry import AffineWindow, AveragingWindow, Interval, ScatterWindow

_MOST_FLUSH_STEPS = 4
"""Steps to flush, as a multiple of the steps in which the image arrives."""


def find_paces(
    part: StreamedPart,
    clusters: Clusters,
    axis: int,
    edges: Mapping[str, list[StreamedEdge]],
    boundaries: tuple[int, ...],
) -> list[Mapping[str, int]]:
    """How far each root may advance in every step.

    Args:
        part: The streamed part.
        clusters: Its clusters.
        axis: Image axis.
        edges: Reads between clusters, by reader.
        boundaries: Ends of the steps, as for `schedule_carried_axis`.

    Returns:
        By step, limits by root: none for the last step, nor for any if there is no step to spread the flush over.
    """
    extent = boundaries[-1]
    if boundaries[-2] != extent:
        return [{}] * (len(boundaries) - 1)
    num_new = boundaries.index(extent)
    step = -(-extent // num_new)
    virtual = [*boundaries[1 : num_new + 1], *(extent + step * more for more in range(1, len(boundaries) - num_new))]
    paces: list[Mapping[str, int]] = [_pace(part, clusters, axis, edges, stop) for stop in virtual[:-1]]
    return [*paces, {}]


def count_flush_steps(part: StreamedPart, clusters: Clusters, axis: int, boundaries: tuple[int, ...]) -> int:
    """Steps after the image has ended until every value is complete, each as long as the others."""
    edges = clusters.reads_between(part)
    extent, num_new = boundaries[-1], len(boundaries) - 1
    step = -(-extent // num_new)
    for more in range(_MOST_FLUSH_STEPS * num_new):
        pace = _pace(part, clusters, axis, edges, extent + step * more)
        if all(pace[name] >= part.extents[name][axis] for name in part.order if clusters.root[name] == name):
            return more
    return 0


def _pace(
    part: StreamedPart, clusters: Clusters, axis: int, edges: Mapping[str, list[StreamedEdge]], boundary: int
) -> dict[str, int]:
    """How far each root would get if the image went on for ever and had arrived up to a boundary."""
    first = part.extents[part.input_maps[0]][axis]
    state = {name: boundary * part.extents[name][axis] // first for name in part.input_maps}
    for name in part.order:
        if clusters.root[name] == name:
            state[name] = min(_reachable(part, clusters, axis, edge, state) for edge in edges[name])
    return state


def _reachable(part: StreamedPart, clusters: Clusters, axis: int, edge: StreamedEdge, state: Mapping[str, int]) -> int:
    """The largest stop of an edge's reader that reads no position behind its source's."""
    axis_map, available = edge.axis_maps[axis], state[clusters.root[edge.source]]
    extent = part.extents[edge.reader][axis]
    is_unbounded = isinstance(axis_map, AffineWindow | AveragingWindow | ScatterWindow)
    if not is_unbounded and available >= part.extents[edge.source][axis]:
        return 2 * extent  # a table of positions ends with its map
    if isinstance(axis_map, AffineWindow) and axis_map.num > 0:
        return min(max(axis_map.reach(available), 0), 2 * extent)
    low, high = 0, 2 * extent if is_unbounded else extent
    while low < high:
        middle = (low + high + 1) // 2
        pulled = axis_map.pull(Interval(middle - 1, middle))
        low, high = (middle, high) if pulled.stop <= available else (low, middle - 1)
    return low
