"""Build a plan: choose the cut, divide the axes, count the costs.

    trace -> canonical graph -> locality -> cut -> streamed part -> boundaries per axis -> plan

`prepare_plan` also returns the facts the plan was made from, which code generation and the runtime need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn

from streamplan.analysis.carrying import Carrying, find_carrying, schedule_carried_axis
from streamplan.analysis.clusters import Clusters, find_clusters
from streamplan.analysis.cuts import Cut, cut_at, enumerate_cuts
from streamplan.analysis.flush import count_flush_steps
from streamplan.analysis.locality import LocalityFacts, classify_locality, freeze_batch_norms
from streamplan.analysis.regions import StreamedPart, receptive_fields, streamed_part
from streamplan.analysis.schedule import (
    AxisSchedule,
    InfeasibleTileError,
    coarsest_extent,
    divide_axis,
    schedule_axis,
    smallest_tile_size,
)
from streamplan.analysis.unbounded import effective_strides
from streamplan.errors import PlanMismatchError, TileSizeError
from streamplan.ir import Graph
from streamplan.lowering import LoweredPart, lower_part
from streamplan.options import Options
from streamplan.planning.arguments import CallArguments, is_integer
from streamplan.planning.barriers import check_batch_norms, check_streamable, find_barriers
from streamplan.planning.costs import count_costs, streamed_totals
from streamplan.planning.model import TracedModel, trace_and_lower
from streamplan.planning.plan import CutCandidate, InputPlan, Plan
from streamplan.rules import ADDEND

Given = TypeVar("Given")
_WORTH_SPREADING = 0.9
"""The flush gets steps of its own if that makes the largest step smaller by more than a tenth."""
_DEFAULT_DIVISOR = 4
"""Without a tile size, a tile reads a quarter of the image along each axis, if that is feasible."""


@dataclass(frozen=True, eq=False)
class PreparedPlan:
    """A plan with the facts it was made from."""

    plan: Plan
    traced: TracedModel
    graph: Graph
    """The canonical graph the plan is for: BatchNorm frozen if the options say so."""
    facts: LocalityFacts
    cuts: tuple[Cut, ...]
    """All single-tensor cuts before the latest, then the latest."""
    cut: Cut
    part: StreamedPart
    """Its streamed part as the tiles run it."""
    schedules: tuple[AxisSchedule, ...]
    carrying: Carrying | None
    """What tiles carry to each other; None if halos are computed again."""
    lowered: LoweredPart
    """What the tiles run."""

    @property
    def all_cuts(self) -> tuple[Cut, ...]:
        """In the order of `Plan.cuts`: the chosen one last if it is none of `cuts`."""
        return _with_chosen(self.cuts, self.cut)


def build_plan(
    model: nn.Module, arguments: CallArguments, options: Options, device: torch.device | None = None
) -> Plan:
    """The plan alone."""
    return prepare_plan(model, arguments, options, device).plan


def prepare_plan(
    model: nn.Module,
    arguments: CallArguments,
    options: Options,
    device: torch.device | None = None,
    *,
    stored: Plan | None = None,
    traced: TracedModel | None = None,
) -> PreparedPlan:
    """Plan a model for one call.

    Args:
        model: The model; never changed.
        arguments: The call to plan for.
        options: What the user asked for.
        device: Device to plan for; None takes the model's.
        stored: A plan to follow: its cut and boundaries are taken as they are.
        traced: The model, traced for this very call; None traces it.

    Raises:
        ModelTypeError, TracingError: The model cannot be traced.
        NothingToStreamError, TrainingBatchNormError, CutError, TileSizeError: See there.
        PlanMismatchError: `stored` was made for another graph.
    """
    options = options.settled()
    traced = traced or trace_and_lower(model, arguments, device)
    if stored is not None and stored.fingerprint != traced.fingerprint:
        raise PlanMismatchError(
            f"the plan was made for another model or state of it ({stored.model})",
            why=f"the plan's graph has fingerprint {stored.fingerprint}, this model's has {traced.fingerprint}",
            do="make the plan again with streamplan.plan(model, ...), in the same train() or eval() mode",
        )
    graph = freeze_batch_norms(traced.graph) if options.batch_norm == "frozen" else traced.graph
    facts = classify_locality(graph)
    check_batch_norms(graph, facts, options)
    check_streamable(graph, facts)
    cuts = enumerate_cuts(graph, facts)
    cut = cut_at(graph, facts, options.cut_names) if options.cut_names else cuts[-1]
    lowered = lower_part(graph, facts, cut, options.passes, device.type if device is not None else "cpu")
    part = lowered.part
    is_reused = options.halo != "recompute"
    smallest = tuple(1 if is_reused else smallest_tile_size(part, axis) for axis in range(part.num_axes))
    tile_size = stored.tile_size if stored else _resolve_tile_size(options.tile_size, part, smallest)
    schedules = _schedule(lowered, tile_size, smallest, stored, is_reused=is_reused)
    carrying = find_carrying(part, _clusters(lowered.graph, part), schedules) if is_reused else None
    plan = Plan(
        model=traced.name,
        fingerprint=traced.fingerprint,
        arguments=arguments,
        device=str(device) if device is not None else "cpu",
        inputs=_inputs(graph, part, schedules),
        tile_size=tile_size,
        smallest_tile_size=smallest,
        halo="reuse" if is_reused else "recompute",
        batch_norm=options.batch_norm,
        passes=options.passes,
        carries=options.carries or "device",
        keep_tiles=options.keep_tiles or 0,
        image=options.image,
        optimizer=options.optimizer,
        requested_cut=options.cut_names,
        cut=cut.frontier,
        cuts=_candidates(graph, facts, cuts, cut),
        barriers=find_barriers(graph, facts),
        boundaries=tuple(schedule.boundaries for schedule in schedules),
        costs=count_costs(graph, cut.streamed, lowered, schedules),
        shape_reads=tuple(str(location) for location in traced.trace.shape_reads),
        changed_attributes=traced.changed_attributes,
    )
    return PreparedPlan(plan, traced, graph, facts, cuts, cut, part, schedules, carrying, lowered)


def _with_chosen(cuts: tuple[Cut, ...], chosen: Cut) -> tuple[Cut, ...]:
    return tuple({cut.frontier: cut for cut in (*cuts, chosen)}.values())


def _resolve_tile_size(
    tile_size: int | tuple[int, ...] | None, part: StreamedPart, smallest: tuple[int, ...]
) -> tuple[int, ...]:
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


def _schedule(
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
    clusters = _clusters(lowered.graph, part)
    return _along_axes(part, boundaries, partial(schedule_carried_axis, part, clusters))


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


def _clusters(graph: Graph, part: StreamedPart) -> Clusters:
    cheap = (name for name in part.order if graph[name].flops == 0 and ADDEND not in graph[name].arguments)
    return find_clusters(part, frozenset(cheap))


def _advance(lowered: LoweredPart, tile_size: tuple[int, ...]) -> tuple[AxisSchedule, ...]:
    """Steps of at most the tile size, in samples of the first input map.

    What is left when the image has ended is computed in steps of its own if the last step would be much the largest.
    """
    clusters = _clusters(lowered.graph, lowered.part)
    return _along_axes(lowered.part, tile_size, partial(_advance_axis, lowered, clusters))


def _advance_axis(lowered: LoweredPart, clusters: Clusters, axis: int, size: int) -> AxisSchedule:
    """The steps along one axis."""
    part = lowered.part
    extent = part.extents[part.input_maps[0]][axis]
    strides = effective_strides(part, axis, part.input_maps[0]).values()
    stops = _stops(extent, size, max(int(stride.samples) for stride in strides))
    plain = schedule_carried_axis(part, clusters, axis, stops)
    num_more = count_flush_steps(part, clusters, axis, stops) if len(stops) > 2 else 0
    if not num_more:
        return plain
    spread = schedule_carried_axis(part, clusters, axis, stops + (extent,) * num_more)
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


def _inputs(graph: Graph, part: StreamedPart, schedules: tuple[AxisSchedule, ...]) -> tuple[InputPlan, ...]:
    inputs = []
    for name in part.input_maps:
        spec = graph[name].output
        assert spec is not None
        reads = tuple(schedule.max_read((name,)) for schedule in schedules)
        steps = tuple(_max_step(part, name, axis, schedule) for axis, schedule in enumerate(schedules))
        inputs.append(InputPlan(name, spec.shape, str(spec.dtype).removeprefix("torch."), reads, steps))
    return tuple(inputs)


def _max_step(part: StreamedPart, name: str, axis: int, schedule: AxisSchedule) -> int:
    """Largest block along an axis, in samples of an input map."""
    largest = max(stop - start for start, stop in pairwise(schedule.boundaries))
    extent, coarsest = part.extents[name][axis], schedule.boundaries[-1]
    return min(extent, -(-largest * extent // coarsest))


def _candidates(graph: Graph, facts: LocalityFacts, cuts: tuple[Cut, ...], chosen: Cut) -> tuple[CutCandidate, ...]:
    known: Mapping[tuple[str, ...], Cut] = {cut.frontier: cut for cut in _with_chosen(cuts, chosen)}
    streamed: frozenset[str] = frozenset().union(*(cut.streamed for cut in known.values()))
    part = streamed_part(graph, facts, streamed, chosen.frontier)
    names = {name for frontier in known for name in frontier}
    fields = [receptive_fields(part, axis, names) for axis in range(part.num_axes)]
    return tuple(_candidate(graph, cut, part, fields) for cut in known.values())


def _candidate(graph: Graph, cut: Cut, part: StreamedPart, fields: list[dict[str, int]]) -> CutCandidate:
    specs = [graph[name].output for name in cut.frontier]
    flops, activation_bytes = streamed_totals(graph, cut.streamed)
    return CutCandidate(
        values=cut.frontier,
        module_path=graph[cut.frontier[-1]].module_path,
        shapes=tuple(spec.shape for spec in specs if spec is not None),
        receptive_field=tuple(max(along[name] for name in cut.frontier) for along in fields),
        halo=tuple(max(_halo(part, name, axis, along) for name in cut.frontier) for axis, along in enumerate(fields)),
        cut_bytes=sum(spec.num_bytes for spec in specs if spec is not None),
        streamed_flops=flops,
        streamed_activation_bytes=activation_bytes,
    )


def _halo(part: StreamedPart, name: str, axis: int, fields: Mapping[str, int]) -> int:
    """Samples that a position of a value reads beyond those it stands for."""
    image, extent = part.extents[part.input_maps[0]][axis], part.extents[name][axis]
    return max(0, fields[name] - max(1, round(image / extent)))
