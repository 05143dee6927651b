"""Single operations as recipe nodes: `Conv`, `MaxPool`, `AvgPool`, `Norm`, `Act`, `Dropout`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from tests.strategies import op_modules
from tests.strategies.axis import Window, window_extent
from tests.strategies.recipe import Node, Signal

Axes = tuple[int, ...]
"""One number per spatial axis."""

Spelling = Literal["module", "function"]


def _windows(kernel: Axes, stride: Axes, padding: Axes, dilation: Axes) -> list[Window]:
    return [Window(*axis) for axis in zip(kernel, stride, padding, dilation, strict=True)]


def _extents(signal: Signal, windows: list[Window], ceil_mode: bool = False) -> tuple[int, ...]:
    return tuple(window_extent(n, window, ceil_mode) for n, window in zip(signal.extents, windows, strict=True))


@dataclass(frozen=True, repr=False)
class Conv(Node):
    """Convolution."""

    channels: int
    """Output channels."""
    kernel: Axes
    stride: Axes
    padding: Axes | Literal["same"]
    dilation: Axes
    groups: int = 1
    bias: bool = True
    spelling: Spelling = "module"

    def after(self, signal: Signal) -> Signal:
        if self.padding == "same":
            return Signal(self.channels, signal.extents)
        return Signal(self.channels, _extents(signal, self._windows(self.padding)))

    def _windows(self, padding: Axes) -> list[Window]:
        return _windows(self.kernel, self.stride, padding, self.dilation)

    def module(self, signal: Signal) -> nn.Module:
        kinds = op_modules.CONVS if self.spelling == "module" else op_modules.FUNCTIONAL_CONVS
        kind: Any = kinds[signal.ndim - 1]
        module: nn.Module = kind(
            signal.channels,
            self.channels,
            self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias,
        )
        return module

    @property
    def is_fresh(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class MaxPool(Node):
    """Max pool."""

    kernel: Axes
    stride: Axes
    padding: Axes
    ceil_mode: bool = False
    spelling: Spelling = "module"

    def after(self, signal: Signal) -> Signal:
        windows = _windows(self.kernel, self.stride, self.padding, (1,) * signal.ndim)
        return Signal(signal.channels, _extents(signal, windows, self.ceil_mode))

    def module(self, signal: Signal) -> nn.Module:
        options = {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}
        if self.spelling == "function":
            function = op_modules.MAX_POOL_FUNCTIONS[signal.ndim - 1]
            return op_modules.Called(function, kernel_size=self.kernel, **options)
        kind: Any = op_modules.MAX_POOLS[signal.ndim - 1]
        module: nn.Module = kind(self.kernel, **options)
        return module

    @property
    def is_fresh(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class AvgPool(Node):
    """Average pool."""

    kernel: Axes
    stride: Axes
    padding: Axes
    ceil_mode: bool = False
    count_include_pad: bool = True
    spelling: Spelling = "module"

    def after(self, signal: Signal) -> Signal:
        windows = _windows(self.kernel, self.stride, self.padding, (1,) * signal.ndim)
        return Signal(signal.channels, _extents(signal, windows, self.ceil_mode))

    def module(self, signal: Signal) -> nn.Module:
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "ceil_mode": self.ceil_mode}
        options["count_include_pad"] = self.count_include_pad
        if self.spelling == "function":
            function = op_modules.AVG_POOL_FUNCTIONS[signal.ndim - 1]
            return op_modules.Called(function, kernel_size=self.kernel, **options)
        kind: Any = op_modules.AVG_POOLS[signal.ndim - 1]
        module: nn.Module = kind(self.kernel, **options)
        return module

    @property
    def is_fresh(self) -> bool:
        return True


@dataclass(frozen=True, repr=False)
class Norm(Node):
    """BatchNorm, whose running statistics are drawn with the weights."""

    affine: bool = True
    spelling: Spelling = "module"

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        if self.spelling == "function":
            return op_modules.FunctionalNorm(signal.ndim, signal.channels, self.affine)
        kind: Any = op_modules.NORMS[signal.ndim - 1]
        module: nn.Module = kind(signal.channels, affine=self.affine)
        return module

    @property
    def is_fresh(self) -> bool:
        return True


_ACTS: dict[str, dict[str, Any]] = {
    "sigmoid": {"module": nn.Sigmoid, "function": torch.sigmoid, "method": "sigmoid"},
    "elu": {"module": nn.ELU, "function": F.elu},
    "hardswish": {"module": nn.Hardswish, "function": F.hardswish},
    "leaky_relu": {"module": partial(nn.LeakyReLU, 0.1), "function": F.leaky_relu},
    "prelu": {"module": nn.PReLU},
    "relu": {"module": nn.ReLU, "function": F.relu, "torch": torch.relu, "method": "relu"},
    "relu_": {"module": partial(nn.ReLU, inplace=True), "function": F.relu_, "method": "relu_"},
    "silu": {"module": nn.SiLU, "function": F.silu},
    "tanh": {"module": nn.Tanh, "function": torch.tanh, "method": "tanh"},
}

ACTS: dict[str, tuple[str, ...]] = {kind: tuple(spellings) for kind, spellings in _ACTS.items()}
"""Kinds of activations and how each can be spelled; "relu_" works in place."""


@dataclass(frozen=True, repr=False)
class Act(Node):
    """Activation; see `ACTS`."""

    kind: str
    spelling: str = "module"

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        if self.kind == "prelu":
            return nn.PReLU(signal.channels)
        spelled = _ACTS[self.kind][self.spelling]
        if self.spelling == "module":
            module: nn.Module = spelled()
            return module
        return op_modules.Method(spelled) if self.spelling == "method" else op_modules.Called(spelled)


@dataclass(frozen=True, repr=False)
class Dropout(Node):
    """Dropout, which returns its input itself in eval mode."""

    p: float = 0.5

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return nn.Dropout(self.p)
