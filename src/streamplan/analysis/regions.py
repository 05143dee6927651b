"""Which region of every streamed value a tile computes: demand, pulled from the cut back to the image.

One axis at a time, in coordinates of the full-size tensors. A value is demanded on the hull of what its readers read
and of its own block of the cut; each reader later crops what it reads:

    conv k3 p1 after conv k3 p1, extent 8:  block [2, 4)  <-  reads [1, 5)  <-  reads [0, 6)

A window may lie wholly in padding and read nothing. A value read by such windows alone is still demanded on one
sample, so that every operation of a tile has something to run on; the sample is never used.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import attrgetter

from streamplan.analysis.locality import LocalityFacts, rule_context
from streamplan.geometry import (
    AffineWindow,
    AveragingWindow,
    AxisMap,
    AxisRead,
    Interval,
    hull,
    read_axis,
)
from streamplan.ir import Graph
from streamplan.rules import rule_for

EdgeKey = tuple[str, str]
"""(reader, value read)."""


@dataclass(frozen=True)
class StreamedEdge:
    """A streamed call reading a map."""

    reader: str
    source: str
    axis_maps: tuple[AxisMap, ...]
    """What it reads, per image axis."""

    @property
    def key(self) -> EdgeKey:
        """(reader, source)."""
        return self.reader, self.source


@dataclass(frozen=True)
class StreamedPart:
    """The streamed calls with all that region arithmetic needs of them."""

    order: tuple[str, ...]
    """Streamed values in graph order."""
    input_maps: tuple[str, ...]
    """Input maps the streamed part reads, in graph order."""
    frontier: tuple[str, ...]
    """Cut values, in graph order."""
    extents: Mapping[str, tuple[int, ...]]
    """Positions of every value along each image axis, input maps included."""
    edges: tuple[StreamedEdge, ...]
    """All reads, grouped by reader in graph order."""

    @property
    def num_axes(self) -> int:
        """Number of image axes."""
        return len(self.extents[self.frontier[0]])

    @cached_property
    def reads(self) -> Mapping[str, tuple[StreamedEdge, ...]]:
        """The reads of every streamed value."""
        return {name: tuple(edges) for name, edges in itertools.groupby(self.edges, attrgetter("reader"))}

    @cached_property
    def num_readers(self) -> Mapping[str, int]:
        """How often each value is read."""
        return Counter(edge.source for edge in self.edges)


@dataclass(frozen=True)
class AxisStep:
    """What one step along one axis computes and reads."""

    blocks: Mapping[str, Interval]
    """Cut values: the part this step contributes; the blocks of all steps are disjoint and cover the extent."""
    regions: Mapping[str, Interval]
    """Every value, input maps included: the positions at hand."""
    reads: Mapping[EdgeKey, AxisRead]
    """Every edge: the positions read, and the padding around them."""
    computed: Mapping[str, Interval]
    """Every value: the positions its call computes; with recomputed halos, all at hand."""
    carried_in: Mapping[str, Interval] = field(default_factory=dict)
    """Values that may be carried: the positions received from the step before."""
    carried_out: Mapping[str, Interval] = field(default_factory=dict)
    """The positions handed on to the step after."""


def streamed_part(
    graph: Graph, facts: LocalityFacts, streamed: frozenset[str], frontier: tuple[str, ...]
) -> StreamedPart:
    """Collect the edges and extents of a streamed part."""
    edges = []
    order = tuple(call.name for call in graph.calls if call.name in streamed)
    for name in order:
        call = graph[name]
        rule = rule_for(call.op)
        assert rule is not None
        context = rule_context(graph, call, facts.maps)
        edges += [StreamedEdge(name, source, rule.axis_maps(context, source)) for source in context.maps]
    read = {edge.source for edge in edges}
    input_maps = tuple(name for name in facts.input_maps if name in read)
    extents = {name: facts.maps[name].extents for name in (*input_maps, *order)}
    return StreamedPart(order, input_maps, frontier, extents, tuple(edges))


def pull_regions(part: StreamedPart, axis: int, blocks: Mapping[str, Interval]) -> AxisStep:
    """Pull blocks of the cut back to every value of the streamed part, along one axis.

    Args:
        part: The streamed part.
        axis: Image axis, from 0.
        blocks: A non-empty block for every cut value.
    """
    wanted: dict[str, list[Interval]] = {name: [] for name in (*part.input_maps, *part.order)}
    for name, block in blocks.items():
        wanted[name].append(block)
    regions: dict[str, Interval] = {}
    reads: dict[EdgeKey, AxisRead] = {}
    for edge in reversed(part.edges):
        if edge.reader not in regions:
            regions[edge.reader] = _demand(wanted[edge.reader], part.extents[edge.reader][axis])
        read = read_region(edge.axis_maps[axis], regions[edge.reader], part.extents[edge.source][axis])
        reads[edge.key] = read
        wanted[edge.source].append(read.span)
    for name in part.input_maps:
        regions[name] = _demand(wanted[name], part.extents[name][axis])
    return AxisStep(dict(blocks), regions, reads, computed=regions)


def read_region(axis_map: AxisMap, out: Interval, extent: int) -> AxisRead:
    """What a non-empty `out` reads along one axis.

    Only sliding windows pad what lies outside the map. Other operations have nothing there; one that reads no sample at
    all (an output in the gap of a transposed convolution) gets one that it does not use.
    """
    read = read_axis(axis_map, out, extent)
    if isinstance(axis_map, AffineWindow | AveragingWindow):
        return read
    span = _sample(read.span.start, extent) if read.span.is_empty else read.span
    return AxisRead(span, before=0, after=0)


def _demand(wanted: list[Interval], extent: int) -> Interval:
    demand = hull(wanted)
    return demand if demand is not None else _sample(wanted[0].start if wanted else 0, extent)


def _sample(position: int, extent: int) -> Interval:
    start = min(position, extent - 1)
    return Interval(start, start + 1)
