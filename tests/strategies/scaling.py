"""What changes extents by a factor: `Interpolated`, `Upconv`, `SpaceToDepth`, `DepthToSpace`, and what draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies import op_modules
from tests.strategies.axis import KERNELS, Window, is_whole_ratio, transposed_extent
from tests.strategies.draws import LARGEST, Extents
from tests.strategies.ops import Spelling
from tests.strategies.recipe import Node, Signal

ResizeMode = Literal["nearest", "nearest-exact", "linear"]

_LINEAR = ("linear", "bilinear", "trilinear")


@dataclass(frozen=True, repr=False)
class Interpolated(Node):
    """`F.interpolate` or `nn.Upsample`, to a size or by factors."""

    mode: ResizeMode
    size: Extents | None = None
    factors: tuple[float, ...] | None = None
    align_corners: bool | None = None
    recompute: bool | None = None
    """`recompute_scale_factor`."""
    spelling: Spelling = "function"

    def after(self, signal: Signal) -> Signal:
        if self.size is not None:
            return Signal(signal.channels, self.size)
        assert self.factors is not None
        return Signal(signal.channels, tuple(map(scaled_extent, signal.extents, self.factors)))

    def module(self, signal: Signal) -> nn.Module:
        options: dict[str, Any] = {
            "size": self.size,
            "scale_factor": self.factors,
            "mode": _LINEAR[signal.ndim - 1] if self.mode == "linear" else self.mode,
            "align_corners": self.align_corners,
            "recompute_scale_factor": self.recompute,
        }
        return nn.Upsample(**options) if self.spelling == "module" else op_modules.Called(F.interpolate, **options)


def scaled_extent(extent: int, factor: float) -> int:
    return math.floor(extent * factor)


_FACTORS = (1.0, 2.0, 1.5, 0.5, 0.75, 1.3, 2.6, 0.4, 1 / 3)


def draw_interpolated(draw: DrawFn, signal: Signal, target: Extents | None = None) -> Interpolated:
    """Draws a resize of any mode and ratio; to `target`, if given."""
    most = LARGEST[signal.ndim]
    factors: tuple[float, ...] | None = None
    if target is None and draw(st.booleans()):
        options = [[f for f in _FACTORS if 1 <= scaled_extent(n, f) <= max(n, most)] for n in signal.extents]
        factors = tuple(draw(st.sampled_from(allowed)) for allowed in options)
        is_nearest_safe = signal.ndim == 2 or all(factor in (1.0, 2.0) for factor in factors)
    else:
        if target is None:
            target = tuple(draw(st.integers(max(1, n // 2), max(n, min(2 * n + 1, most)))) for n in signal.extents)
        is_nearest_safe = signal.ndim == 2 or is_whole_ratio(signal.extents, target)
    mode = draw(st.sampled_from(("nearest", "linear", "nearest-exact") if is_nearest_safe else ("linear",)))
    align_corners = draw(st.sampled_from((None, False, True))) if mode == "linear" else None
    recompute = draw(st.sampled_from((None, False, True))) if factors else None
    return Interpolated(mode, target, factors, align_corners, recompute, draw(st.sampled_from(("function", "module"))))


@dataclass(frozen=True, repr=False)
class Upconv(Node):
    """Transposed convolution of any geometry, gaps between windows included."""

    channels: int
    kernel: Extents
    stride: Extents
    padding: Extents
    dilation: Extents
    output_padding: Extents
    groups: int = 1
    bias: bool = True

    def after(self, signal: Signal) -> Signal:
        axes = zip(self.kernel, self.stride, self.padding, self.dilation, strict=True)
        windows = [Window(*axis) for axis in axes]
        return Signal(self.channels, tuple(map(transposed_extent, signal.extents, windows, self.output_padding)))

    def module(self, signal: Signal) -> nn.Module:
        kind: Any = op_modules.TRANSPOSED[signal.ndim - 1]
        module: nn.Module = kind(
            signal.channels,
            self.channels,
            self.kernel,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
            bias=self.bias,
            dilation=self.dilation,
        )
        return module

    @property
    def is_fresh(self) -> bool:
        return True


def draw_upconv(draw: DrawFn, signal: Signal) -> Upconv:
    """Draws a transposed convolution with strides up to 4, half of them larger than the kernel."""
    most = LARGEST[signal.ndim]
    axes = []
    for n in signal.extents:
        strides = [s for s in (2, 1, 3, 4) if (n - 1) * s < most] or [1]
        stride = draw(st.sampled_from(strides))
        dilation = draw(st.sampled_from((1, 1, 2)))
        options = [
            (Window(kernel, stride, padding, dilation), extra)
            for kernel, padding, extra in product(KERNELS, range(3), range(max(stride, dilation)))
            if padding < kernel
            and 1 <= transposed_extent(n, Window(kernel, stride, padding, dilation), extra) <= max(n, most)
        ]
        axes.append(draw(st.sampled_from(options)))
    kernel, stride, padding, dilation = zip(*[window for window, _ in axes], strict=True)
    channels = draw(st.integers(1, 4))
    groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if signal.channels % g == channels % g == 0]))
    extras = tuple(extra for _, extra in axes)
    return Upconv(channels, kernel, stride, padding, dilation, extras, groups, draw(st.booleans()))


@dataclass(frozen=True, repr=False)
class SpaceToDepth(Node):
    """Blocks of samples become channels."""

    factors: Extents
    """Divisors of the extents."""
    spelling: Literal["view", "slices", "pixel"] = "view"
    """"pixel" is for two equal factors."""

    def after(self, signal: Signal) -> Signal:
        extents = tuple(n // factor for n, factor in zip(signal.extents, self.factors, strict=True))
        return Signal(signal.channels * math.prod(self.factors), extents)

    def module(self, signal: Signal) -> nn.Module:
        if self.spelling == "pixel":
            return nn.PixelUnshuffle(self.factors[0])
        return _StridedSlices(self.factors) if self.spelling == "slices" else _BlocksToChannels(self.factors)


class _BlocksToChannels(nn.Module):
    def __init__(self, factors: Extents) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *extents = x.shape
        coarse = [n // factor for n, factor in zip(extents, self.factors, strict=True)]
        pairs = [size for pair in zip(coarse, self.factors, strict=True) for size in pair]
        within, across = range(3, 3 + 2 * len(coarse), 2), range(2, 2 + 2 * len(coarse), 2)
        blocks = x.reshape(batch, channels, *pairs).permute(0, *within, 1, *across)
        return blocks.reshape(batch, channels * math.prod(self.factors), *coarse)


class _StridedSlices(nn.Module):
    def __init__(self, factors: Extents) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        offsets = product(*map(range, self.factors))
        steps = [tuple(slice(i, None, f) for i, f in zip(o, self.factors, strict=True)) for o in offsets]
        return torch.cat([x[(..., *step)] for step in steps], dim=1)


def draw_space_to_depth(draw: DrawFn, signal: Signal) -> SpaceToDepth:
    """Draws factors that divide the extents; 1 where none does."""
    factors = tuple(draw(st.sampled_from([f for f in (2, 3, 1) if n % f == 0])) for n in signal.extents)
    spellings = ["view", "slices"]
    if signal.ndim == 2 and factors[0] == factors[1]:
        spellings += ["pixel", "pixel"]
    return SpaceToDepth(factors, draw(st.sampled_from(spellings)))


@dataclass(frozen=True, repr=False)
class DepthToSpace(Node):
    """Channels become blocks of samples."""

    factors: Extents
    """Their product divides the channels."""
    spelling: Literal["view", "pixel"] = "view"
    """"pixel" is for two equal factors."""

    def after(self, signal: Signal) -> Signal:
        extents = tuple(n * factor for n, factor in zip(signal.extents, self.factors, strict=True))
        return Signal(signal.channels // math.prod(self.factors), extents)

    def module(self, signal: Signal) -> nn.Module:
        return nn.PixelShuffle(self.factors[0]) if self.spelling == "pixel" else _ChannelsToBlocks(self.factors)


class _ChannelsToBlocks(nn.Module):
    def __init__(self, factors: Extents) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *extents = x.shape
        axes, left = len(extents), channels // math.prod(self.factors)
        blocks = x.view(batch, left, *self.factors, *extents)
        order = [dim for axis in range(axes) for dim in (2 + axes + axis, 2 + axis)]
        fine = [n * factor for n, factor in zip(extents, self.factors, strict=True)]
        return blocks.permute(0, 1, *order).reshape(batch, left, *fine)


def draw_depth_to_space(draw: DrawFn, signal: Signal) -> DepthToSpace:
    """Draws factors for which the channels suffice and which keep extents below the largest."""
    left, factors = signal.channels, []
    for n in signal.extents:
        options = [f for f in (2, 3, 1) if left % f == 0 and n * f <= max(n, LARGEST[signal.ndim])]
        factors.append(draw(st.sampled_from(options)))
        left //= factors[-1]
    is_square = signal.ndim == 2 and factors[0] == factors[1]
    return DepthToSpace(tuple(factors), draw(st.sampled_from(["view", "pixel"] if is_square else ["view"])))
