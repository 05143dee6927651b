"""BatchNorm folded into the convolution before it: exact gradients of weight, bias, gamma and beta, frozen or not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan.errors import StaleStateError
from tests.nets.randomize import randomize_
from tests.runtime.comparison import assert_same_results, run

SIZE = (2, 4, 23, 17)


class Shared(nn.Module):
    """One convolution and one norm, each used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(torch.relu(self.norm(self.conv(x)))))


class SecondReader(nn.Module):
    """The convolution's output is read by the norm and by a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.relu(self.norm(y)) + y


class Both(nn.Module):
    """The convolution's output is returned too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, self.norm(y)


def pair(conv: nn.Module, affine: bool = True) -> nn.Module:
    return nn.Sequential(conv, nn.BatchNorm2d(4, affine=affine), nn.ReLU(), nn.Conv2d(4, 3, 3))


FOLDED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "bias": (lambda: pair(nn.Conv2d(4, 4, 3)), 1),
    "no bias": (lambda: pair(nn.Conv2d(4, 4, 3, stride=2, bias=False)), 1),
    "not affine": (lambda: pair(nn.Conv2d(4, 4, 3), affine=False), 1),
    "not affine, no bias": (lambda: pair(nn.Conv2d(4, 4, 3, bias=False), affine=False), 1),
    "depthwise": (lambda: pair(nn.Conv2d(4, 4, 3, groups=4, padding=1)), 1),
    "grouped": (lambda: pair(nn.Conv2d(4, 4, 3, groups=2, padding=2, dilation=2)), 1),
    "transposed": (lambda: pair(nn.ConvTranspose2d(4, 4, 3, stride=2, output_padding=1)), 1),
    "transposed, grouped": (lambda: pair(nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2, bias=False)), 1),
    "shared": (Shared, 2),
    "second reader": (SecondReader, 0),
    "both returned": (Both, 0),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), 0),
}
"""Net, and the number of folded pairs."""


def built(name: str) -> nn.Module:
    return randomize_(FOLDED[name][0]().double().eval(), seed=4)


def image() -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("halo", ["recompute", "reuse"])
@pytest.mark.parametrize("name", FOLDED)
def test_gradients_are_exact(name: str, halo: str) -> None:
    model = built(name)
    streamed = streamplan.compile(model, SIZE, 11, halo=halo)
    assert streamed._plan.num_tiles > 1
    assert streamed.source.count('    yield "') == 2 * FOLDED[name][1]
    assert streamed.source.count("batch_norm") == (0 if FOLDED[name][1] else 1)
    assert_same_results(run(streamed, model, [image()]), run(model, model, [image()]), 1e-12, name)


@pytest.mark.parametrize("frozen", list(itertools.product([False, True], repeat=4)))
def test_frozen_subsets(frozen: tuple[bool, ...]) -> None:
    model = built("bias")
    tensors = (model[0].weight, model[0].bias, model[1].weight, model[1].bias)
    for tensor, is_frozen in zip(tensors, frozen, strict=True):
        tensor.requires_grad_(not is_frozen)
    streamed = streamplan.compile(model, SIZE, 11)
    assert_same_results(run(streamed, model, [image()]), run(model, model, [image()]), 1e-12, f"{frozen}")
    streamed(image()).sum().backward()
    assert tuple(tensor.grad is None for tensor in tensors) == frozen


def test_a_gamma_of_zero() -> None:
    model = built("bias")
    with torch.no_grad():
        model[1].weight[:2] = 0.0
    streamed = streamplan.compile(model, SIZE, 11)
    assert_same_results(run(streamed, model, [image()]), run(model, model, [image()]), 1e-12, "gamma 0")


@pytest.mark.parametrize("path", ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"])
def test_a_folded_tensor_changed_before_the_backward_pass_is_noticed(path: str) -> None:
    model = built("bias")
    loss = streamplan.compile(model, SIZE, 11)(image()).square().sum()
    tensor = {**dict(model.named_parameters()), **dict(model.named_buffers())}[path]
    with torch.no_grad():
        tensor.mul_(1.5)
    with pytest.raises(StaleStateError):
        loss.backward()


def test_statistics_changed_after_compile_are_used() -> None:
    model = built("bias")
    streamed = streamplan.compile(model, SIZE, 11)
    model[1].running_mean.add_(0.7)
    model[1].running_var.mul_(2.0)
    assert_same_results(run(streamed, model, [image()]), run(model, model, [image()]), 1e-12, "new statistics")


def test_narrow_weights_are_not_folded() -> None:
    """Rounding a scaled bfloat16 weight would add an error that the plain net, whose norm runs in float32, has not."""
    streamed = streamplan.compile(built("bias").bfloat16(), SIZE, 11)
    assert "batch_norm" in streamed.source
