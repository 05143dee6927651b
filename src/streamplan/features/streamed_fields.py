"""The numbers of `receptive_field` for all streamed values of a graph: by input and axis, by either method or both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from streamplan.analysis.cuts import Cut, cut_at, latest_cut
from streamplan.analysis.fields import (
    AxisField,
    AxisProblem,
    describe_reads,
    image_reads,
    measured_stride,
    only_inside,
    place_tiles,
    tile_overlaps,
)
from streamplan.analysis.literal import literal_overlaps
from streamplan.analysis.locality import classify_locality, freeze_batch_norms, rule_context
from streamplan.analysis.probe import CheckedReads, check_fields
from streamplan.analysis.reads import CountedReads, EdgeReads, PulledReads
from streamplan.analysis.regions import EdgeKey, StreamedEdge, StreamedPart, streamed_part
from streamplan.analysis.unbounded import effective_strides, middle_reads
from streamplan.features.receptive_field_report import Method, ValueField
from streamplan.geometry import IDENTITY
from streamplan.ir import Graph, references
from streamplan.options import Options
from streamplan.planning.barriers import check_batch_norms, check_streamable
from streamplan.rules import Rule, RuleContext, rule_for


@dataclass(frozen=True)
class StreamedFields:
    """The streamed part of a model, with the rule and context of every call."""

    graph: Graph
    part: StreamedPart
    rules: Mapping[str, Rule]
    contexts: Mapping[str, RuleContext]

    @classmethod
    def of(cls, graph: Graph, options: Options) -> StreamedFields:
        """Cut the graph as `compile` would."""
        graph = freeze_batch_norms(graph) if options.batch_norm == "frozen" else graph
        facts = classify_locality(graph)
        check_batch_norms(graph, facts, options)
        check_streamable(graph, facts)
        names = options.cut_names
        cut: Cut = cut_at(graph, facts, names) if names else latest_cut(graph, facts)
        part = streamed_part(graph, facts, cut.streamed, cut.frontier)
        rules = {name: rule for name in part.order if (rule := rule_for(graph[name].op)) is not None}
        return cls(graph, part, rules, {name: rule_context(graph, graph[name], facts.maps) for name in part.order})

    @property
    def image_extents(self) -> tuple[int, ...]:
        """Extents of the first input."""
        return self.part.extents[self.part.input_maps[0]]

    def without_count_form(self) -> str:
        """Name of a call whose rule has no count form; "" if there is none."""
        for edge in self.part.edges:
            x = torch.ones(1, 1, self.part.extents[edge.source][0], dtype=torch.float64)
            try:
                self.rules[edge.reader].count_axis(self.contexts[edge.reader], 0, x)
            except NotImplementedError:
                return edge.reader
        return ""

    def fields(self, method: Method, tile: tuple[int, ...]) -> tuple[ValueField, ...]:
        """The numbers of all values, by input."""
        values = []
        for source in self.part.input_maps:
            first = self._axis_fields(0, source, method, tile[0])
            others = [
                first if self._is_like_first(axis, tile) else self._axis_fields(axis, source, method, tile[axis])
                for axis in range(1, self.part.num_axes)
            ]
            values += [
                self._value_field(name, source, tuple(fields[name] for fields in (first, *others)))
                for name in (source, *self.part.order)
                if name in first
            ]
        return tuple(values)

    def _value_field(self, name: str, source: str, axes: tuple[AxisField, ...]) -> ValueField:
        call = self.graph[name]
        edges = self.part.reads.get(name, ())  # an input map reads nothing
        pointwise = len(edges) == 1 and all(axis_map == IDENTITY for axis_map in edges[0].axis_maps)
        extents = self.part.extents[name]
        return ValueField(name, call.op, call.module_path, source, extents, pointwise, axes)

    def _is_like_first(self, axis: int, tile: tuple[int, ...]) -> bool:
        """Whether every operation does to this axis what it does to the first, by its arguments and sizes."""
        if tile[axis] != tile[0] or any(extents[axis] != extents[0] for extents in self.part.extents.values()):
            return False
        windowed = (edge.reader for edge in self.part.edges if any(m != IDENTITY for m in edge.axis_maps))
        return all(edge.axis_maps[axis] == edge.axis_maps[0] for edge in self.part.edges) and all(
            _is_symmetric(value) for name in windowed for value in self.graph[name].arguments.values()
        )

    def _axis_fields(self, axis: int, source: str, method: Method, tile_size: int) -> dict[str, AxisField]:
        part = self.part
        problem = AxisProblem(part, axis, source, self._reads(axis, method))
        coarsest = min(part.extents[name][axis] for name in part.frontier)
        fields = self._probed(problem) if method == "probe" else self._analytic(problem)
        if method == "both":
            strides, expected = effective_strides(part, axis, source), middle_reads(part, axis, source)
            for name, measured in image_reads(problem).items():
                at_middle = measured.of(problem.middle(name))
                check_fields(self.graph[name], axis, expected[name], strides[name], at_middle)
        overlaps = tile_overlaps(problem, place_tiles(problem.extent(source), coarsest, tile_size))
        literal = literal_overlaps(part, self.rules, self.contexts, axis, tile_size)
        fields = {source: AxisField(1, Fraction(1), 0, 0, None, None), **fields}
        found = {}
        for name, field in fields.items():
            forward, backward = overlaps.get(name, (None, None))
            below = literal.get(name, (None, None))
            found[name] = replace(
                field,
                forward_overlap=forward,
                backward_overlap=backward,
                literal_forward=below[0],
                literal_backward=below[1],
            )
        return found

    def _analytic(self, problem: AxisProblem) -> dict[str, AxisField]:
        strides = effective_strides(self.part, problem.axis, problem.source)
        fields = {}
        for name, reads in middle_reads(self.part, problem.axis, problem.source).items():
            stride = strides[name].samples
            field, before, after = describe_reads(reads, stride)
            fields[name] = AxisField(field, stride, before, after, None, None)
        return fields

    def _probed(self, problem: AxisProblem) -> dict[str, AxisField]:
        fields = {}
        for name, reads in image_reads(problem).items():
            inside = only_inside(reads.of(problem.middle(name)))
            stride = measured_stride(inside)
            field, before, after = describe_reads(inside, stride)
            fields[name] = AxisField(field, stride, before, after, None, None)
        return fields

    def _reads(self, axis: int, method: Method) -> dict[EdgeKey, EdgeReads]:
        """How each edge is asked what it reads; equal calls share their answers."""
        shared: dict[object, tuple[PulledReads, CountedReads]] = {}
        reads: dict[EdgeKey, EdgeReads] = {}
        for edge in self.part.edges:
            key = self._key(edge, axis)
            if key not in shared:
                sizes = self.part.extents[edge.source][axis], self.part.extents[edge.reader][axis]
                counted = CountedReads(self.rules[edge.reader], self.contexts[edge.reader], axis, *sizes)
                shared[key] = PulledReads(edge.axis_maps[axis], *sizes), counted
            pulled, counted = shared[key]
            if method == "both":
                reads[edge.key] = CheckedReads(pulled, counted, self.graph[edge.reader], axis)
            else:
                reads[edge.key] = pulled if method == "analytic" else counted
        return reads

    def _key(self, edge: StreamedEdge, axis: int) -> object:
        """Equal for edges of calls that differ in nothing but the tensors they read."""
        call, extents = self.graph[edge.reader], self.part.extents
        constants = [(name, repr(value)) for name, value in call.arguments.items() if not any(references(value))]
        shapes = self.contexts[edge.reader].maps[edge.source].shape, call.output
        return call.op, axis, edge.axis_maps[axis], extents[edge.source], extents[edge.reader], tuple(constants), shapes


def _is_symmetric(argument: Any) -> bool:
    """Whether an argument says the same of every axis, as far as can be told."""
    return not isinstance(argument, tuple | list) or len(set(map(repr, argument))) == 1
