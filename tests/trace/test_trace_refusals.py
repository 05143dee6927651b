"""Models a graph cannot stand for are refused, and the refusal says where; nothing of torch or the model changes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from streamplan.errors import TraceMismatchError, TracingError
from streamplan.trace import trace_model
from tests.trace.helpers import Net, spec, targets, trace_function


def _without_gradient(net: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = net.conv(x)
    return y + x


def _in_half(net: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = net.conv(x)
    return y + x


@pytest.mark.parametrize(("forward", "word"), [(_without_gradient, "no_grad"), (_in_half, "autocast")])
def test_a_switch_inside_forward_is_refused(forward: Callable[..., Any], word: str) -> None:
    with pytest.raises(TracingError, match=word) as caught:
        trace_function(forward, (1, 2, 4, 4), conv=nn.Conv2d(2, 2, 1))
    assert "y = net.conv(x)" in caught.value.where
    assert "conv (Conv2d)" in caught.value.where


def test_no_grad_around_constants_is_harmless() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            grid = torch.arange(4.0) / 4
        return x + grid

    assert torch.arange in targets(trace_function(forward, (1, 2, 4, 4)))


def test_the_trace_ignores_the_callers_no_grad() -> None:
    with torch.no_grad():
        trace = trace_function(lambda net, x: x.detach() + x, (1, 2))
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert trace_function(lambda net, x: x + 1, (1, 2)).input_names == ("inputs_0",)
    assert trace.facts["add"].output == spec(1, 2)


def _is_traced(x: torch.Tensor) -> bool:
    return type(x).__name__ == "FakeProxy"


def _drops_the_skip(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    return y.relu() if _is_traced(x) else (y + x).relu()


def _swaps_the_operands(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    return y - x if _is_traced(x) else x - y


def _skips_from_another_layer(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    z = net.conv(y)
    return z + (y if _is_traced(x) else x)


def _changes_a_constant(net: Any, x: torch.Tensor) -> torch.Tensor:
    return net.conv(x) * (2.0 if _is_traced(x) else 3.0)


def _adds_a_call(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = net.conv(x)
    return y.relu() if _is_traced(x) else y


@pytest.mark.parametrize(
    "forward", [_drops_the_skip, _swaps_the_operands, _skips_from_another_layer, _changes_a_constant, _adds_a_call]
)
def test_a_graph_that_computes_something_else_is_noticed(forward: Callable[..., Any]) -> None:
    with pytest.raises(TraceMismatchError) as caught:
        trace_function(forward, (1, 2, 4, 4), conv=nn.Conv2d(2, 2, 1))
    assert "test_trace_refusals.py" in caught.value.where
    assert "model: " in caught.value.why
    assert trace_model(Net(forward, conv=nn.Conv2d(2, 2, 1)), [spec(1, 2, 4, 4)], check=False).graph


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: (x.relu(), x.sigmoid()) if _is_traced(x) else (x.relu(), x.sigmoid())[::-1],
        lambda net, x: (x.relu(),) if _is_traced(x) else [x.relu()],
        lambda net, x: (x.relu(), 1) if _is_traced(x) else (x.relu(), 2),
    ],
)
def test_a_graph_that_returns_something_else_is_noticed(forward: Callable[..., Any]) -> None:
    def ordered(net: Any, x: torch.Tensor) -> Any:
        return forward(net, x)

    with pytest.raises(TraceMismatchError):
        trace_function(ordered, (1, 2))


def test_an_error_in_the_model_is_reported_with_module_and_line() -> None:
    inner = Net(lambda net, x: net.conv(x), conv=nn.Conv2d(3, 2, 1))
    with pytest.raises(TracingError, match="channels") as caught:
        trace_model(nn.Sequential(nn.ReLU(), inner), [spec(1, 2, 4, 4)])
    assert caught.value.where.startswith("1.conv (Conv2d), test_trace_refusals.py:")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_patches_are_undone_after_an_error() -> None:
    before = (nn.Module.__call__, nn.Module.__getattr__, vars(torch.autograd.Function)["apply"])
    with pytest.raises(TracingError):
        trace_function(lambda net, x: 1 / 0, (1, 2))
    assert before == (nn.Module.__call__, nn.Module.__getattr__, vars(torch.autograd.Function)["apply"])


def test_a_model_that_cannot_be_copied_is_named() -> None:
    net = nn.Sequential(nn.ReLU(), Net(lambda net, x: x, lock=threading.Lock()))
    with pytest.raises(TracingError, match="cannot be copied") as caught:
        trace_model(net, [spec(1, 2)])
    assert caught.value.where == "1 (Net), attribute lock"


def test_lazy_modules_are_refused_before_their_first_call() -> None:
    with pytest.raises(TracingError, match="lazy"):
        trace_model(nn.LazyConv2d(4, 1), [spec(1, 2, 4, 4)])


def test_assigning_a_buffer_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count = self.count + 1
            return x * self.count

    with pytest.raises(TracingError, match="assigns the buffer count"):
        trace_model(Counter(), [spec(1, 2)])


def test_a_model_that_caches_is_run_twice_from_the_same_state() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.grid is None:
                self.grid = torch.arange(x.shape[-1])
            return x + self.grid

    net = Cached()
    assert torch.arange in targets(trace_model(net, [spec(1, 2, 4, 4)]))
    assert net.grid is None


def test_the_users_model_and_hooks_are_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    seen: list[Any] = []
    net[0].register_forward_hook(lambda *args: seen.append(args))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    trace_model(net, [spec(1, 2, 4, 4)])
    assert seen == []
    assert torch.equal(state, torch.get_rng_state())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert type(tensor) is torch.Tensor
    assert net.training


def test_a_meta_model_traces_on_cpu() -> None:
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    trace = trace_model(net, [spec(1, 3, 8, 8)])
    assert trace.facts["_2"].output == spec(1, 4, 6, 6)
    assert {parameter.device.type for parameter in trace.skeleton.parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in net.parameters()} == {"meta"}


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TracingError, match="cuda"):
        trace_model(nn.ReLU(), [spec(1, 2)], device="cuda")


@pytest.mark.gpu
def test_another_device_can_be_traced_for() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        return net.conv(x) + torch.zeros(1, device=x.device) if x.is_cuda else net.conv(x)

    net = Net(forward, conv=nn.Conv2d(2, 2, 1))
    assert len(targets(trace_model(net, [spec(1, 2, 4, 4)], device="cuda"))) == 3
    assert len(targets(trace_model(net, [spec(1, 2, 4, 4)]))) == 1


def test_results_of_autograd_kept_as_attributes_are_copied() -> None:
    weight = nn.Parameter(torch.rand(2, 2))
    net = Net(lambda net, x: x @ net.product, weight=weight, product=weight * 2)
    assert not net.product.is_leaf
    assert trace_model(net, [spec(2, 2)]).facts["matmul"].output == spec(2, 2)
