"""Build a plan: choose the cut, divide the axes, count the costs.

    trace -> canonical graph -> locality -> cut -> streamed part -> boundaries per axis -> plan

`prepare_plan` also returns the facts the plan was made from, which code generation and the runtime need.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn

from streamplan.analysis.carrying import Carrying, find_carrying
from streamplan.analysis.cuts import Cut, cut_at, enumerate_cuts
from streamplan.analysis.locality import LocalityFacts, classify_locality, freeze_batch_norms
from streamplan.analysis.regions import StreamedPart
from streamplan.analysis.schedule import AxisSchedule, smallest_tile_size
from streamplan.errors import PlanMismatchError
from streamplan.ir import Graph
from streamplan.options import Options
from streamplan.planning.arguments import CallArguments
from streamplan.planning.barriers import check_batch_norms, check_streamable, find_barriers
from streamplan.planning.costs import count_costs
from streamplan.planning.cut_candidates import describe_cuts
from streamplan.planning.dividing import clusters_of, resolve_tile_size, schedule_axes
from streamplan.planning.model import TracedModel, trace_and_lower
from streamplan.planning.passes import LoweredPart, lower_part
from streamplan.planning.plan import InputPlan, Plan
from streamplan.planning.writes import check_writes


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
    check_writes(traced.trace, graph, facts, cut)
    lowered = lower_part(graph, facts, cut, options.passes, device.type if device is not None else "cpu")
    part = lowered.part
    is_reused = options.halo != "recompute"
    smallest = tuple(1 if is_reused else smallest_tile_size(part, axis) for axis in range(part.num_axes))
    tile_size = stored.tile_size if stored else resolve_tile_size(options.tile_size, part, smallest)
    schedules = schedule_axes(lowered, tile_size, smallest, stored, is_reused=is_reused)
    carrying = find_carrying(part, clusters_of(lowered.graph, part), schedules) if is_reused else None
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
        cuts=describe_cuts(graph, facts, _with_chosen(cuts, cut), cut),
        barriers=find_barriers(graph, facts),
        boundaries=tuple(schedule.boundaries for schedule in schedules),
        costs=count_costs(graph, cut.streamed, lowered, schedules),
        shape_reads=tuple(str(location) for location in traced.trace.shape_reads),
    )
    return PreparedPlan(plan, traced, graph, facts, cuts, cut, part, schedules, carrying, lowered)


def _with_chosen(cuts: tuple[Cut, ...], chosen: Cut) -> tuple[Cut, ...]:
    return tuple({cut.frontier: cut for cut in (*cuts, chosen)}.values())


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
