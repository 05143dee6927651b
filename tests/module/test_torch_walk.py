"""A walk over torch: each function and module, on a map and behind it, is computed as in the plain net or refused.

No other error leaves the package: what the plain net computes is computed or a `StreamPlanError`, and where torch
refuses the plain net's call the streamed net does not return either. Arguments are drawn by the names of parameters.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import get_testing_overrides, resolve_name

import streamplan
from streamplan.errors import StreamPlanError

SIZE = (1, 4, 12, 10)
CONSTANTS: dict[str, tuple[Any, ...]] = {
    "dim": (1, -1, 2, 0),
    "dims": ((2, 3), (0, 1, 2, 3), (3,)),
    "kernel_size": (2, (2, 2), 3),
    "size": ((1, 4, 12, 10), (4, -1)),
    "shape": ((1, 4, -1),),
    "output_size": ((2, 2), 1),
    "p": (0.5, 2),
    "index": (1, slice(2)),
    "dtype": (torch.float64, torch.int32),
    "mode": ("constant", "bilinear", "reflect"),
    "equation": ("abcd->ab",),
    "memory_format": (torch.channels_last,),
    "device": ("cpu", "meta"),
    "num_features": (4,),
    "num_channels": (4,),
    "num_groups": (2,),
    "normalized_shape": (10, (12, 10)),
    "in_channels": (4,),
    "out_channels": (4,),
    "in_features": (10, 4),
    "out_features": (3,),
    "num_parameters": (4, 1),
    "scale_factor": (2, 0.5),
    "upscale_factor": (2,),
    "downscale_factor": (2,),
    "embed_dim": (10, 4),
    "num_heads": (2,),
}
OTHERS: tuple[Any, ...] = (1, 0, 2, (1, 1), 0.5, -1, True, None, "x", "mean")
TENSORS = ("z", "weight", "index", "pair", "mask")
SKIPPED = (
    "__torch_function__ share_memory pin_memory storage __reduce __deepcopy__ backward pickle cuda xpu ipu rnn init. "
    "dlpack quantized fbgemm hook new_tensor from_file _batch_norm lstm gru miopen cudnn mkldnn set_ resize sparse"
).split()
"""Parts of names of functions that need another device or format, or that end the process when they are misused."""


def functions() -> list[tuple[str, Callable[..., Any]]]:
    named = ((resolve_name(function) or "_", function) for function in get_testing_overrides())
    public = {name: f for name, f in named if not name.startswith("_") and not any(part in name for part in SKIPPED)}
    return sorted(public.items())


def modules() -> list[type[nn.Module]]:
    found = {cls for cls in vars(nn).values() if isinstance(cls, type) and issubclass(cls, nn.Module)}
    return sorted(found - {nn.Module, nn.DataParallel, nn.Container}, key=lambda cls: cls.__name__)


class Net(nn.Module):
    """A function of a map, or of what is behind one."""

    def __init__(self, function: Callable[..., Any], arguments: list[Any], *, is_behind: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.register_buffer("weight", torch.rand(4, 4, 3, 3))
        self.register_buffer("order", torch.tensor([1, 0]))
        self.function, self.arguments, self.is_behind = function, arguments, is_behind

    def forward(self, x: Tensor) -> Any:
        y = self.second(torch.relu(self.first(x)))
        if self.is_behind:
            y = y.mean((2, 3))
        z = y * 2
        tensors = {"z": z, "weight": self.weight, "index": self.order, "pair": (y, z), "mask": y > 0}
        given = [tensors[item] if isinstance(item, str) and item in tensors else item for item in self.arguments]
        return self.function(y, *given), y.sum()


def drawn(parameters: list[inspect.Parameter], draw: random.Random, tensors: tuple[str, ...] = TENSORS) -> list[Any]:
    """Positional arguments for the parameters, with tensors by name; optional ones are left out at some point."""
    found: list[Any] = []
    for parameter in parameters:
        is_optional = parameter.default is not parameter.empty
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            break
        if is_optional and draw.random() < 0.6:
            break
        found.append(draw.choice(CONSTANTS.get(parameter.name, (*OTHERS, *tensors, *tensors))))
    return found


def outcome(call: Callable[[], Any], seed: int) -> Any:
    """What a call returns, or the error it raises."""
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever torch refuses
        return error
    finally:
        torch.set_default_dtype(default)
        torch.set_grad_enabled(True)


def tensors_of(result: Any) -> list[Any]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, tuple | list) and not isinstance(result, torch.Size):
        return [tensor for item in result for tensor in tensors_of(item)]
    return [result] if isinstance(result, int | float | str) else []


def are_alike(one: Any, other: Any) -> bool:
    """Whether two results are equal but for rounding."""
    if not isinstance(one, Tensor) or one.is_meta or one.layout is not torch.strided:
        return type(one) is type(other)
    return one.shape == other.shape and torch.allclose(
        one.detach().to(torch.complex128), other.detach().to(torch.complex128), rtol=1e-6, atol=1e-9, equal_nan=True
    )


def check(net: nn.Module) -> None:
    """Compare the streamed net with the plain net."""
    net.double()  # remainders of small numbers, among others, make much of rounding
    x = torch.rand(SIZE, dtype=torch.float64)
    expected, again = (outcome(lambda: net(x.clone()), seed) for seed in (0, 1))
    try:
        actual = outcome(lambda: streamplan.compile(net, SIZE, 6)(x.clone()), 0)
    finally:
        torch.set_grad_enabled(True)
    if isinstance(actual, StreamPlanError):
        assert actual.what
        assert actual.do
        return
    if isinstance(expected, Exception):
        assert isinstance(actual, type(expected)), f"plain: {expected!r}, streamed: {actual!r}"
        return
    assert not isinstance(actual, Exception), repr(actual)
    results, repeated, found = map(tensors_of, (expected, again, actual))
    assert len(results) == len(found)
    for one, other, new in zip(results, repeated, found, strict=True):
        if isinstance(one, Tensor):
            assert (new.dtype, new.shape, new.requires_grad) == (one.dtype, one.shape, one.requires_grad)
        if are_alike(one, other):  # not random
            assert are_alike(one, new)


def check_function(name: str, function: Callable[..., Any], seed: int) -> None:
    draw = random.Random(f"{name} {seed}")
    parameters = list(inspect.signature(get_testing_overrides()[function]).parameters.values())[1:]
    torch.manual_seed(seed)
    check(Net(function, drawn(parameters, draw), is_behind=draw.random() < 0.5))


def check_module(cls: type[nn.Module], seed: int) -> None:
    draw = random.Random(f"{cls.__name__} {seed}")
    parameters = list(inspect.signature(cls).parameters.values())
    torch.manual_seed(seed)
    made = outcome(lambda: cls(*drawn(parameters, draw, ())), seed)
    if isinstance(made, Exception):
        return
    takes = list(inspect.signature(made.forward).parameters.values())[1:]
    net = Net(nn.Identity(), drawn(takes, draw), is_behind=draw.random() < 0.3)
    net.function = made
    check(net)


FUNCTIONS, MODULES = functions(), modules()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "function"), FUNCTIONS[::19], ids=[name for name, _ in FUNCTIONS[::19]])
def test_some_functions(name: str, function: Callable[..., Any]) -> None:
    check_function(name, function, 0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("cls", MODULES[::6], ids=lambda cls: cls.__name__)
def test_some_modules(cls: type[nn.Module]) -> None:
    check_module(cls, 0)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("name", "function"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_every_function(name: str, function: Callable[..., Any], seed: int) -> None:
    check_function(name, function, seed)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
def test_every_module(cls: type[nn.Module], seed: int) -> None:
    check_module(cls, seed)
