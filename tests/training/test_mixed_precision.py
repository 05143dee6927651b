"""Autocast: as close to the exact step as the plain net under autocast, in the same dtypes, weights narrowed once."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import streamplan
from tests.nets.densenet import DenseNet
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet_bilinear
from tests.rounding import assert_rounds_as_finely, error_ratios

NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, int]]] = {
    "resnet18": (lambda: resnet18(width=4, num_classes=5), (1, 3, 96, 64), (32, 48)),
    "unet": (lambda: unet_bilinear(width=4, depth=2), (1, 3, 48, 56), (24, 32)),
    "densenet": (lambda: DenseNet((3, 3, 2, 2), width=4, num_classes=10), (1, 3, 96, 64), (40, 64)),
    "recomputed": (lambda: resnet18(width=4, num_classes=5), (1, 3, 96, 64), (64, 48)),
}


def step(net: nn.Module, x: Tensor, model: nn.Module, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Output and gradients; `dtype` is that of autocast, None runs without."""
    model.zero_grad()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        output = net(x)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output * weight).sum().backward()  # outside of autocast, as in every loop
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **gradients}


def pairs_of(model: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """Convolutions with a norm that reads what they return, by running the model once."""
    results: list[tuple[Tensor, str]] = []
    pairs = []

    def look(path: str, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            pairs.extend((other, path) for result, other in results if result is args[0])
        elif isinstance(module, nn.Conv2d):
            results.append((output, path))

    hooks = [module.register_forward_hook(partial(look, path)) for path, module in model.named_modules()]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return pairs


class FoldedByHand(nn.Module):
    """The net with each norm behind a convolution folded into it, whole maps, without streamplan."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model, self.body = model, copy.deepcopy(model)
        self.pairs = pairs_of(model, x)
        for conv_path, norm_path in self.pairs:
            self.body.set_submodule(norm_path, nn.Identity())
            conv = self.body.get_submodule(conv_path)
            conv.bias = nn.Parameter(torch.zeros(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        tensors = {name: p for name, p in self.model.named_parameters() if name in dict(self.body.named_parameters())}
        for conv_path, norm_path in self.pairs:
            conv, norm = self.model.get_submodule(conv_path), self.model.get_submodule(norm_path)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            bias = torch.zeros_like(scale) if conv.bias is None else conv.bias
            tensors[f"{conv_path}.weight"] = conv.weight * scale[:, None, None, None]
            tensors[f"{conv_path}.bias"] = norm.bias + (bias - norm.running_mean) * scale
        return torch.func.functional_call(self.body, tensors, x)


OPTIONS: list[dict[str, Any]] = [{}, {"passes": ()}, {"keep_tiles": 3}]
CASES = [
    *product(("resnet18", "unet", "densenet"), OPTIONS),
    ("recomputed", {"halo": "recompute", "cut": "layer1", "passes": ()}),
]


_FEWER = [("resnet18", {}), ("unet", {"keep_tiles": 3}), ("densenet", {"passes": ()}), CASES[-1]]
"""Cases of the default run."""


@pytest.mark.parametrize(
    ("name", "options"),
    [pytest.param(*case, marks=[] if case in _FEWER else pytest.mark.more) for case in CASES],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_as_exact_as_the_whole_net(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """Errors against the exact step, relative to those of the plain net under autocast.

    With folded norms the net to compare with has them folded too: it rounds a weight after it was multiplied by the
    norm's scale, the plain net before and once more behind it, so that either may come out better.
    """
    build, size, tile = NETS[name]
    model = build().eval()
    streamed = streamplan.compile(model, size, tile, **options)
    assert streamed.plan.num_tiles > 1

    def draw(seed: int) -> dict[str, float]:
        x = redrawn(model, size, seed)
        exact = exact_step(model, x)
        whole = step(model if options.get("passes") == () else FoldedByHand(model, x), x, model, dtype)
        found = step(streamed, x, model, dtype)
        assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in whole.items()}
        assert all(t.dtype == torch.float32 for n, t in found.items() if n != "output")
        return error_ratios(found, whole, exact)

    assert_rounds_as_finely(draw)


def redrawn(model: nn.Module, size: tuple[int, ...], seed: int) -> Tensor:
    """Draw the net's weights again, and an image."""
    randomize_(model, seed)
    dtype = next(model.parameters()).dtype
    return torch.randn(size, generator=torch.Generator().manual_seed(1 + seed)).to(dtype)


def exact_step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    exact_model = copy.deepcopy(model).double()
    return step(exact_model, x.double(), exact_model, None)


class Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts conversions of float32 tensors to bfloat16, by shape."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and (args[0].dtype, out.dtype) == (torch.float32, torch.bfloat16):
            self.counts[tuple(args[0].shape)] += 1
        return out


WEIGHT = (6, 5, 3, 3)


@pytest.mark.parametrize("norm", [False, True], ids=["", "folded"])
@pytest.mark.parametrize("is_trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("tile", [(48, 48), (8, 8)], ids=str)
def test_weights_are_narrowed_once_per_step(norm: bool, is_trained: bool, tile: tuple[int, int]) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.ReLU()
    ).eval()
    model[1:].requires_grad_(is_trained)
    streamed = streamplan.compile(model, (1, 3, 48, 48), tile, keep_tiles=0)
    with Casts() as forward, torch.autocast("cpu", torch.bfloat16):
        output = streamed(torch.randn(1, 3, 48, 48))
    with Casts() as backward:
        output.sum().backward()
    assert forward.counts[WEIGHT] == 1
    assert backward.counts[WEIGHT] == 0
    with Casts() as prediction, torch.autocast("cpu", torch.bfloat16):
        streamed.predict(torch.randn(1, 3, 48, 48))
    assert prediction.counts[WEIGHT] == 1


def test_gradients_add_up_in_float32() -> None:
    """1,024 tiles that contribute alike: in bfloat16 the sum would stop growing at 256 times the first."""
    model = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(model.weight)
    streamed = streamplan.compile(nn.Sequential(model, nn.ReLU()), (1, 1, 64, 64), 2, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        output = streamed(torch.ones(1, 1, 64, 64))
    output.float().sum().backward()
    assert model.weight.grad.dtype == torch.float32
    assert model.weight.grad.item() == 64 * 64


def scaled_steps(model: nn.Module, x: Tensor, exponent: int) -> list[tuple[float, Tensor]]:
    """Scale and change of the weights after a step of the plain net and of the streamed one, with a GradScaler."""
    before = copy.deepcopy(model.state_dict())
    steps = []
    for is_streamed in (False, True):
        model.load_state_dict(before)
        net = streamplan.compile(model, x.shape, (32, 96)) if is_streamed else model
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**exponent)
        with torch.autocast("cpu", torch.float16):
            output = net(x)
        loss = (output if output.dtype == torch.float64 else output.float()).square().mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        change = torch.cat([(value - before[name]).flatten() for name, value in model.named_parameters()])
        steps.append((scaler.get_scale(), change.detach().clone()))
    return steps


@pytest.mark.parametrize("is_overflowing", [False, True])
def test_grad_scaler(is_overflowing: bool) -> None:
    model = randomize_(resnet18(width=8, num_classes=5).eval(), seed=0)
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    (plain_scale, plain), (scale, found) = scaled_steps(model, x, 30 if is_overflowing else 4)
    assert scale == plain_scale == (2.0**29 if is_overflowing else 2.0**4)
    assert bool(found.any()) == bool(plain.any()) == (not is_overflowing)


def test_grad_scaler_in_float64() -> None:
    """Autocast leaves float64 alone, so that the step under it is exact and can be compared."""
    model = randomize_(resnet18(width=8, num_classes=5).double().eval(), seed=0)
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (plain_scale, plain), (scale, found) = scaled_steps(model, x, 4)
    assert scale == plain_scale == 2.0**4
    assert plain.any()
    assert (found - plain).norm() <= 1e-10 * plain.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_net_in_low_precision_throughout(dtype: torch.dtype) -> None:
    size = (1, 3, 96, 96)
    model = resnet18(width=8, num_classes=5).eval().to(dtype)
    streamed = streamplan.compile(model, size, (32, 96))

    def draw(seed: int) -> dict[str, float]:
        x = redrawn(model, size, seed)
        plain, found = step(model, x, model, None), step(streamed, x, model, None)
        assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in plain.items()}
        return error_ratios(found, plain, exact_step(model, x))

    assert_rounds_as_finely(draw)


def test_compiled_inside_and_called_outside_of_autocast() -> None:
    size = (1, 3, 64, 64)
    model = unet_bilinear(width=4, depth=2).eval().requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        streamed = streamplan.compile(model, size, 24)
        streamed(torch.zeros(size))

    def draw(seed: int) -> dict[str, float]:
        x = redrawn(model, size, seed)
        exact = {"inside": copy.deepcopy(model).double()(x.double()).detach()}
        exact["outside"] = exact["inside"]
        with torch.autocast("cpu", torch.bfloat16):
            found, expected = {"inside": streamed(x)}, {"inside": FoldedByHand(model, x)(x)}
        assert found["inside"].dtype == expected["inside"].dtype == torch.bfloat16
        found["outside"], expected["outside"] = streamed(x), FoldedByHand(model, x)(x)
        assert found["outside"].dtype == expected["outside"].dtype == torch.float32
        return error_ratios(found, expected, exact, ["inside"])

    assert_rounds_as_finely(draw)
