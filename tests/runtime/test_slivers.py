"""Narrow tiles under bfloat16 on the CPU, where oneDNN's kernels for AMX are wrong.

On a processor without AMX torch is right by itself, and only the tests of how slivers are computed can fail.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import streamplan
from streamplan.runtime.slivers import exact_slivers
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.rounding import assert_rounds_as_finely, error_ratios
from tests.runtime.comparison import run

CPU = torch.device("cpu")


def narrowing() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())


def volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 8, 3, 2, 1), nn.ReLU())


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(4, 8, 1), nn.ReLU(), nn.Conv3d(8, 8, (5, 2, 2), padding=(3, 0, 1), groups=8), nn.ReLU()
    )


def signal() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv1d(16, 16, 5, 3, 2), nn.ReLU())


def widening() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 16, 3, 3), nn.Conv2d(16, 4, 3))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "columns": (narrowing, (1, 3, 48, 32), (16, 2)),
    "rows": (narrowing, (1, 3, 32, 48), (2, 16)),
    "a last column": (narrowing, (1, 3, 32, 34), (16, 32)),
    "volume": (volume, (1, 3, 12, 12, 12), (4, 4, 2)),
    "slices of a volume": (volume, (1, 3, 12, 12, 12), (2, 6, 6)),
    "signal": (signal, (1, 3, 60), (3,)),
    "fewer slices than the kernel": (depthwise, (2, 4, 2, 8, 9), (2, 4, 9)),
    "transposed": (widening, (1, 3, 24, 20), (24, 6)),
    "resnet18": (lambda: resnet18(width=8, num_classes=5), (1, 3, 128, 160), (64, 128)),
}


class Narrow(nn.Module):
    """A net under autocast, with a float32 result."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x).float()


@pytest.mark.parametrize("name", CASES)
def test_streamed_nets(name: str) -> None:
    """Errors are about those of the plain net under autocast, whose maps are wide."""
    build, size, tile = CASES[name]
    model = build().eval()
    streamed = streamplan.compile(model, size, tile)

    def draw(seed: int) -> dict[str, float]:
        randomize_(model, seed)
        image = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        exact_model = copy.deepcopy(model).double()
        exact = run(exact_model, exact_model, [image.double()])
        plain, found = run(Narrow(model), model, [image]), run(Narrow(streamed), model, [image])
        return error_ratios(found, plain, exact, ["output 0"])

    assert_rounds_as_finely(draw)


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "conv1d": (F.conv1d, (1, 8, 1), (8, 8, 3)),
    "conv2d that makes a column": (F.conv2d, (1, 8, 6, 2), (8, 8, 3, 3)),
    "conv2d of fewer rows than its kernel": (F.conv2d, (1, 8, 4, 9), (8, 8, 5, 3)),
    "conv3d": (F.conv3d, (1, 8, 1, 5, 5), (8, 8, 3, 3, 3)),
    "conv_transpose2d": (F.conv_transpose2d, (1, 8, 6, 1), (8, 8, 3, 3)),
}


@pytest.mark.parametrize("is_autocast", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_slivers_are_computed_in_float32(name: str, is_autocast: bool) -> None:
    function, size, kernel = FUNCTIONS[name]
    x, weight, bias = torch.randn(size).bfloat16(), torch.randn(kernel).bfloat16(), torch.randn(8).bfloat16()
    given = (x.float(), weight) if is_autocast else (x, weight)
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast), exact_slivers(CPU, {"weight": weight}):
        found = function(*given, bias=bias, stride=2, padding=1)
    expected = function(x.float(), weight.float(), bias.float(), stride=2, padding=1)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, expected.bfloat16())


def test_other_maps_are_left_to_torch() -> None:
    weight = torch.randn(4, 4, 3, 3)
    wide, narrow = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 1)
    seen: list[torch.dtype] = []

    class Watching(TorchFunctionMode):
        """Sees what comes of the calls in a tile."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if func is F.conv2d and not out.is_meta:
                seen.append(out.dtype)
            return out

    for x, dtype in ((wide, torch.bfloat16), (narrow, torch.float32), (narrow, torch.bfloat16)):
        with Watching(), exact_slivers(CPU, {"bfloat16": weight.bfloat16()}):
            F.conv2d(x.to(dtype), weight.to(dtype), None, 1, 1)
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


def test_a_transposed_convolution_that_makes_less_than_its_kernel() -> None:
    x, weight = torch.randn(1, 8, 2, 4).bfloat16(), torch.randn(8, 4, 5, 3).bfloat16()
    expected = F.conv_transpose2d(x.float(), weight.float(), padding=(2, 0)).bfloat16()
    assert expected.shape[2] == 2
    with exact_slivers(CPU, {"weight": weight}):
        assert torch.equal(F.conv_transpose2d(x, weight, None, 1, (2, 0), 0, 1, 1), expected)


def test_activation_statistics() -> None:
    model = randomize_(narrowing().eval(), seed=0)
    image = torch.randn(1, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    streamed = streamplan.compile(model, image.shape, (16, 2))
    exact = streamplan.activation_statistics(streamed, [image])
    with torch.autocast("cpu", torch.bfloat16):
        found = streamplan.activation_statistics(streamed, [image])
    for name, expected in exact.items():
        torch.testing.assert_close(found[name].std.float(), expected.std.float(), rtol=0.05, atol=0.01, msg=name)


def test_spellings_of_a_call() -> None:
    x, weight = torch.randn(8, 6, 1).bfloat16(), torch.randn(4, 8, 3, 3).bfloat16()
    expected = F.conv2d(x.float(), weight.float(), None, 1, 1, 1, 1).bfloat16()
    with exact_slivers(CPU, {"weight": weight}):
        assert torch.equal(F.conv2d(x, weight, None, 1, 1, 1, 1), expected)  # without a batch
        assert torch.equal(F.conv2d(input=x, weight=weight, padding="same"), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_autocast_decides_the_dtype(dtype: torch.dtype) -> None:
    """It leaves float64 alone, and its own dtype counts for the others."""
    x, weight = torch.randn(1, 8, 6, 1, dtype=dtype), torch.randn(4, 8, 3, 3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16), exact_slivers(CPU, {"weight": weight}):
        assert F.conv2d(x, weight, padding=1).dtype is (dtype if dtype is torch.float64 else torch.bfloat16)
    narrow = weight.bfloat16()
    with torch.autocast("cpu", torch.float16), exact_slivers(CPU, {"weight": narrow}):
        assert F.conv2d(x.bfloat16(), narrow, padding=1).dtype is torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_other_dtypes_run_as_they_are(dtype: torch.dtype) -> None:
    assert not isinstance(exact_slivers(CPU, {"weight": torch.ones(1, dtype=dtype)}), TorchFunctionMode)
