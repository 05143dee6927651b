"""What a model returns: containers of every kind, parameters and buffers, and which results have gradients."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan.errors import SourceError, TracingError

SIZE = (2, 3, 21, 18)
Pair = namedtuple("Pair", "map scale")


@dataclasses.dataclass
class Output:
    map: Tensor
    scores: list[Tensor]
    scale: float = 0.5
    total: Tensor | None = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        self.total = self.map.sum()


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    map: Tensor
    name: str


class ModelOutput(OrderedDict[str, Tensor]):
    """As transformers has it: items and attributes are the same."""

    def __setitem__(self, name: str, value: Tensor) -> None:
        super().__setitem__(name, value)
        object.__setattr__(self, name, value)


def model_output(y: Tensor) -> ModelOutput:
    found = ModelOutput()
    found["logits"] = y.mean((2, 3))
    found["map"] = y
    return found


class Holder:
    def __init__(self, y: Tensor) -> None:
        self.parts = {"y": y, 3: (y, None)}


class Net(nn.Module):
    def __init__(self, finish: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3)
        self.register_buffer("anchors", torch.rand(3))
        self.token = nn.Parameter(torch.rand(4))
        self.finish = finish

    def forward(self, x: Tensor) -> Any:
        return self.finish(self, self.second(torch.relu(self.first(x))))


FORMS: dict[str, Callable[[Net, Tensor], Any]] = {
    "namedtuple": lambda net, y: Pair(y, 3),
    "dataclass": lambda net, y: Output(y, [y.mean((2, 3)), y]),
    "dataclass_with_slots": lambda net, y: Frozen(y, "map"),
    "dict_subclass": lambda net, y: model_output(y),
    "dict_with_other_keys": lambda net, y: {0: y, ("a", 1): y.sum()},
    "deque": lambda net, y: deque([y, [y.mean()]]),
    "mapping_proxy": lambda net, y: MappingProxyType({"y": y}),
    "namespace": lambda net, y: SimpleNamespace(y=y, n=1),
    "object": lambda net, y: Holder(y),
    "constants": lambda net, y: (y, y.shape, torch.float32, None, "x", 1j, b"b", [], {}),
    "buffer": lambda net, y: (y, net.anchors),
    "buffer_first": lambda net, y: [net.anchors, {"y": y, "again": net.anchors}],
    "parameter": lambda net, y: (y.mean((2, 3)), net.token),
    "parameter_that_tiles_read": lambda net, y: (y, net.second.weight, net.first.bias * 2),
}


def leaves(value: Any) -> list[Any]:
    """All that a result holds, in an order of its own: found through attributes, items and keys."""
    if isinstance(value, Tensor) or value is None or isinstance(value, torch.Size):
        return [value]
    if isinstance(value, dict | MappingProxyType):
        own = [x for key, item in value.items() for x in (key, *leaves(item))]
        return (
            own + [x for name in vars(value) for x in leaves(vars(value)[name])] if hasattr(value, "__dict__") else own
        )
    if isinstance(value, tuple | list | deque):
        return [x for item in value for x in leaves(item)]
    if dataclasses.is_dataclass(value):
        return [x for field in dataclasses.fields(value) for x in leaves(getattr(value, field.name))]
    return [x for item in vars(value).values() for x in leaves(item)] if hasattr(value, "__dict__") else [value]


@pytest.mark.parametrize("form", FORMS)
def test_results_are_those_of_the_plain_net(form: str) -> None:
    net = Net(FORMS[form]).double()
    x = torch.randn(SIZE, dtype=torch.float64)
    streamed = streamplan.compile(net, SIZE, 8)
    found = []
    for call in (net, streamed, streamed):
        net.zero_grad()
        result = call(x)
        tensors = [leaf for leaf in leaves(result) if isinstance(leaf, Tensor)]
        weights = torch.Generator().manual_seed(1)
        with_gradient = [t for t in tensors if t.requires_grad]
        sum((t * torch.rand(t.shape, generator=weights, dtype=t.dtype)).sum() for t in with_gradient).backward()
        found.append((result, {name: p.grad for name, p in net.named_parameters()}))
    (expected, gradients), (actual, actual_gradients), (again, _) = found
    assert type(actual) is type(expected)
    for one, other in zip(leaves(expected), leaves(actual), strict=True):
        assert type(one) is type(other)
        if isinstance(one, Tensor):
            assert one.requires_grad == other.requires_grad
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
        else:
            assert one == other
    torch.testing.assert_close(actual_gradients, gradients, rtol=1e-10, atol=1e-10)
    assert actual is not again


def test_a_returned_buffer_is_the_model_s_own() -> None:
    net = Net(FORMS["buffer"])
    streamed = streamplan.compile(net, SIZE, 8)
    assert streamed(torch.randn(SIZE))[1] is net.anchors


def test_containers_are_new_in_each_call() -> None:
    streamed = streamplan.compile(Net(lambda net, y: (y, [], {})), SIZE, 8)
    x = torch.randn(SIZE)
    streamed(x)[1].append(1)
    assert streamed(x)[1:] == ([], {})


@pytest.mark.parametrize(
    ("finish", "name"),
    [
        (lambda net, y: (net, y), "Net"),
        (lambda net, y: (item for item in (y,)), "generator"),
        (lambda net, y: {y}, "set"),
        (lambda net, y: (y, lambda: y), "function"),
    ],
)
def test_what_tensors_cannot_be_found_in_is_refused_by_its_class(finish: Any, name: str) -> None:
    with pytest.raises(TracingError, match=f"returns an object of type {name}"):
        streamplan.compile(Net(finish), SIZE, 8)


def test_a_map_beside_a_buffer_is_not_written_to_an_array() -> None:
    streamed = streamplan.compile(Net(FORMS["buffer"]), SIZE, 8)
    with pytest.raises(SourceError, match="not computed by tiles alone"):
        streamed.predict(torch.randn(SIZE), out=torch.zeros(2, 2, 19, 16))


@pytest.mark.parametrize(
    "finish",
    [
        lambda net, y: y.detach(),
        lambda net, y: (y, y.detach()),
        lambda net, y: (y.detach() * 2, y.argmax(1), y > 0, net.first.weight),
        lambda net, y: y.detach().mean((2, 3)) + net.token[:2],
        lambda net, y: y.long().to(y.dtype),
    ],
)
@pytest.mark.parametrize("wanted", ["all", "image", "second", "nothing"])
def test_results_have_a_gradient_where_the_plain_net_s_have(finish: Any, wanted: str) -> None:
    net = Net(finish).double().requires_grad_(wanted == "all")
    net.second.requires_grad_(wanted in ("all", "second"))
    x = torch.randn(SIZE, dtype=torch.float64, requires_grad=wanted in ("all", "image"))
    streamed = streamplan.compile(net, SIZE, 8)
    expected, actual = ([t.requires_grad for t in leaves(call(x))] for call in (net, streamed))
    assert actual == expected


def test_out_of_a_function_may_be_a_new_map_behind_detach() -> None:
    def finish(net: Net, y: Tensor) -> Tensor:
        y = y.detach()
        out = torch.empty_like(y)
        torch.add(y, y, out=out)
        return out

    net = Net(finish).double()
    x = torch.randn(SIZE, dtype=torch.float64)
    torch.testing.assert_close(streamplan.compile(net, SIZE, 8)(x), net(x), rtol=1e-10, atol=1e-10)


def test_an_image_that_nothing_is_differentiated_by_has_no_gradient() -> None:
    class Detached(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)).detach())

    net = Detached(FORMS["buffer"]).double()
    grads = []
    for call in (net, streamplan.compile(net, SIZE, 8)):
        x = torch.randn(SIZE, dtype=torch.float64, requires_grad=True)
        net.zero_grad()
        call(x).sum().backward()
        grads.append((x.grad is None, [p.grad is None for p in net.parameters()]))
    assert grads[0] == grads[1]
