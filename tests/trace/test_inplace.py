"""In-place writes become data flow, or mark what they write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from streamplan.trace import trace_model
from tests.trace.helpers import Net, functional_copy, specs_of, trace_function


def _read_after_relu(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    z = y.relu_()
    return y * 2 + z


def _statement(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    before = y * 3
    F.relu(y, inplace=True)
    y.add_(1)
    return y + before


def _augmented(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    kept = y
    y += x
    y *= 2
    return kept + y


def _through_identity(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    same = net.identity(y).contiguous()
    same.sub_(1)
    return y + 5 * same


def _half_of_a_dead_tensor(net: Any, x: torch.Tensor) -> torch.Tensor:
    half = net.conv(x)[:, :1]
    before = half + 1
    half.sigmoid_()
    return half * before


SAFE = [_read_after_relu, _statement, _augmented, _through_identity, _half_of_a_dead_tensor]


@pytest.mark.parametrize("forward", SAFE)
def test_without_the_writes_the_graph_still_computes_the_model(forward: Callable[..., Any]) -> None:
    net = Net(forward, conv=nn.Conv2d(2, 2, 1), identity=nn.Identity()).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    trace = trace_model(net, specs_of(x))
    expected = net(x.clone())
    for graph in (trace.graph, functional_copy(trace)):
        torch.testing.assert_close(fx.GraphModule(net, graph)(x.clone()), expected, rtol=0, atol=1e-12)
    assert not any(fact.unsafe_write for fact in trace.facts.values())


def test_the_functional_copy_does_depend_on_the_redirection() -> None:
    """The oracle can fail: without redirected reads, replacing in-place operations changes the result."""
    net = Net(_read_after_relu, conv=nn.Conv2d(2, 2, 1))
    x = torch.randn(1, 2, 4, 4)
    trace = trace_model(net, specs_of(x))
    (relu,) = [node for node in trace.graph.nodes if node.target == "relu_"]
    for user in list(relu.users):
        user.replace_input_with(relu, relu.args[0])
    assert not torch.allclose(fx.GraphModule(net, functional_copy(trace))(x), net(x))


def _set_item(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    y[:, 0] = 0
    return y


def _partial_view(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    y[:, :1].relu_()
    return y


def _out_argument(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    torch.mul(x, 2, out=y)
    return y


def _view_read_later(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    flat = y.view(1, -1)
    y.relu_()
    return flat * 2


@pytest.mark.parametrize("forward", [_set_item, _partial_view, _view_read_later])
def test_other_writes_mark_the_producer(forward: Callable[..., Any]) -> None:
    trace = trace_function(forward, (1, 2, 4, 4), conv=nn.Conv2d(2, 2, 1))
    marked = {name: fact.unsafe_write for name, fact in trace.facts.items() if fact.unsafe_write}
    assert list(marked) == ["conv"]
    assert "test_inplace.py" in marked["conv"]


def test_out_argument_marks_the_producer() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.empty(1, 2, 4, 4)
        torch.mul(x, 2, out=y)
        return y

    assert "out=" in trace_function(forward, (1, 2, 4, 4)).facts["empty"].unsafe_write


def test_writing_the_models_input_marks_it() -> None:
    trace = trace_model(nn.Sequential(nn.ReLU(inplace=True)), [*specs_of(torch.rand(1, 2))])
    assert "caller" in trace.facts["input_1"].unsafe_write


def test_writing_a_buffer_outside_a_leaf_marks_it() -> None:
    net = Net(lambda net, x: x * net.count.add_(1), count=nn.Buffer(torch.zeros(1)))
    assert "belongs to the model" in trace_model(net, specs_of(torch.rand(2))).facts["count"].unsafe_write


def test_running_statistics_of_a_training_batch_norm_are_its_own_affair() -> None:
    trace = trace_model(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)), specs_of(torch.rand(2, 2, 4, 4)))
    assert all(fact.mutates == () and not fact.unsafe_write for fact in trace.facts.values())


def test_functional_batch_norm_in_training_writes_its_statistics() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, net.mean, net.var, training=True)

    trace = trace_function(forward, (2, 2, 4, 4), mean=nn.Buffer(torch.zeros(2)), var=nn.Buffer(torch.ones(2)))
    assert trace.facts["mean"].unsafe_write
    assert trace.facts["var"].unsafe_write
