"""What a cut and a tile grid cost, counted from shapes; analytic, so that it is cheap for any image size.

A tile computes of each value a share of its positions: the product over the axes of region / extent. The sum of
those shares over all tiles is the product over the axes of the sums, since axes are divided independently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from streamplan.analysis.regions import StreamedPart
from streamplan.analysis.schedule import AxisSchedule, coarsest_extent, schedule_axis
from streamplan.ir import Graph
from streamplan.planning.passes import LoweredPart
from streamplan.planning.plan import Costs


def count_costs(
    graph: Graph, streamed: frozenset[str], lowered: LoweredPart, schedules: tuple[AxisSchedule, ...]
) -> Costs:
    """Costs of streaming part of a graph with the given schedules.

    Args:
        graph: The canonical graph.
        streamed: Its streamed calls.
        lowered: The same as the tiles run it.
        schedules: Steps along each axis.
    """
    part = lowered.part
    flops, activation_bytes = streamed_totals(graph, (call.name for call in graph.calls))
    streamed_flops, streamed_bytes = streamed_totals(graph, streamed)
    computed = sum(round(lowered.graph[name].flops * _computed_share(part, schedules, name)) for name in part.order)
    tile_bytes = sum(
        round(lowered.graph[name].activation_bytes * largest_share(part, schedules, name))
        for name in part.order
        if name not in lowered.inplace
    )
    cut_specs = [graph[name].output for name in part.frontier]
    return Costs(
        flops=flops,
        streamed_flops=streamed_flops,
        computed_flops=computed,
        activation_bytes=activation_bytes,
        streamed_activation_bytes=streamed_bytes,
        tile_activation_bytes=tile_bytes,
        cut_bytes=sum(spec.num_bytes for spec in cut_specs if spec is not None),
        carry_bytes=sum(_carry_bytes(lowered, schedules, name) for name in part.order),
        recompute_factor=_recompute_factor(lowered, schedules),
    )


def streamed_totals(graph: Graph, names: Iterable[str]) -> tuple[int, int]:
    """Forward FLOPs and activation bytes of some calls at full size."""
    calls = [graph[name] for name in names]
    return sum(call.flops for call in calls), sum(call.activation_bytes for call in calls)


def _carry_bytes(lowered: LoweredPart, schedules: tuple[AxisSchedule, ...], name: str) -> int:
    """Bytes of a value that all tiles receive.

    Samples are joined axis by axis: along one axis, a tile receives what spans its region along the axes before and its
    new block along those after.
    """
    spec, extents = lowered.graph[name].output, lowered.part.extents[name]
    if spec is None or not all(name in schedule.steps[0].carried_in for schedule in schedules):
        return 0  # recomputed halos, or a value that is run again on its cluster's carried samples
    received = 0
    for axis, schedule in enumerate(schedules):
        sizes = [sum(step.carried_in[name].size for step in schedule.steps)]
        sizes += [sum(step.regions[name].size for step in other.steps) for other in schedules[:axis]]
        sizes += [sum(step.computed[name].size for step in other.steps) for other in schedules[axis + 1 :]]
        received += math.prod(sizes)
    return received * spec.num_bytes // math.prod(extents)


def _recompute_factor(lowered: LoweredPart, schedules: tuple[AxisSchedule, ...]) -> float:
    """Work of a tile in the middle of the image, if it computed its halo again, over what is new of it."""
    part = lowered.part
    shares: dict[str, float] = dict.fromkeys(part.order, 1.0)
    for axis, schedule in enumerate(schedules):
        count, extent = len(set(schedule.boundaries)) - 1, coarsest_extent(part, axis)
        size = -(-extent // count)
        start = max(0, (extent - size) // 2)
        step = schedule_axis(part, axis, (start, start + size)).steps[0]
        for name in part.order:
            new = part.extents[name][axis] * size / extent
            shares[name] *= max(1.0, step.regions[name].size / new)
    flops = sum(lowered.graph[name].flops for name in part.order)
    return sum(lowered.graph[name].flops * share for name, share in shares.items()) / flops if flops else 1.0


def _computed_share(part: StreamedPart, schedules: tuple[AxisSchedule, ...], name: str) -> float:
    """Positions of a value computed in all tiles, over its positions."""
    pairs = zip(schedules, part.extents[name], strict=True)
    return math.prod(schedule.computed(name) / extent for schedule, extent in pairs)


def largest_share(part: StreamedPart, schedules: tuple[AxisSchedule, ...], name: str) -> float:
    """Positions of a value in the tile that has the most of it, over its positions."""
    pairs = zip(schedules, part.extents[name], strict=True)
    return math.prod(max(step.regions[name].size for step in schedule.steps) / extent for schedule, extent in pairs)
