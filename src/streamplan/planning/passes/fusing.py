"""ReLU behind a convolution, and the sum between them, written in one pass to where the result is carried.

    conv -> relu                    conv -> rectify
    conv -> (+ z) -> relu           conv -> rectify with z

On a GPU the bias of the convolution is added there too: cuDNN leaves it to a pass of torch's own, which takes longer
than the convolution.

A value with a halo is joined with what was carried to it, which reads and writes it once, and so do a sum and a ReLU.
Rectified on the way, it is carried as it is, and nothing is computed again on carried samples. Only where nothing else
reads what is in between: it is written over, or gone when the tile goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from streamplan.ir import Graph, OpCall, ValueRef
from streamplan.rules import ADDEND, BIAS

_CONVOLUTIONS = ("conv", "conv_transpose")


def fuse_relus(
    graph: Graph, streamed: frozenset[str], frontier: tuple[str, ...], *, has_late_bias: bool = False
) -> tuple[Graph, frozenset[str]]:
    """The graph with ReLUs that are part of how their convolution's result is written.

    Args:
        graph: The canonical graph.
        streamed: Names of the streamed calls.
        frontier: Cut values.
        has_late_bias: Whether the ReLU takes the bias of the convolution along.

    Returns:
        The graph, in which such ReLUs have an `addend` argument, and the sums that are gone.
    """
    kept = frozenset((*frontier, *graph.outputs))
    found = {
        relu.name: fused
        for relu in graph.calls
        if relu.op == "relu" and relu.name in streamed and (fused := _fused(graph, relu, streamed, kept))
    }
    if not found:
        return graph, frozenset()
    gone = frozenset(sum_.name for _, sum_ in found.values() if sum_ is not None)
    changed = {name: relu for name, (relu, _) in found.items()}
    if has_late_bias:
        changed |= dict(call for relu in changed.values() for call in _with_bias(graph, relu))
    calls = tuple(changed.get(call.name, call) for call in graph.calls if call.name not in gone)
    return dataclasses.replace(graph, calls=calls, module_outputs={}), gone


def _with_bias(graph: Graph, relu: OpCall) -> Iterator[tuple[str, OpCall]]:
    """A ReLU with the bias of its convolution, and the convolution without it, by name."""
    convolution = graph[relu.arguments["input"].name]
    bias = convolution.arguments["bias"]
    if convolution.op == "conv" and bias is not None:
        yield convolution.name, dataclasses.replace(convolution, arguments={**convolution.arguments, "bias": None})
        yield relu.name, dataclasses.replace(relu, arguments={**relu.arguments, BIAS: bias})


def _fused(
    graph: Graph, relu: OpCall, streamed: frozenset[str], kept: frozenset[str]
) -> tuple[OpCall, OpCall | None] | None:
    """The ReLU as it is written, and the sum that it takes along; None if there is no convolution before it."""
    behind = _spare(graph, relu, relu.arguments["input"], streamed, kept)
    if behind is None:
        return None
    if behind.op in _CONVOLUTIONS:
        return dataclasses.replace(relu, arguments={**relu.arguments, ADDEND: None}), None
    if behind.op != "add" or behind.arguments.get("alpha", 1) != 1:
        return None
    operands = (behind.arguments["input"], behind.arguments["other"])
    for own, other in (operands, operands[::-1]):
        convolution = _spare(graph, behind, own, streamed, kept)
        is_map = isinstance(other, ValueRef) and graph[other.name].output == relu.output and other != own
        if is_map and convolution is not None and convolution.op in _CONVOLUTIONS:
            return _with_sum(relu, behind, own, other), behind
    return None


def _spare(
    graph: Graph, reader: OpCall, argument: object, streamed: frozenset[str], kept: frozenset[str]
) -> OpCall | None:
    """The streamed call that an argument refers to, if nothing else reads it and it is as large as the result."""
    if not isinstance(argument, ValueRef) or argument.name not in streamed - kept:
        return None
    call = graph[argument.name]
    return call if graph.consumers[call.name] == (reader.name,) and call.output == reader.output else None


def _with_sum(relu: OpCall, sum_: OpCall, own: ValueRef, other: ValueRef) -> OpCall:
    paths = dict.fromkeys(call.module_path for call in (sum_, relu) if call.module_path)
    return dataclasses.replace(
        relu,
        arguments={**relu.arguments, "input": own, ADDEND: other},
        module_path=" + ".join(paths),
        flops=sum_.flops + relu.flops,
    )
