"""Helpers of the tracer's tests: short ways to trace, and an oracle that runs a traced graph on real tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from streamplan.ir import TensorSpec
from streamplan.trace import Trace, trace_model


def spec(*shape: int, dtype: torch.dtype = torch.float32) -> TensorSpec:
    return TensorSpec(shape, dtype)


def specs_of(*tensors: torch.Tensor) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tuple(tensor.shape), tensor.dtype) for tensor in tensors)


class Net(nn.Module):
    """A net whose forward is the given function, called with the net itself; submodules are keyword arguments."""

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def trace_function(function: Callable[..., Any], *shapes: tuple[int, ...], **members: Any) -> Trace:
    return trace_model(Net(function, **members), [spec(*shape) for shape in shapes])


def targets(trace: Trace) -> list[Any]:
    """Targets of the calls, in order, without placeholders and the output."""
    return [node.target for node in trace.graph.nodes if node.op.startswith("call_")]


def node_of(trace: Trace, target: Any) -> fx.Node:
    """The only node with a target."""
    (node,) = [node for node in trace.graph.nodes if node.target == target]
    return node


def assert_graph_equals_model(model: nn.Module, *inputs: torch.Tensor, trace: Trace | None = None) -> Trace:
    """Run a traced graph on real tensors beside the model; outputs and gradients must agree to the last bit."""
    trace = trace or trace_model(model, specs_of(*inputs))
    graph_module = fx.GraphModule(model, trace.graph)
    expected, graph = (_run(net, list(model.parameters()), inputs) for net in (model, graph_module))
    assert len(expected) == len(graph)
    for one, other in zip(expected, graph, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    return trace


def _run(net: nn.Module, parameters: list[nn.Parameter], inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor | None]:
    """Outputs, then gradients of the inputs and parameters. The graph module shares the model's parameters."""
    torch.manual_seed(0)
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    outputs = [out for out in pytree.tree_leaves(net(*[x.clone() for x in leaves])) if isinstance(out, torch.Tensor)]
    for parameter in parameters:
        parameter.grad = None
    total = sum((out * torch.rand_like(out)).sum() for out in outputs)
    assert isinstance(total, torch.Tensor)
    total.backward()  # type: ignore[no-untyped-call]
    return [*outputs, *[source.grad for source in (*leaves, *parameters)]]


def functional_copy(trace: Trace) -> fx.Graph:
    """The traced graph with every in-place operation replaced by one that writes nothing."""
    graph = fx.Graph()
    result = graph.graph_copy(trace.graph, {})
    graph.output(result)
    for node in graph.nodes:
        if node.op == "call_method" and node.target.endswith("_"):
            node.target = node.target.removesuffix("_")
        elif node.op == "call_function" and node.target.__name__ in INPLACE_OPERATORS:
            node.target = INPLACE_OPERATORS[node.target.__name__]
        elif node.op == "call_function" and "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
    return graph


INPLACE_OPERATORS: dict[str, Callable[..., Any]] = {
    "iadd": torch.add,
    "isub": torch.sub,
    "imul": torch.mul,
    "itruediv": torch.div,
}
