"""Results made from what an earlier call gave are those that torch gives; the oracle runs each call by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from streamplan.trace.aten_stream import AtenStream
from streamplan.trace.replay.known_results import META, call_key
from streamplan.trace.replay.meta_run import MetaStream, tensors_on_meta
from tests.analysis.op_instances import FAMILIES, Instance

Observed = tuple[Any, ...]


def observe(stream: AtenStream, call: Callable[[Tensor], Any], shape: tuple[int, ...]) -> Observed:
    """What a call on a new map gives: form of the result, memory shared, FLOPs, shapes of what is written."""
    with stream:
        x = torch.empty(shape, device=META)
        stream.begin()
        out = call(x)
    outs = out if isinstance(out, tuple) else (out,)
    forms = [(tuple(y.shape), y.stride(), y.dtype, y.storage_offset(), y.untyped_storage().nbytes()) for y in outs]
    shared = [y.untyped_storage()._cdata == x.untyped_storage()._cdata for y in outs]
    return forms, shared, [y is x for y in outs], stream.flops, [tuple(y.shape) for y in stream.written]


ARGUMENTS: dict[str, Callable[[Tensor], tuple[Any, ...]]] = {
    "a map": lambda x: (x,),
    "a map twice": lambda x: (x, x),
    "two maps alike": lambda x: (x, torch.empty_like(x)),
    "a map and one to be broadcast": lambda x: (x, x[:1, :, :1]),
    "a map and a number": lambda x: (x, 2.5),
    "a number and a map": lambda x: (2.5, x),
    "a map and a complex number": lambda x: (x, 1j),
    "three maps": lambda x: (x, x, x),
    "a map and two numbers": lambda x: (x, 0.5, 1.5),
}
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "whole": lambda x: x,
    "part": lambda x: x[..., 1:-1, ::2],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "expanded": lambda x: x[:, :1].expand(-1, 4, -1, -1),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_elementwise_operations(arguments: str, view: str) -> None:
    """All that torch has, with all arguments that they take."""
    num_tried = 0
    for func in elementwise_operations():
        is_out = any(argument.name == "out" for argument in func._schema.arguments)

        def call(x: Tensor, func: Any = func, is_out: bool = is_out) -> Any:
            map_ = VIEWS[view](x)
            given = ARGUMENTS[arguments](map_)
            return func(*given, out=torch.empty(map_.shape, device=META)) if is_out else func(*given)

        try:
            observe(AtenStream(keeps_calls=False), call, (2, 4, 6, 6))
        except (RuntimeError, TypeError, ValueError, AttributeError):  # not these arguments
            continue
        assert_again_as_alone(call, (2, 4, 6, 6))
        num_tried += 1
    assert num_tried > 5, f"{num_tried} operations take these arguments"


def elementwise_operations() -> list[Any]:
    packets = [getattr(torch.ops.aten, name) for name in dir(torch.ops.aten)]
    overloads = [
        getattr(packet, name) for packet in packets if hasattr(packet, "overloads") for name in packet.overloads()
    ]
    return [func for func in overloads if torch.Tag.pointwise in func.tags]


def assert_again_as_alone(call: Callable[[Tensor], Any], shape: tuple[int, ...]) -> None:
    alone = observe(AtenStream(keeps_calls=False), call, shape)
    stream = MetaStream()
    for _ in range(3):
        assert observe(stream, call, shape) == alone


@given(st.one_of(*FAMILIES.values()))
def test_operations_with_windows(instance: Instance) -> None:
    assert_again_as_alone(instance.build().to(META).eval(), instance.size)


CALLS: dict[str, Callable[[Tensor], Any]] = {
    "relu": torch.relu,
    "relu_": lambda x: x.relu_(),
    "add": lambda x: x + x,
    "add with a factor": lambda x: torch.add(x, x, alpha=2),
    "add_ of fewer dimensions": lambda x: x.add_(torch.ones(8, device=META)),
    "add of a whole number": lambda x: x + 1,
    "compare": lambda x: x > 0,
    "to another dtype": lambda x: x.to(torch.float64),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3) * 2,
    "view": lambda x: x.flatten(2),
    "slice of a slice": lambda x: torch.relu(x[:, :, ::2][:, :, 1:]),
    "expanded": lambda x: torch.relu(x[:, :1].expand(-1, 4, -1, -1)),
    "cat": lambda x: torch.cat((x, x), 1),
    "split": lambda x: torch.split(x, 1, 1),
    "topk": lambda x: tuple(torch.topk(x, 3)),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "softmax": lambda x: x.softmax(1),
    "group norm": lambda x: F.group_norm(x, 2),
    "zeros_": lambda x: x.zero_(),
    "transpose_": lambda x: x.transpose_(2, 3),
    "unsqueeze_": lambda x: x.unsqueeze_(0),
    "resize_": lambda x: x.resize_(1, 4, 4, 4),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "complex": lambda x: torch.fft.rfft(x).abs(),
    "made from nothing": lambda x: torch.zeros(3, device=META),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    assert_again_as_alone(CALLS[name], (1, 4, 6, 8))


@pytest.mark.parametrize("training", [False, True])
def test_batch_norms(training: bool) -> None:
    """Statistics that a call writes are seen every time."""
    norm = nn.BatchNorm2d(4, device=META).train(training)
    assert_again_as_alone(norm, (2, 4, 6, 6))
    stream = MetaStream()
    observed = [observe(stream, norm, (2, 4, 6, 6))[-1] for _ in range(2)]
    assert observed == [[(), (4,), (4,)] if training else []] * 2


def test_a_call_like_an_earlier_one_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    call = AtenStream._call

    def counting(self: AtenStream, func: Any, *rest: Any) -> Any:
        made.append(str(func))
        return call(self, func, *rest)

    monkeypatch.setattr(AtenStream, "_call", counting)
    net, x = nn.Conv2d(4, 4, 3, padding=1, device=META), torch.empty(1, 4, 6, 6, device=META)
    with torch.no_grad(), MetaStream():
        net(net(x.softmax(1)).softmax(1))
    assert made == ["aten._softmax.default", "aten.convolution.default"]


def test_some_calls_are_not_made_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    call = AtenStream._call
    monkeypatch.setattr(AtenStream, "_call", lambda self, *rest: made.append(str(rest[0])) or call(self, *rest))
    x, norm = torch.empty(1, 4, 6, 6, device=META), nn.BatchNorm2d(4, device=META).eval()
    with torch.no_grad(), MetaStream():
        norm(x)
        torch.relu(x)
        torch.add(x, x, alpha=2)
        x.add_(x)
        torch.mul(x, x, out=x)
    assert made == ["aten.empty.memory_format"]  # which torch makes for a batch norm of cuDNN's


def test_constants_of_other_types_are_other_calls() -> None:
    """1 == True == 1.0, and torch tells them apart."""
    stream = MetaStream()
    whole = torch.empty(2, dtype=torch.int64, device=META)
    with stream:
        assert [torch.add(whole, value).dtype for value in (1, 1.0, True)] == [torch.int64, torch.float32, torch.int64]


def test_operands_in_another_order_of_memory_are_another_call() -> None:
    stream = MetaStream()
    plain = torch.empty(1, 4, 6, 6, device=META)
    last = plain.contiguous(memory_format=torch.channels_last)
    with stream:
        assert [torch.relu(x).stride() for x in (plain, last, plain)] == [plain.stride(), last.stride(), plain.stride()]


@pytest.mark.parametrize(
    ("func", "has_key"),
    [
        (torch.ops.aten.relu.default, True),
        (torch.ops.aten.relu_.default, True),
        (torch.ops.aten.view.default, False),
        (torch.ops.aten.add.out, False),
    ],
)
def test_which_calls_have_a_key(func: Any, has_key: bool) -> None:
    assert (call_key(func, (torch.empty(2, device=META),), {}) is not None) == has_key


@pytest.mark.parametrize("training", [False, True])
def test_batch_norms_that_write_have_none(training: bool) -> None:
    x = torch.empty(2, device=META)
    args = (x[None], x, x, x, x, training, 0.1, 1e-5)
    assert (call_key(torch.ops.aten.native_batch_norm.default, args, {}) is None) == training


def test_calls_on_tensors_with_data_are_made() -> None:
    x, norm = torch.rand(1, 4, 6, 6), nn.BatchNorm2d(4).eval()
    with torch.no_grad(), MetaStream():
        found = norm(x), torch.relu(-x)
    assert torch.equal(found[0], norm(x))
    assert not found[1].any()


def test_tensors_with_data_have_none() -> None:
    assert call_key(torch.ops.aten.relu.default, (torch.empty(2),), {}) is None


def test_twins_are_in_place_inside_the_block_only() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.append(net[0])
    before = dict(net.state_dict(keep_vars=True))
    for _ in range(2):
        with tensors_on_meta(net):
            assert net[1].running_mean.grad_fn is None, "nothing is left of what was written the last time"
            net[1].running_mean.add_(net[0].weight.sum())
            assert all(tensor.is_meta for tensor in net.state_dict(keep_vars=True).values())
            assert net[0].weight is net[2].weight, "one twin for a shared tensor"
        after = net.state_dict(keep_vars=True)
        assert all(after[name] is tensor for name, tensor in before.items())
