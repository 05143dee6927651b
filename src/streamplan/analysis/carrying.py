"""The schedule with carried halos: every streamed value is computed once, in steps that the image drives.

One axis at a time. After step i value v exists up to its frontier E_v(i); the step computes the new block
[E_v(i-1), E_v(i)) and nothing else, and finds [K_v(i-1), E_v(i-1)) carried over from the step before:

    conv k3 p1 on 8 samples, two steps of 4:   step 1 computes [0, 3) from [0, 4), carries [2, 4) of its input
                                               step 2 computes [3, 8) from [2, 8)

    E_v(i)  the longest prefix computable from what exists after step i
    K_v(i)  the first position that any later step reads, or E_v(i) if none reads back

When the image has ended, all that is left could be computed at once: borders need no further samples. In a deep net
that is a large last step. Steps without new samples, whose boundaries repeat the extent, spread it: up to the last one
every value advances as if the image went on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from streamplan.analysis.clusters import Clusters
from streamplan.analysis.flush import find_paces
from streamplan.analysis.regions import AxisStep, EdgeKey, StreamedEdge, StreamedPart, pull_regions, read_region
from streamplan.analysis.schedule import AxisSchedule
from streamplan.geometry import AffineWindow, AxisMap, AxisRead, Interval

_EMPTY = AxisRead(Interval(0, 0), before=0, after=0)


Reads = dict[EdgeKey, AxisRead]
"""What each edge between clusters reads in one step."""
KnownReads = dict[tuple[tuple[int, ...], ...], Reads]
"""The same by the frontiers before and after the step."""


def schedule_carried_axis(
    part: StreamedPart,
    clusters: Clusters,
    axis: int,
    boundaries: tuple[int, ...],
    known: KnownReads | None = None,
) -> AxisSchedule:
    """The steps that follow when the image arrives in the given pieces.

    Args:
        part: The streamed part.
        clusters: Its clusters.
        axis: Image axis.
        boundaries: Positions of the first input map that end each step, from 0 to its extent; the extent again for
            every further step that computes what is left.
        known: Reads of steps that other schedules of the axis have left, and where to leave those of this one.
    """
    known = {} if known is None else known
    frontiers = _frontiers(part, clusters, axis, boundaries)
    blocks = [_blocks(frontiers, step) for step in range(1, len(boundaries))]
    reads = []
    for new, ends in zip(blocks, pairwise(frontiers), strict=True):
        key = tuple(tuple(stops.values()) for stops in ends)
        if key not in known:
            known[key] = _reads(part, clusters, axis, new)
        reads.append(known[key])
    carries = _carries(part, clusters, frontiers, reads)
    steps = []
    for index, (new, read) in enumerate(zip(blocks, reads, strict=True)):
        steps.append(_axis_step(part, clusters, new, read, carries[index], carries[index + 1]))
    return AxisSchedule(boundaries, tuple(steps))


def _needs(part: StreamedPart, axis: int) -> Mapping[str, Interval]:
    """The positions of every value that the whole cut demands."""
    whole = {name: Interval(0, part.extents[name][axis]) for name in part.frontier}
    return pull_regions(part, axis, whole).regions


def _frontiers(part: StreamedPart, clusters: Clusters, axis: int, boundaries: tuple[int, ...]) -> list[dict[str, int]]:
    """E_v(i) of every root, for i = 0 (before the first step) to the last step."""
    needs = _needs(part, axis)
    roots = [name for name in (*part.input_maps, *part.order) if clusters.root[name] == name]
    edges = clusters.reads_between(part)
    cluster_needs = _cluster_needs(needs, clusters)
    first = part.extents[part.input_maps[0]][axis]
    windows = {name: _windows(part, clusters, axis, edges[name]) for name in roots if name not in part.input_maps}
    state = {name: cluster_needs[name].start for name in roots}
    frontiers = [dict(state)]
    paces = find_paces(part, clusters, axis, edges, boundaries)
    for boundary, pace in zip(boundaries[1:], paces, strict=True):
        for name in part.input_maps:
            extent = part.extents[name][axis]
            state[name] = max(state[name], min(boundary * extent // first, cluster_needs[name].stop))
        for name in roots:
            if name not in part.input_maps:
                limit = max(state[name], min(cluster_needs[name].stop, pace.get(name, cluster_needs[name].stop)))
                state[name] = _longest_prefix(windows[name], state, state[name], limit)
        frontiers.append(dict(state))
    return frontiers


def _cluster_needs(needs: Mapping[str, Interval], clusters: Clusters) -> dict[str, Interval]:
    """Demand of each root: the hull over its cluster."""
    hulls: dict[str, Interval] = {}
    for name, need in needs.items():
        root = clusters.root[name]
        known = hulls.get(root, need)
        hulls[root] = Interval(min(known.start, need.start), max(known.stop, need.stop))
    return hulls


@dataclass(frozen=True)
class _Window:
    """What a call reads through one map: the same positions of one or of many values, such as those it joins."""

    axis_map: AxisMap
    extent: int
    """Of the values that are read."""
    roots: tuple[str, ...]


def _windows(part: StreamedPart, clusters: Clusters, axis: int, edges: list[StreamedEdge]) -> tuple[_Window, ...]:
    """The reads of a call, alike ones together."""
    roots: dict[tuple[AxisMap, int], list[str]] = {}
    for edge in edges:
        roots.setdefault((edge.axis_maps[axis], part.extents[edge.source][axis]), []).append(clusters.root[edge.source])
    return tuple(_Window(axis_map, extent, tuple(names)) for (axis_map, extent), names in roots.items())


def _longest_prefix(windows: tuple[_Window, ...], state: Mapping[str, int], start: int, limit: int) -> int:
    """The largest frontier of a call at `start` whose new block reads only what exists."""
    available = [min(state[root] for root in window.roots) for window in windows]

    def computable(stop: int) -> bool:
        for window, stops in zip(windows, available, strict=True):
            read = read_region(window.axis_map, Interval(start, stop), window.extent)
            if not read.span.is_empty and read.span.stop > stops:
                return False
        return True

    low, high = start, limit
    if high <= low:
        return low
    guess = _guess(windows, available, limit)
    if guess is not None:
        guess = max(low, guess)
        if guess == high or not computable(guess + 1):  # positions that read padding alone need nothing
            return guess
    if computable(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if computable(middle) else (low, middle)
    return low


def _guess(windows: tuple[_Window, ...], available: list[int], limit: int) -> int | None:
    """A prefix that can be computed, the longest unless one reads padding alone; None if not only windows are read."""
    guess = limit
    for window, stops in zip(windows, available, strict=True):
        axis_map = window.axis_map
        if not isinstance(axis_map, AffineWindow) or axis_map.num < 1:
            return None
        if stops < window.extent:
            guess = min(guess, axis_map.reach(stops))
    return guess


def _blocks(frontiers: list[dict[str, int]], step: int) -> dict[str, Interval]:
    """New block of every root in a step counted from 1."""
    return {name: Interval(frontiers[step - 1][name], stop) for name, stop in frontiers[step].items()}


def _reads(part: StreamedPart, clusters: Clusters, axis: int, new: Mapping[str, Interval]) -> Reads:
    """What the new blocks of one step read, for edges between clusters."""
    reads = {}
    known: dict[object, AxisRead] = {}
    for edge in part.edges:
        if clusters.is_inside(edge):
            continue
        axis_map, block, extent = edge.axis_maps[axis], new[edge.reader], part.extents[edge.source][axis]
        alike = (edge.reader, axis_map, extent)
        if alike not in known:
            known[alike] = _EMPTY if block.is_empty else read_region(axis_map, block, extent)
        reads[edge.key] = known[alike]
    return reads


def _carries(
    part: StreamedPart,
    clusters: Clusters,
    frontiers: list[dict[str, int]],
    reads: list[Reads],
) -> list[dict[str, Interval]]:
    """[K_v(i), E_v(i)) of every root, for i = 0 to the last step; the image is read directly and carries nothing."""
    carries: list[dict[str, Interval]] = []
    first_read = dict(frontiers[-1])
    for step in reversed(range(len(frontiers))):
        carries.append({n: Interval(min(first_read[n], stop), stop) for n, stop in frontiers[step].items()})
        if step > 0:
            for (_, source), read in reads[step - 1].items():
                root = clusters.root[source]
                if not read.span.is_empty:
                    first_read[root] = min(first_read[root], read.span.start)
    carries.reverse()
    return carries


def _axis_step(
    part: StreamedPart,
    clusters: Clusters,
    new: Mapping[str, Interval],
    reads: Mapping[EdgeKey, AxisRead],
    carried_in: Mapping[str, Interval],
    carried_out: Mapping[str, Interval],
) -> AxisStep:
    """One step in the form the runtime reads."""
    regions, computed = {}, {}
    for name in (*part.input_maps, *part.order):
        root = clusters.root[name]
        regions[name] = Interval(carried_in[root].start, new[root].stop)
        computed[name] = new[root] if root == name else regions[name]
    inside = {
        edge.key: AxisRead(regions[edge.source], before=0, after=0) for edge in part.edges if clusters.is_inside(edge)
    }
    own = [name for name in part.order if clusters.root[name] == name]
    return AxisStep(
        blocks={name: new[clusters.root[name]] for name in part.frontier},
        regions=regions,
        reads={**reads, **inside},
        computed=computed,
        carried_in={name: carried_in[name] for name in own},
        carried_out={name: carried_out[name] for name in own},
    )


@dataclass(frozen=True)
class Carrying:
    """What the program of a tile must do about carried halos."""

    whole_reads: frozenset[EdgeKey]
    """Reads of all that is at hand of a value."""
    carried: frozenset[str]
    """Values of which some step hands samples on."""
    sometimes_empty: frozenset[str]
    """Values of which some tile computes nothing."""


def find_carrying(part: StreamedPart, clusters: Clusters, schedules: tuple[AxisSchedule, ...]) -> Carrying:
    """Collect what schedules of all axes have in common."""
    steps = [step for schedule in schedules for step in schedule.steps]
    return Carrying(
        whole_reads=frozenset(edge.key for edge in part.edges if clusters.is_inside(edge)),
        carried=frozenset(name for step in steps for name, out in step.carried_out.items() if not out.is_empty),
        sometimes_empty=frozenset(name for step in steps for name in part.order if step.computed[name].is_empty),
    )
