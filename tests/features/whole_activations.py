"""Statistics of whole activations: the plain model, run operation by operation, with everything it computes kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

import streamplan
from streamplan.planning.arguments import CallArguments


class _Recorder(fx.Interpreter):
    """Keeps a copy of every tensor."""

    values: dict[str, Tensor]

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.values[n.name] = value.clone()
        return value


def whole_activations(streamed: streamplan.StreamedModule, batch: Sequence[Tensor]) -> dict[str, Tensor]:
    """Every value of the plain model for one batch, by its name in the plan."""
    arguments = CallArguments.of_tensors(tuple(batch))
    graph = streamed._executable_for(arguments).prepared.traced.trace.graph
    recorder = _Recorder(streamed._model, graph=graph)
    recorder.values = {}
    with torch.no_grad():
        recorder.run(*batch)
    return recorder.values


def assert_same_statistics(
    found: streamplan.ActivationStatistics,
    streamed: streamplan.StreamedModule,
    batches: Sequence[Sequence[Tensor]],
    channel_dims: dict[str, int] | None = None,
    tolerance: float = 1e-10,
) -> None:
    """Raise if a number differs from that of the whole activations by more than a share of the largest activation.

    Args:
        found: What to check.
        streamed: The streamed module.
        batches: Inputs of each call.
        channel_dims: Dimension of the channels of values where it is not the second.
        tolerance: The share.
    """
    whole = [whole_activations(streamed, batch) for batch in batches]
    assert found.num_images == sum(batch[0].shape[0] for batch in batches)
    for name, item in found.items():
        dim = (channel_dims or {}).get(name, 1)
        columns = torch.cat([values[item.value].movedim(dim, 0).flatten(1) for values in whole], 1).double()
        assert item.count == columns.shape[1], name
        assert item.mean.shape == item.std.shape == (columns.shape[0],), name
        scale = float(columns.abs().max()) or 1.0
        assert float((item.mean - columns.mean(1)).abs().max()) <= tolerance * scale, name
        assert float((item.std - columns.std(1, correction=0)).abs().max()) <= tolerance * scale, name
