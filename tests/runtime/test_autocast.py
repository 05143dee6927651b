"""Autocast on the CPU: the recomputation runs in the forward's precision, wherever backward() is called."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

import streamplan
from tests.nets.randomize import randomize_
from tests.rounding import assert_rounds_as_finely, error_ratios
from tests.runtime.comparison import run

SIZE = (1, 3, 24, 20)


def autocast_net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3))
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).eval()


def built() -> nn.Sequential:
    net = autocast_net()
    net(torch.zeros(SIZE))
    return net


def image(seed: int = 3) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed))


class UnderAutocast(nn.Module):
    """Runs a net under autocast; backward comes after the context."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x)


def ratios_of_errors(model: nn.Module, streamed: nn.Module, seed: int) -> dict[str, float]:
    """Errors of the streamed net relative to the plain net's, both under autocast, with weights and image of a seed."""
    randomize_(model, seed)
    exact_model = copy.deepcopy(model).double()
    exact = run(exact_model, exact_model, [image(seed).double()])
    plain, found = (run(UnderAutocast(net), model, [image(seed)]) for net in (model, streamed))
    assert {name: x.dtype for name, x in found.items()} == {name: x.dtype for name, x in plain.items()}
    return error_ratios(found, plain, exact, ["output 0"])


def test_streamed_is_as_near_to_exact_as_plain_is() -> None:
    """Sums over tiles round at other places, but not more."""
    model = built()
    streamed = streamplan.compile(model, SIZE, 14)
    assert streamed._plan.num_tiles > 1
    assert_rounds_as_finely(partial(ratios_of_errors, model, streamed))


class Pooled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the dtypes of what is pooled."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.avg_pool2d.default and not isinstance(args[0], FakeTensor):
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_recomputation_enters_autocast_again() -> None:
    streamed = streamplan.compile(built(), SIZE, 14)
    with Pooled() as pooled:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = streamed(image())
        out.float().sum().backward()
    assert len(pooled.dtypes) == 2 * streamed._plan.num_tiles - 1  # the last tile is computed once
    assert len(set(pooled.dtypes)) == 1
    assert not torch.is_autocast_enabled("cpu")


def test_a_forward_without_autocast_stays_exact_when_backward_is_called_under_it() -> None:
    model = built().double()
    streamed = streamplan.compile(model, SIZE, 14)
    results = []
    for net in (model, streamed):
        model.zero_grad()
        out = net(image().double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out.sum().backward()
        results.append(model[0].weight.grad.clone())
    assert (results[0] - results[1]).abs().max() <= 1e-12 * results[0].abs().max()


def test_weights_cast_by_the_tiles_keep_their_gradient_in_the_head() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.conv(x - x.mean((2, 3), keepdim=True))

    torch.manual_seed(0)
    model = Shared()
    streamed = streamplan.compile(model, SIZE, 10)
    assert_rounds_as_finely(partial(ratios_of_errors, model, streamed))


class _Skip(torch.nn.Module):
    """A sum of a map that autocast narrows and one that it leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x) + x, x - self.conv(x)


def test_a_sum_in_place_keeps_the_wider_dtype() -> None:
    model, x = _Skip(), torch.randint(-3, 4, (1, 3, 24, 20)).float()
    for (
        parameter
    ) in model.parameters():  # sums of 27 products of 6 and one number more: exact in bfloat16, in any order
        parameter.data = torch.randint(-2, 3, parameter.shape).float()
    streamed = streamplan.compile(model, (1, 3, 24, 20), (12, 20))  # no tile is so narrow that it runs in float32
    assert "t.add_(" in streamed.source
    assert streamed.plan.num_tiles > 1
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        for found, expected in zip(streamed(x), model(x), strict=True):
            assert found.dtype == expected.dtype == torch.float32
            assert torch.equal(found, expected)
