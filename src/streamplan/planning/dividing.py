"""Tile sizes and the steps along every axis.

boundaries along an axis, in samples:   tile_size=40, extent 100, effective stride 8  ->  0 40 80 100
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from streamplan.analysis.carried_axis import carried_axis
from streamplan.analysis.carrying import KnownReads, schedule_carried_axis
from streamplan.analysis.clusters import Clusters, find_clusters
from streamplan.analysis.flush import count_flush_steps
from streamplan.analysis.regions import StreamedPart
from streamplan.analysis.schedule import (
    AxisSchedule,
    InfeasibleTileError,
    coarsest_extent,
    divide_axis,
    schedule_axis,
)
from streamplan.analysis.unbounded import effective_strides
from streamplan.errors import PlanMismatchError, TileSizeError
from streamplan.ir import Graph
from streamplan.planning.arguments import is_integer
from streamplan.planning.passes import LoweredPart
from streamplan.planning.plan import Plan
from streamplan.rules import ADDEND

Given = TypeVar("Given")
_WORTH_SPREADING = 0.9
"""The flush gets steps of its own if that makes the largest step smaller by more than a tenth."""
_DEFAULT_DIVISOR = 4
"""Without a tile size, a tile reads a quarter of the image along each axis, if that is feasible."""


def resolve_tile_size(
    tile_size: int | tuple[int, ...] | None, part: StreamedPart, smallest: tuple[int, ...]
) -> tuple[int, ...]:
    """One size for each axis, in samples of the image.

    Raises:
        TileSizeError: It is no positive integer, nor one for each axis.
    """
    extents = _image_extents(part)
    if tile_size is None:
        return tuple(
            max(least, -(-extent // _DEFAULT_DIVISOR)) for least, extent in zip(smallest, extents, strict=True)
        )
    sizes: tuple[Any, ...] = tile_size if isinstance(tile_size, tuple) else (tile_size,) * len(extents)
    if len(sizes) != len(extents) or any(not is_integer(size) or size < 1 for size in sizes):
        raise TileSizeError(
            f"tile_size={tile_size!r} does not fit an image with {len(extents)} axes",
            why=f"a tile size is one positive integer, or one for each of the {len(extents)} axes, in input samples",
            do=f"pass an integer or {len(extents)} integers",
        )
    return sizes


def schedule_axes(
    lowered: LoweredPart, tile_size: tuple[int, ...], smallest: tuple[int, ...], stored: Plan | None, *, is_reused: bool
) -> tuple[AxisSchedule, ...]:
    """The steps along every axis."""
    part = lowered.part
    if stored is None and is_reused:
        return _advance(lowered, tile_size)
    if stored is None:
        boundaries = _divide(part, tile_size, smallest)
    else:
        boundaries = _stored_boundaries(stored, part, is_reused=is_reused)
    if not is_reused:
        return tuple(schedule_axis(part, axis, stops) for axis, stops in enumerate(boundaries))
    clusters = clusters_of(lowered.graph, part)
    return _along_axes(
        part, boundaries, lambda axis, stops: schedule_carried_axis(carried_axis(part, clusters, axis), stops)
    )


def _along_axes(
    part: StreamedPart, given: Sequence[Given], schedule: Callable[[int, Given], AxisSchedule]
) -> tuple[AxisSchedule, ...]:
    """The schedule of every axis, worked out once for axes that are alike and given the same."""
    known: dict[object, AxisSchedule] = {}
    keys = [(item, _axis_key(part, axis)) for axis, item in enumerate(given)]
    for axis, key in enumerate(keys):
        if key not in known:
            known[key] = schedule(axis, given[axis])
    return tuple(known[key] for key in keys)


def clusters_of(graph: Graph, part: StreamedPart) -> Clusters:
    """Clusters of a streamed part: operations without arithmetic are cheap, but for those that add."""
    cheap = (name for name in part.order if graph[name].flops == 0 and ADDEND not in graph[name].arguments)
    return find_clusters(part, frozenset(cheap))


def _advance(lowered: LoweredPart, tile_size: tuple[int, ...]) -> tuple[AxisSchedule, ...]:
    """Steps of at most the tile size, in samples of the first input map.

    What is left when the image has ended is computed in steps of its own if the last step would be much the largest.
    """
    clusters = clusters_of(lowered.graph, lowered.part)
    return _along_axes(lowered.part, tile_size, partial(_advance_axis, lowered, clusters))


def _advance_axis(lowered: LoweredPart, clusters: Clusters, axis: int, size: int) -> AxisSchedule:
    """The steps along one axis."""
    part = lowered.part
    extent = part.extents[part.input_maps[0]][axis]
    strides = effective_strides(part, axis, part.input_maps[0]).values()
    stops = _stops(extent, size, max(int(stride.samples) for stride in strides))
    carried = carried_axis(part, clusters, axis)
    known: KnownReads = {}
    plain = schedule_carried_axis(carried, stops, known)
    num_more = count_flush_steps(carried, stops) if len(stops) > 2 else 0
    if not num_more:
        return plain
    spread = schedule_carried_axis(carried, stops + (extent,) * num_more, known)
    is_worth = _peak_bytes(lowered, axis, spread) < _WORTH_SPREADING * _peak_bytes(lowered, axis, plain)
    return spread if is_worth else plain


def _stops(extent: int, size: int, stride: int) -> tuple[int, ...]:
    """Boundaries of the fewest steps of at most `size` samples.

    Steps are multiples of the effective stride where that needs no further step, so that all but the last are alike;
    else as even as can be.

    >>> _stops(100, 40, 8), _stops(100, 35, 8)
    ((0, 40, 80, 100), (0, 33, 66, 100))
    """
    count = -(-extent // size)
    step = -(-extent // (count * stride)) * stride
    if step <= size:
        return (*range(0, extent, step), extent)
    return tuple(index * extent // count for index in range(count + 1))


def _peak_bytes(lowered: LoweredPart, axis: int, schedule: AxisSchedule) -> float:
    """Activation bytes of the largest step along one axis."""
    part = lowered.part
    weights = {
        name: lowered.graph[name].activation_bytes / part.extents[name][axis]
        for name in part.order
        if name not in lowered.inplace
    }
    return max(sum(step.regions[name].size * weight for name, weight in weights.items()) for step in schedule.steps)


def _stored_boundaries(stored: Plan, part: StreamedPart, *, is_reused: bool) -> tuple[tuple[int, ...], ...]:
    """The boundaries of a plan, if they divide every axis from end to end."""
    image = part.extents[part.input_maps[0]]
    extents = [image[axis] if is_reused else coarsest_extent(part, axis) for axis in range(part.num_axes)]
    whole = len(stored.boundaries) == len(extents) and all(
        stops[0] == 0
        and stops[-1] == extent
        and all(a < b or (is_reused and 0 < a == b == extent) for a, b in pairwise(stops))
        for stops, extent in zip(stored.boundaries, extents, strict=True)
    )
    if not whole:
        raise PlanMismatchError(
            "the plan's boundaries do not divide the cut",
            why=f"they must rise from 0 to {', '.join(map(str, extents))} along the axes; they are {stored.boundaries}",
            do="make the plan again with streamplan.plan(...)",
        )
    return stored.boundaries


def _divide(part: StreamedPart, tile_size: tuple[int, ...], smallest: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Boundaries along every axis."""
    divided: list[tuple[int, ...]] = []
    same: dict[object, tuple[int, ...]] = {}
    for axis, size in enumerate(tile_size):
        key = (size, _axis_key(part, axis))
        try:
            divided.append(same.get(key) or divide_axis(part, axis, size))
        except InfeasibleTileError as problem:
            needed = tuple(max(n, problem.num_read) if a == axis else n for a, n in enumerate(smallest))
            raise TileSizeError(
                f"tile size {' x '.join(map(str, tile_size))} is too small",
                where=f"axis {axis}",
                why=f"one position of the cut {', '.join(part.frontier)} reads {needed[axis]} samples along axis "
                f"{axis}; the tile may read {size}",
                do=f"pass tile_size={_as_argument(needed)} or more, or an earlier cut",
                smallest_tile_size=needed,
            ) from None
        same[key] = divided[-1]
    return tuple(divided)


def _as_argument(sizes: tuple[int, ...]) -> str:
    return str(sizes[0]) if len(set(sizes)) == 1 else str(sizes)


def _axis_key(part: StreamedPart, axis: int) -> object:
    """Equal for axes that are divided alike."""
    extents = tuple(extent[axis] for extent in part.extents.values())
    return extents, tuple(edge.axis_maps[axis] for edge in part.edges)


def _image_extents(part: StreamedPart) -> tuple[int, ...]:
    """Largest extent of the input maps along each axis."""
    return tuple(max(extents) for extents in zip(*(part.extents[name] for name in part.input_maps), strict=True))
