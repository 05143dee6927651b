"""What becomes a node, how it is spelled, and that the graph computes what the model computes."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from streamplan.errors import ModelTypeError, TracingError
from streamplan.trace import Trace, trace_model
from tests.trace.helpers import Net, assert_graph_equals_model, node_of, spec, targets, trace_function


def test_operators_methods_and_functions_keep_their_spelling() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = 2 - x
        y += x
        y = -y @ y
        y = torch.relu(y).mul(3) / (y + 1)
        return torch.cat([y[..., 1:], *[y.T[:3].T]], 1)

    trace = assert_graph_equals_model(Net(forward), torch.rand(4, 4))
    assert targets(trace) == [
        operator.sub, operator.iadd, operator.neg, operator.matmul, torch.relu, "mul", operator.add, operator.truediv,
        operator.getitem, getattr, operator.getitem, getattr, torch.cat,
    ]  # fmt: skip
    assert node_of(trace, operator.sub).args[0] == 2


def test_tuples_of_tensors_unpack_index_and_iterate() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, 1)
        parts = x.split(1, dim=1)
        values, indices = x.max(dim=1)
        assert len(parts) == 4
        assert x.max(dim=1).indices.dtype == torch.int64
        first, second = x
        return a * b + parts[3] + values[:, None] + indices[:, None] + (first - second)[:2]

    trace = assert_graph_equals_model(Net(forward), torch.rand(2, 4, 3, 3))
    assert all(node.users for node in trace.graph.nodes if node.target is operator.getitem)


def test_leaf_with_a_tuple_output() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    net = Net(lambda net, x: net.attention(x, x, x, need_weights=False)[0], attention=attention)
    trace = assert_graph_equals_model(net, torch.rand(2, 5, 8))
    assert node_of(trace, "attention").op == "call_module"


def test_isinstance_holds_so_a_skip_connection_stays() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = net.conv(x)
        return torch.cat([y, x], 1) if isinstance(x, torch.Tensor) and type(y) is not fx.Proxy else y

    trace = trace_function(forward, (1, 2, 8, 8), conv=nn.Conv2d(2, 2, 1))
    assert [arg.name for arg in node_of(trace, torch.cat).args[0]] == ["conv", "inputs_0"]
    assert trace.facts["cat"].output == spec(1, 4, 8, 8)


class Optional(nn.Module):
    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None = None, *rest: Any, scale: float = 2.0, **more: Any
    ) -> Any:
        y = x * scale
        if mask is not None:
            y = y * mask
        for other in (*rest, *more.values()):
            y = y + other
        return y


def test_arguments_not_given_keep_their_defaults() -> None:
    trace = trace_model(Optional(), [spec(1, 2)])
    assert trace.input_names == ("x",)
    assert targets(trace) == [operator.mul]


def test_arguments_given_in_every_way_become_inputs() -> None:
    shape = spec(1, 2)
    trace = trace_model(Optional(), [shape, shape, shape], {"scale": 3.0, "more": shape})
    assert trace.input_names == ("x", "mask", "rest_0", "more")
    assert [node.args[1].name if isinstance(node.args[1], fx.Node) else node.args[1] for node in _calls(trace)] == [
        3.0,
        "mask",
        "rest_0",
        "more",
    ]


def _calls(trace: Trace) -> list[fx.Node]:
    return [node for node in trace.graph.nodes if node.op == "call_function"]


def test_nested_inputs_and_outputs_keep_their_structure() -> None:
    net = Net(lambda net, pair, table: {"sum": pair[0] + pair[1], "rest": [table["a"], 5]})
    trace = trace_model(net, [(spec(2), spec(2)), {"a": spec(3)}])
    assert len(trace.input_names) == 3
    assert trace.facts["output"].output == {"sum": spec(2), "rest": [spec(3), 5]}
    assert trace.output_form.num_leaves == 3


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(TracingError, match="do not fit"):
        trace_model(Optional(), [])
    with pytest.raises(ModelTypeError):
        trace_model(torch.relu, [spec(1)])  # type: ignore[arg-type]


def test_factories_become_nodes() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        grid = torch.linspace(0, 1, x.shape[-1]) + torch.arange(8) * torch.ones_like(x[0, 0, 0])
        return x + grid + torch.tensor([1.0]) + x.new_zeros(8)

    trace = assert_graph_equals_model(Net(forward), torch.rand(1, 1, 8, 8))
    assert {torch.linspace, torch.arange, torch.ones_like, torch.tensor, torch.zeros} <= set(targets(trace))


def test_weight_only_subgraph_keeps_its_gradient_and_names_its_source() -> None:
    class StandardizedConv(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) / self.weight.std()
            return F.conv2d(input, weight, self.bias)

    trace = assert_graph_equals_model(nn.Sequential(StandardizedConv(3, 4, 3), nn.ReLU()), torch.rand(1, 3, 8, 8))
    reads = [node.target for node in trace.graph.nodes if node.op == "get_attr"]
    assert reads == ["0.weight", "0.bias"]
    assert trace.facts["_1"].module_type == "ReLU"
    assert trace.facts["sub"].module_path == "0"
    assert trace.facts["sub"].module_type == "StandardizedConv"


def test_tied_weights_stay_tied() -> None:
    first, second = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    second.weight = first.weight
    net = Net(lambda net, x: F.conv2d(net.b(net.a(x)), net.b.weight), a=first, b=second)
    trace = assert_graph_equals_model(net, torch.rand(1, 2, 3, 3))
    assert trace.skeleton.a.weight is trace.skeleton.b.weight
    assert [node.target for node in trace.graph.nodes if node.op == "get_attr"] == ["a.weight"]


def test_unregistered_tensor_attribute_is_read_by_path() -> None:
    net = Net(lambda net, x: net.scale * x + x * net.scale.shape[0], scale=torch.rand(3, 1, 1))
    assert not dict(net.named_buffers())
    trace = assert_graph_equals_model(net, torch.rand(1, 3, 4, 4))
    assert [node.target for node in trace.graph.nodes if node.op == "get_attr"] == ["scale"]


def test_a_tensor_the_model_does_not_own_is_refused() -> None:
    constant = torch.rand(3, 1, 1)
    with pytest.raises(TracingError, match="does not own"):
        trace_function(lambda net, x: x * constant, (1, 3, 4, 4))


class Square(torch.autograd.Function):
    """Its backward is wrong on purpose, so that a trace into forward would be noticed."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, power: int) -> torch.Tensor:
        return x**power

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * 100, None


def test_autograd_function_is_one_node_with_its_own_backward() -> None:
    net = Net(lambda net, x: Square.apply(net.conv(x), 2) + 1, conv=nn.Conv2d(2, 2, 1))
    trace = assert_graph_equals_model(net, torch.rand(1, 2, 3, 3))
    assert [node.target for node in trace.graph.nodes].count(Square.apply) == 1
    assert node_of(trace, Square.apply).target.__self__ is Square
    assert torch.autograd.Function.apply.__func__ is torch.autograd.Function.__dict__["apply"].__func__


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint_is_a_plain_call(use_reentrant: bool) -> None:
    net = Net(lambda net, x: checkpoint(net.conv, x, use_reentrant=use_reentrant).relu(), conv=nn.Conv2d(2, 2, 1))
    assert targets(assert_graph_equals_model(net, torch.rand(1, 2, 3, 3))) == ["conv", "relu"]


def test_parametrized_layers_stay_leaves() -> None:
    conv = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    trace = assert_graph_equals_model(nn.Sequential(conv, nn.ReLU()), torch.rand(1, 2, 5, 5))
    assert targets(trace) == ["0", "1"]
    assert trace.facts["_0"].module_type == "Conv2d"


def test_parametrized_user_module_is_traced_into() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight)

    net = nn.Sequential(parametrizations.weight_norm(Scale()))
    trace = assert_graph_equals_model(net, torch.rand(2, 3))
    assert "0.parametrizations.weight.0" in targets(trace)


def test_is_leaf_keeps_further_modules_whole() -> None:
    block = Net(lambda net, x: x * 2 + 1)
    net = nn.Sequential(block, nn.ReLU())
    trace = trace_model(net, [spec(1, 2)], is_leaf=lambda module: module.__class__ is Net)
    assert targets(trace) == ["0", "1"]


def test_modules_made_in_forward_are_traced_into() -> None:
    trace = assert_graph_equals_model(Net(lambda net, x: nn.ReLU()(x) * 2), torch.randn(1, 2, 3))
    assert len(targets(trace)) == 2


def test_wrapped_functions_stay_whole() -> None:
    trace = assert_graph_equals_model(Net(lambda net, x: wrapped(x, 3) + 1), torch.rand(2, 2))
    assert targets(trace)[0] is wrapped
    assert wrapped.__code__.co_name == "wrapped"


@fx.wrap
def wrapped(x: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        x = x.sin()
    return x


def test_torchscript_functions_are_traced_into() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, and still in use
        script = torch.jit.script(_swish)
    trace = assert_graph_equals_model(Net(lambda net, x: script(x) + 1), torch.randn(1, 2, 3))
    assert targets(trace) == ["sigmoid", operator.mul, operator.add]


def _swish(x: torch.Tensor) -> torch.Tensor:
    return x * x.sigmoid()


def test_a_layer_of_torch_can_be_the_model() -> None:
    trace = assert_graph_equals_model(nn.Conv2d(2, 3, 1), torch.rand(1, 2, 4, 4))
    assert [node.target for node in trace.graph.nodes if node.op == "get_attr"] == ["weight", "bias"]


def test_module_outputs_name_the_last_value_each_module_returned() -> None:
    net = nn.Sequential()
    net.add_module("body", nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()))
    net.add_module("same", Net(lambda net, x: x))
    net.add_module("split", Net(lambda net, x: x.chunk(2, 1)))
    net.add_module("first", Net(lambda net, pair: pair[0].sigmoid()))
    trace = trace_model(net, [spec(1, 2, 4, 4)])
    outputs = dict(trace.module_outputs)
    assert outputs == {
        "": "sigmoid", "body": "body_1", "body.0": "body_0", "body.1": "body_1", "same": "body_1", "first": "sigmoid",
    }  # fmt: skip


def test_facts_give_sizes_memory_arithmetic_and_place() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.Flatten(1))
    trace = trace_model(net, [spec(1, 3, 16, 16)])
    conv, relu, flat = (trace.facts[name] for name in ("_0", "_1", "_2"))
    assert conv.flops == 2 * 8 * 16 * 16 * 3 * 9
    assert conv.activation_bytes == 4 * 8 * 16 * 16
    assert (relu.activation_bytes, flat.activation_bytes) == (0, 0)
    assert conv.storages == relu.storages == flat.storages == relu.mutates
    assert flat.is_view
    assert not conv.is_view
    assert conv.location is None  # no line of user code between the model and its layer
    assert trace.facts["input_1"].activation_bytes == 0
