"""Tensors made like an activation, without reading it: `x.new_empty(shape)` becomes `torch.empty(shape, ...)`.

DropPath draws its mask that way. What the call takes from `x` is its dtype and device, which the trace knows, so in the
graph it need not depend on the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from streamplan.trace.records import CallRecord

_FACTORIES = {
    "new_empty": torch.empty,
    "new_zeros": torch.zeros,
    "new_ones": torch.ones,
    "new_full": torch.full,
}


def free_factories(graph: fx.Graph, records: Mapping[fx.Node, CallRecord]) -> None:
    """Make factory methods of traced tensors functions of numbers alone.

    Args:
        graph: Traced graph; changed in place.
        records: What each node did.
    """
    for node in graph.nodes:
        made = records[node].value
        if node.op == "call_method" and node.target in _FACTORIES and isinstance(made, torch.Tensor):
            node.op, node.args, node.kwargs, node.target = (
                "call_function",
                _sized(node.target, node.args[1:]),
                {"dtype": made.dtype, "device": made.device, **node.kwargs},
                _FACTORIES[node.target],
            )


def _sized(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The size as one tuple; a fill value behind it stays."""
    if name == "new_full" or not all(isinstance(arg, int) for arg in args):
        return args
    return (args,) if args else ()
