"""The segment of a plan."""

from __future__ import annotations

from streamplan.planning import PreparedPlan
from streamplan.planning.memory import TileMemory, live_tile_bytes
from streamplan.planning.passes import LoweredPart, find_narrowed
from streamplan.runtime.segment import Segment, TileFunction

_WITHOUT_GRADIENT = frozenset({"detach", "argmax", "argmin", "eq", "ne", "lt", "le", "gt", "ge"})
"""Operations that autograd does not see through."""


def build_segment(prepared: PreparedPlan, smalls: tuple[str, ...], tile: TileFunction) -> Segment:
    """All that the tile loop needs to know of a plan.

    Args:
        prepared: The plan.
        smalls: Names of the small tensors, in the order `tile` takes them.
        tile: The emitted function.
    """
    part, lowered, plan = prepared.part, prepared.lowered, prepared.plan
    specs = {name: prepared.graph[name].output for name in part.frontier}
    return Segment(
        part=part,
        schedules=prepared.schedules,
        dims={name: lowered.facts.maps[name].dims for name in part.extents},
        outputs={name: spec for name, spec in specs.items() if spec is not None},
        smalls=smalls,
        reached=_sources_behind(lowered),
        tile=tile,
        maps={name: spec for name in part.extents if (spec := lowered.graph[name].output) is not None},
        memory=TileMemory(plan, live_tile_bytes(lowered, prepared.schedules)),
        narrowed=find_narrowed(lowered.graph, part.order, smalls),
        is_channels_last="channels_last" in lowered.passes,
        keeps_carries_on_host=plan.carries == "host",
        num_kept_tiles=plan.keep_tiles,
    )


def _sources_behind(lowered: LoweredPart) -> dict[str, frozenset[str]]:
    """The input maps and small tensors that each cut value is computed from, differentiably."""
    behind = {name: frozenset({name}) for name in lowered.part.input_maps}
    for name in lowered.part.order:
        call = lowered.graph[name]
        own = frozenset((*call.attributes, *(other for other in call.inputs if other not in behind)))
        behind[name] = own.union(*(behind[other] for other in call.inputs if other in behind))
        is_number = call.output is not None and (call.output.dtype.is_floating_point or call.output.dtype.is_complex)
        if call.op in _WITHOUT_GRADIENT or not is_number:
            behind[name] = frozenset()
    return {name: behind[name] for name in lowered.part.frontier}
