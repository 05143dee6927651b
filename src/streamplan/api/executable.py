"""One call's worth of a compiled model: plan, program and segment, ready to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from streamplan.codegen import LoadedProgram, emit_program, load_program
from streamplan.lowering import LoweredPart
from streamplan.planning import Plan, PreparedPlan
from streamplan.runtime import Segment, stream_segment
from streamplan.runtime.streaming import OnTile

_WITHOUT_GRADIENT = frozenset({"detach", "eq", "ne", "lt", "le", "gt", "ge"})
"""Operations that autograd does not see through."""


@dataclass(frozen=True, eq=False)
class Executable:
    """A plan with the program that carries it out."""

    plan: Plan
    program: LoadedProgram
    segment: Segment
    input_names: tuple[str, ...]
    """Names of the model's tensor inputs, in the order of `CallArguments`."""
    output_spec: pytree.TreeSpec
    """Structure of what the model returns."""
    resident_modules: frozenset[str]
    """Paths of the modules that the head calls."""
    streamed_modules: frozenset[str]
    """Paths of the modules with a call in the streamed part, and of those around them."""
    streamed_batch_norms: tuple[str, ...]
    """Paths of the BatchNorm modules in the streamed part."""

    def run(self, model: nn.Module, inputs: Sequence[Tensor], on_tile: OnTile | None = None) -> Any:
        """Compute the model's result.

        Args:
            model: The user's model; its parameters, buffers and resident modules are used as they are now.
            inputs: The tensors of the call, in the order of `input_names`.
            on_tile: Progress callback.
        """
        values: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        program = self.program.program
        early = self.program.prologue(model, *(values[name] for name in program.prologue_inputs))
        values |= dict(zip(program.prologue_values, early, strict=True))
        weights = {path: attrgetter(path)(model) for path in program.attributes}
        weights |= {name: values[name] for name in program.prologue_smalls}
        tensors = {**weights, **dict(self.program.derive(weights))}
        maps = [values[name] for name in self.segment.part.input_maps]
        smalls = {name: self.segment.ordered(tensors[name]) for name in program.smalls}
        cut = stream_segment(self.segment, maps, smalls, watched=tuple(weights.values()), on_tile=on_tile)
        values |= dict(zip(self.segment.outputs, cut, strict=True))
        result = self.program.head(model, *(values[name] for name in program.head_inputs))
        return pytree.tree_unflatten(pytree.tree_leaves(result), self.output_spec)


def build_executable(prepared: PreparedPlan) -> Executable:
    """Emit and load the program of a prepared plan."""
    plan, part, lowered = prepared.plan, prepared.part, prepared.lowered
    title = (
        f"{plan.model}, input {plan.input_size}, cut at {', '.join(plan.cut)}: "
        "prologue and head are resident, tile is streamed."
    )
    trace = prepared.traced.trace
    carrying = prepared.carrying
    program = emit_program(prepared.graph, prepared.facts, prepared.cut, lowered, trace.graph, title, carrying)
    loaded = load_program(program)
    specs = {name: prepared.graph[name].output for name in part.frontier}
    segment = Segment(
        part=part,
        schedules=prepared.schedules,
        dims={name: lowered.facts.maps[name].dims for name in part.extents},
        outputs={name: spec for name, spec in specs.items() if spec is not None},
        smalls=program.smalls,
        reached=_smalls_behind(lowered),
        tile=loaded.tile,
        maps={name: spec for name in part.extents if (spec := lowered.graph[name].output) is not None},
        is_channels_last="channels_last" in lowered.passes,
        keeps_carries_on_host=plan.carries == "host",
        num_kept_tiles=plan.keep_tiles,
    )
    streamed = prepared.cut.streamed
    resident = {
        str(node.target) for node in trace.graph.nodes if node.op == "call_module" and node.name not in streamed
    }
    paths = [call.module_path.split(".") for call in prepared.graph.calls if call.name in streamed]
    around = frozenset(".".join(path[:depth]) for path in paths for depth in range(len(path) + 1))
    norms = tuple(
        call.module_path for call in prepared.graph.calls if call.op == "batch_norm" and call.name in streamed
    )
    return Executable(plan, loaded, segment, trace.input_names, trace.output_spec, frozenset(resident), around, norms)


def _smalls_behind(lowered: LoweredPart) -> dict[str, frozenset[str]]:
    """The small tensors that each cut value is computed from, differentiably."""
    behind: dict[str, frozenset[str]] = dict.fromkeys(lowered.part.input_maps, frozenset())
    for name in lowered.part.order:
        call = lowered.graph[name]
        own = frozenset((*call.attributes, *(other for other in call.inputs if other not in behind)))
        behind[name] = own.union(*(behind[other] for other in call.inputs if other in behind))
        if call.op in _WITHOUT_GRADIENT:
            behind[name] = frozenset()
    return {name: behind[name] for name in lowered.part.frontier}


def tensors_in_order(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """All tensors of a call, positional arguments first, in the order the trace names them."""
    leaves = [*pytree.tree_leaves(tuple(args)), *pytree.tree_leaves(dict(kwargs))]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
