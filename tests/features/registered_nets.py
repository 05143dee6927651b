"""Layers and functions of a user, local but unknown to streamplan, and nets of them; at module level for pickling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sliding(x: Tensor, size: tuple[int, ...], stride: int) -> Tensor:
    """Windows of the axes behind the channels, each axis of windows at the end."""
    for axis, extent in enumerate(size):
        x = x.unfold(2 + axis, extent, stride)
    return x


def weighted(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Depthwise convolution without padding, out of views; `weight` is (channels, *size)."""
    axes = weight.dim() - 1
    spatial, inner = "yzv"[:axes], "ijk"[:axes]
    out = torch.einsum(f"bc{spatial}{inner},c{inner}->bc{spatial}", sliding(x, tuple(weight.shape[1:]), stride), weight)
    return out if bias is None else out + bias.view(-1, *(1,) * axes)


class Depthwise(nn.Module):
    """A learned filter per channel, with a border of its own."""

    def __init__(self, channels: int, size: tuple[int, ...], stride: int, padding: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, *size))
        self.bias = nn.Parameter(torch.randn(channels)) if bias else None
        self.size = size
        self.stride = stride
        self.padding = padding
        self.border = 0.25

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (self.padding,) * (2 * len(self.size)), value=self.border)
        return weighted(x, self.weight, self.bias, self.stride)


class Mixed(nn.Module):
    """Mixes the channels of each position, then scales by a buffer and by another map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, channels)
        self.register_buffer("scale", torch.linspace(0.5, 2.0, channels))
        self.powers = [1, 2]

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return mixed(x, gate, self.inner.weight, self.inner.bias, self.scale, self.powers)


def mixed(x: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, powers: Any) -> Tensor:
    y = torch.einsum("oc,bc...->bo...", weight, x) + bias.view(-1, *(1,) * (x.dim() - 2))
    y = y * scale.view(-1, *(1,) * (x.dim() - 2))
    return sum(y**power for power in powers) * torch.tanh(gate)


def swish(x: Tensor, beta: Tensor, offset: float = 0.0) -> Tensor:
    """Unknown because of `special.xlogy`."""
    return torch.special.xlogy(x * x + 1, torch.sigmoid(beta * x) + 1) + offset


def correlation(a: Tensor, b: Tensor, radius: int) -> Tensor:
    """Sum of products over a window, positions whose window lies inside alone."""
    size = 2 * radius + 1
    return torch.einsum("bcyxij,bcyxij->bcyx", sliding(a, (size, size), 1), sliding(b, (size, size), 1))


class Sine(torch.autograd.Function):
    """`a * sin(x)` with a backward of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor) -> Tensor:
        ctx.save_for_backward(x, a)
        return a * torch.sin(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, a = ctx.saved_tensors
        return gradient * a * torch.cos(x), (gradient * torch.sin(x)).sum()


def apply_sine(x: Tensor, a: Tensor) -> Tensor:
    return Sine.apply(x, a)


class OneDepthwise(nn.Module):
    def __init__(self, axes: int, size: tuple[int, ...], stride: int, padding: int, bias: bool = True) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d)[axes - 1]
        self.before = conv(2, 3, 3, padding=1)
        self.depthwise = Depthwise(3, size, stride, padding, bias)
        self.after = conv(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.relu(self.depthwise(self.before(x))))


class OneMixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.mixed = Mixed(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.mixed(y, gate=y.flip(1))


class Holder:
    """An object with the function as an attribute."""

    act = staticmethod(swish)


class Reaching(nn.Module):
    """Calls `swish` in the given way between two convolutions."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.before = nn.Conv2d(3, 4, 3, padding=1)
        self.beta = nn.Parameter(torch.tensor(1.25))
        self.after = nn.Conv2d(4, 2, 3, padding=1)
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.call(self.before(x), self.beta))


def closure_over(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, beta: function(x, beta=beta)


def with_free_variable() -> Callable[..., Tensor]:
    """A function of the same meaning as `swish` that reads variables of this call."""
    one, two = 1, torch.sigmoid

    def inner(x: Tensor, beta: Tensor) -> Tensor:
        return torch.special.xlogy(x * x + one, two(beta * x) + one)

    return inner


WAYS: dict[str, Callable[..., Tensor]] = {
    "global": lambda x, beta: swish(x, beta, 0.5),
    "object": lambda x, beta: Holder.act(x, beta=beta),
    "table": lambda x, beta: {"swish": swish}["swish"](beta=beta, x=x),
    "closure": closure_over(swish),
    "partial": partial(swish, offset=0.125),
    "itself": swish,
}
