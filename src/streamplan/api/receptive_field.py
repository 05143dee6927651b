"""`receptive_field`: what every streamed value reads of the image, found in two independent ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn

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
from streamplan.analysis.regions import receptive_field as plain_receptive_field
from streamplan.analysis.unbounded import effective_strides, unbounded_reads
from streamplan.api.requests import check_model, resolve_arguments
from streamplan.errors import OptionError, RuleError, TileSizeError
from streamplan.geometry import IDENTITY
from streamplan.ir import Graph, references
from streamplan.options import BatchNormPolicy, Options
from streamplan.planning import trace_and_lower
from streamplan.planning.barriers import check_batch_norms, check_streamable
from streamplan.planning.model import default_device
from streamplan.report.receptive_field import Method, ReceptiveFieldReport, ValueField
from streamplan.rules import Rule, RuleContext, rule_for

_METHODS = ("analytic", "probe", "both")
_DEFAULT_DIVISOR = 4
"""Without a tile size, the tile is a quarter of the image, or more if the cut's receptive field needs it."""


def receptive_field(  # noqa: PLR0913 - every option is a keyword
    model: nn.Module,
    input_size: Any = None,
    *,
    cut: str | tuple[str, ...] = "latest",
    method: Method = "both",
    tile_size: int | tuple[int, ...] | None = None,
    batch_norm: BatchNormPolicy = "error",
    example_inputs: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ReceptiveFieldReport:
    """Tell what every streamed value reads of the image, and how much tiles would overlap in the published method.

    Receptive field, effective stride and halo are those of `AxisField`; so are the overlaps, which hold for a tile of
    `tile_size` samples in the middle of the image: the most over the tile's positions, moved by one sample at a time
    over one position of the cut (over at most 64 of them).

    Args:
        model: Any `nn.Module`; nothing is computed with its weights, and it may be on the meta device.
        input_size: Size of the image, batch and channels included, as for `compile`.
        cut: Where the resident part begins, as for `compile`; later values are not reported.
        method: "analytic" composes the intervals that the rules say are read. "probe" runs averaging kernels: torch's
            own operations with taps of 1, on zeros and ones. "both" does both, compares every step, and reports the
            analytic numbers. Receptive field, stride and halo of the probe are those of positions that meet no end of
            the image, so a small image has none.
        tile_size: Samples of the tile, per axis or for all; None takes a quarter of the image, or twice the cut's
            receptive field and stride if that is more.
        batch_norm: BatchNorm in training mode in the way of streaming, as for `compile`.
        example_inputs: Instead of `input_size`, as for `compile`.
        dtype: Dtype of the image; None takes that of the model's parameters.
        device: Device to plan for; None takes that of the model's parameters.

    Returns:
        The report; `print` shows it as a table.

    Raises:
        ProbeMismatchError: With method "both": the two ways disagree; it names the operation, its place and both
            numbers.
        RuleError: With method "probe": a registered rule has no count form. With "both" such a net is reported by
            interval arithmetic alone, with a note.
        StreamPlanError: As `plan`.

    Source: Pinckaers, van Ginneken and Litjens, "Streaming convolutional neural networks for end-to-end learning with
    multi-megapixel images", 2020, on computing the tile overlap.
    """
    if method not in _METHODS:
        known = ", ".join(map(repr, _METHODS))
        raise OptionError(f"method={method!r} is not known", why=f"method is one of {known}", do=f"pass one of {known}")
    model = check_model(model)
    options = Options(cut=cut, batch_norm=batch_norm)
    arguments = resolve_arguments(model, input_size, example_inputs, dtype)
    place = default_device(model) if device is None else torch.device(device)
    with torch.inference_mode(False):
        traced = trace_and_lower(model, arguments, torch.device("cpu") if place.type == "meta" else place)
        streamed = _Streamed.of(traced.graph, options)
        missing = "" if method == "analytic" else streamed.without_count_form()
        if missing and method == "probe":
            raise RuleError(
                f"{missing} cannot be probed",
                where=streamed.graph[missing].where,
                why="its rule reads windows and does not override count_axis",
                do="method='analytic', or give the rule a count_axis",
            )
        tile = _resolve_tile_size(tile_size, streamed.part)
        values = streamed.fields("analytic" if missing else method, tile)
    notes = [f"the rule of {missing} has no count form; nothing was probed"] if missing else []
    notes += _border_notes(streamed, tile)
    size = arguments.image.shape
    used: Method = "analytic" if missing else method
    return ReceptiveFieldReport(traced.name, size, tile, used, streamed.part.frontier, values, tuple(notes))


def _border_notes(streamed: _Streamed, tile: tuple[int, ...]) -> list[str]:
    """What is to be said of a tile that is the whole image, or too near to its ends."""
    whole, near = [], []
    for axis, (extent, size) in enumerate(zip(streamed.image_extents, tile, strict=True)):
        if size == extent:
            whole.append(str(axis))
        elif (extent - size) // 2 < plain_receptive_field(streamed.part, axis):
            near.append(str(axis))
    notes = [f"the tile is the whole image along axis {', '.join(whole)}: there is no overlap"] if whole else []
    if near:
        notes.append(
            f"along axis {', '.join(near)} less than a receptive field lies between the tile and the image's ends,\n"
            "      which cuts the overlaps short: give a larger input_size"
        )
    return notes


@dataclass(frozen=True)
class _Streamed:
    """The streamed part of a model, with the rule and context of every call."""

    graph: Graph
    part: StreamedPart
    rules: Mapping[str, Rule]
    contexts: Mapping[str, RuleContext]

    @classmethod
    def of(cls, graph: Graph, options: Options) -> _Streamed:
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
        edges = [edge for edge in self.part.edges if edge.reader == name]
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
            wanted = {name: problem.middle(name) for name in part.order}
            strides = effective_strides(part, axis, source)
            expected = unbounded_reads(part, axis, source, wanted)
            for name, measured in image_reads(problem).items():
                check_fields(
                    self.graph[name], axis, expected[name].of(wanted[name]), strides[name], measured.of(wanted[name])
                )
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
        wanted = {name: problem.middle(name) for name in self.part.order}
        strides = effective_strides(self.part, problem.axis, problem.source)
        fields = {}
        for name, reads in unbounded_reads(self.part, problem.axis, problem.source, wanted).items():
            if name in wanted:
                stride, _ = strides[name]
                field, before, after = describe_reads(reads.of(wanted[name]), stride)
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


def _resolve_tile_size(tile_size: int | tuple[int, ...] | None, part: StreamedPart) -> tuple[int, ...]:
    extents = part.extents[part.input_maps[0]]
    if tile_size is None:
        sizes = []
        for axis, extent in enumerate(extents):
            stride = -(-extent // min(part.extents[name][axis] for name in part.frontier))
            needed = 2 * (plain_receptive_field(part, axis) + stride)
            sizes.append(min(extent, max(-(-extent // _DEFAULT_DIVISOR), needed)))
        return tuple(sizes)
    given = tuple(tile_size) if isinstance(tile_size, tuple | list) else (tile_size,) * len(extents)
    if len(given) != len(extents) or any(type(size) is not int or size < 1 for size in given):
        raise TileSizeError(
            f"tile_size={tile_size!r} does not fit an image with {len(extents)} axes",
            why=f"a tile size is one positive integer, or one for each of the {len(extents)} axes, in input samples",
            do=f"pass an integer or {len(extents)} integers",
        )
    return tuple(min(size, extent) for size, extent in zip(given, extents, strict=True))
