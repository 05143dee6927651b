"""Streamed values of a model, observed tile by tile while images pass through it.

For an observation the model is planned again with the values to observe as cut values, so that every position of them
is computed and belongs to one tile. What stands behind the last of them is not computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from streamplan.errors import TileSizeError
from streamplan.features.batches import Call
from streamplan.ir import OpCall
from streamplan.module.executable import Executable, build_executable
from streamplan.module.streamed import plain_model
from streamplan.module.streamed_module import StreamedModule
from streamplan.options import BatchNormPolicy
from streamplan.planning import prepare_plan
from streamplan.runtime import Moments, Pools


@dataclass(frozen=True)
class ObservedValue:
    """A streamed value that has statistics."""

    call: OpCall
    """What computes it."""
    channel_dims: tuple[int, ...]
    """Dimensions that are no image axes, without the first of these, which is the batch."""


def observable_values(executable: Executable) -> dict[str, ObservedValue]:
    """Streamed floating-point values, in graph order, by the names that users know them by.

    The output of a module has the module's path, with a number from 1 behind it if the model calls the module more than
    once: `conv`, `block.conv#2`. Any other value has its name in the plan, with a `'` behind it if a module has that
    path.
    """
    prepared = executable.prepared
    modules = called_modules(executable)
    paths = frozenset(path for path, _ in executable.prepared.traced.trace.skeleton.named_modules())
    num_calls, seen = Counter(modules.values()), Counter[str]()
    found: dict[str, ObservedValue] = {}
    for call in prepared.graph.calls:
        path = modules.get(call.name)
        if path is not None:
            seen[path] += 1
        if call.name not in prepared.cut.streamed or call.output is None or not call.output.dtype.is_floating_point:
            continue
        if path is None:
            name = f"{call.name}'" if call.name in paths else call.name
        else:
            name = path if num_calls[path] == 1 else f"{path}#{seen[path]}"
        found[name] = ObservedValue(call, _channel_dims(executable, call.name))
    return found


def called_modules(executable: Executable) -> dict[str, str]:
    """Paths of the layers that the model calls, by the name of the value that the call computes."""
    prepared = executable.prepared
    return {
        node.name: str(node.target)
        for node in prepared.traced.trace.graph.nodes
        if node.op == "call_module" and node.name in prepared.graph.by_name
    }


def _channel_dims(executable: Executable, name: str) -> tuple[int, ...]:
    spec = executable.prepared.facts.maps[name]
    others = [dim for dim in range(len(spec.shape)) if dim not in spec.dims]
    return tuple(others[1:])


class Observation:
    """Observes streamed values of a module; keeps the programs it makes for that.

    Args:
        streamed: The streamed module; its modes and the options it was compiled with hold.
    """

    def __init__(self, streamed: StreamedModule) -> None:
        self._streamed = streamed
        self._variants: dict[tuple[Executable, tuple[str, ...]], Executable] = {}

    def moments(self, call: Call, channel_dims: Mapping[str, tuple[int, ...]]) -> Mapping[str, Moments]:
        """Pool values over one call.

        Args:
            call: The call.
            channel_dims: For each value to observe, by its name in the plan, the dimensions that tell channels apart.
        """
        streamed, pools = self._streamed, Pools()

        def observe(name: str, block: Tensor) -> None:
            if name in channel_dims:
                pools.add(name, Moments.of(block, channel_dims[name]))

        variant = self._variant(call.executable, tuple(channel_dims))
        variant.observe(plain_model(streamed), call.inputs, streamed._device(), observe, streamed._bar())
        return pools.moments

    def _variant(self, executable: Executable, names: tuple[str, ...]) -> Executable:
        key = executable, names
        if key not in self._variants:
            self._variants[key] = observing_executable(self._streamed, executable, names)
        return self._variants[key]


def observing_executable(streamed: StreamedModule, executable: Executable, names: tuple[str, ...]) -> Executable:
    """An executable that shows the named values.

    With recomputed halos one position of all of them may read more than the tile that was asked for; then the tile is
    as large as that needs.
    """
    plan, traced = executable.plan, executable.prepared.traced
    # The cut was checked when the module was compiled, and none of the values lies behind it.
    policy: BatchNormPolicy = "frozen" if plan.batch_norm == "frozen" else "resident"
    options = replace(plan.options, cut=names, batch_norm=policy)
    device = torch.device(plan.device)
    try:
        prepared = prepare_plan(plain_model(streamed), plan.arguments, options, device, traced=traced)
    except TileSizeError as error:
        size = tuple(map(max, plan.tile_size, error.smallest_tile_size))
        options = replace(options, tile_size=size)
        prepared = prepare_plan(plain_model(streamed), plan.arguments, options, device, traced=traced)
    return build_executable(prepared, observed=names)
