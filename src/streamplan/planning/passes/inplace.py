"""Which calls may write their result over an operand.

    relu(conv)       the convolution's output is read by the activation alone, and autograd does not keep it
    conv + skip      the same, with the sum

An operand qualifies if nothing else reads it, its producer does not keep its own output for the backward pass, and it
has the shape and dtype of the result. Carried samples are copies, so a carry does not count as a reader.
"""

from __future__ import annotations

from typing import Any

from streamplan.analysis.regions import StreamedPart
from streamplan.geometry import IDENTITY
from streamplan.ir import Graph, OpCall, ValueRef

_ACTIVATIONS = frozenset({"relu", "relu6", "leaky_relu", "hardtanh", "elu", "sigmoid", "tanh"})
"""Activations whose backward needs their result at most."""
_SIGNED = {"leaky_relu": "negative_slope", "elu": "alpha"}
"""Of those, the ones whose result tells the sign of the operand only for a constant that is not negative."""
_SUMS = frozenset({"add", "sub"})
_PRODUCERS = frozenset({"conv", "batch_norm", "add", "sub", "cat", "linear"})
"""Operations that allocate their output and do not keep it."""


def find_inplace(graph: Graph, part: StreamedPart) -> dict[str, str]:
    """The operand (`input` or `other`) that each call may overwrite, by call name."""
    found = {}
    for name in part.order:
        call = graph[name]
        for operand in _operands(call):
            if _is_spare(call.arguments[operand], call, graph, part):
                found[name] = operand
                break
    return found


def _operands(call: OpCall) -> tuple[str, ...]:
    """Arguments that the operation could overwrite."""
    if call.op in _ACTIVATIONS:
        constant = call.arguments.get(_SIGNED.get(call.op, ""), 0)
        return ("input",) if isinstance(constant, int | float) and constant >= 0 else ()
    if call.op in _SUMS:
        is_symmetric = call.op == "add" and call.arguments.get("alpha", 1) == 1
        return ("input", "other") if is_symmetric else ("input",)
    return ()


def _is_spare(argument: Any, call: OpCall, graph: Graph, part: StreamedPart) -> bool:
    """Whether the call may overwrite an operand."""
    if not isinstance(argument, ValueRef) or argument.name not in part.order:
        return False
    name, source = argument.name, graph[argument.name]
    edges = [edge for edge in part.reads[call.name] if edge.source == name]
    return (
        part.num_readers[name] == 1
        and name not in part.frontier
        and source.op in _PRODUCERS
        and source.output == call.output
        and part.extents[name] == part.extents[call.name]
        and all(axis_map == IDENTITY for edge in edges for axis_map in edge.axis_maps)
        and not _appears_twice(call, name)
    )


def _appears_twice(call: OpCall, name: str) -> bool:
    """`x + x`: one edge, two operands."""
    return sum(isinstance(a, ValueRef) and a.name == name for a in call.arguments.values()) > 1
