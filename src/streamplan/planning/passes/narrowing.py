"""Which small tensors autocast narrows whatever a tile does: those that convolutions and linear layers alone read."""

from __future__ import annotations

from collections.abc import Collection

from streamplan.ir import AttributeRef, Graph, references

_NARROWED = frozenset({"conv", "conv_transpose", "linear"})
"""Operations that autocast runs in its own dtype, on every device."""


def find_narrowed(graph: Graph, order: Collection[str], smalls: Collection[str]) -> frozenset[str]:
    """The small tensors that nothing but convolutions and linear layers read.

    Args:
        graph: The canonical graph.
        order: Names of the calls that tiles run.
        smalls: Names of the small tensors that they read.
    """
    elsewhere: set[str] = set()
    for name in order:
        call = graph[name]
        if call.op not in _NARROWED:
            found = references(call.arguments)
            elsewhere |= {ref.path if isinstance(ref, AttributeRef) else ref.name for ref in found}
    return frozenset(smalls) - elsewhere
