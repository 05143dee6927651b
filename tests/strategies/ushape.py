"""Family "ushape": encoder-decoders with skips, downwards by any strided window, upwards by three kinds of operation.

x -> encode ---------------- skip ----------------- join -> decode ->
       down -> (next level, or bottom) -> up -> reduce /
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies import op_modules
from tests.strategies.axis import Window, is_whole_ratio, transposed_extent, transposed_windows
from tests.strategies.draws import Extents, draw_conv, draw_input, draw_path, draw_recipe, draw_windowed, per_axis
from tests.strategies.ops import AvgPool, Conv, MaxPool
from tests.strategies.recipe import Node, Printed, Recipe, Signal
from tests.strategies.sequence import Chain

Mode = Literal["nearest", "linear"]

_TORCH_MODES = {"nearest": ("nearest",) * 3, "linear": ("linear", "bilinear", "trilinear")}


def _interpolation(mode: Mode, align_corners: bool, ndim: int) -> dict[str, Any]:
    return {
        "mode": _TORCH_MODES[mode][ndim - 1],
        "align_corners": None if mode == "nearest" else align_corners,
    }


@dataclass(frozen=True, repr=False)
class Transposed(Printed):
    """Transposed convolution whose geometry meets the skip's extents."""

    channels: int
    kernel: Extents
    stride: Extents
    padding: Extents
    dilation: Extents
    output_padding: Extents
    groups: int = 1
    bias: bool = True

    def after(self, signal: Signal, skip: Signal) -> Signal:
        axes = zip(self.kernel, self.stride, self.padding, self.dilation, strict=True)
        extents = tuple(
            transposed_extent(n, Window(*axis), extra)
            for n, axis, extra in zip(signal.extents, axes, self.output_padding, strict=True)
        )
        assert extents == skip.extents
        return Signal(self.channels, extents)

    def module(self, signal: Signal) -> nn.Module:
        return _TransposedModule(self, signal)


class _TransposedModule(nn.Module):
    def __init__(self, recipe: Transposed, signal: Signal) -> None:
        super().__init__()
        kind: Any = op_modules.TRANSPOSED[signal.ndim - 1]
        self.up = kind(
            signal.channels,
            recipe.channels,
            recipe.kernel,
            stride=recipe.stride,
            padding=recipe.padding,
            output_padding=recipe.output_padding,
            groups=recipe.groups,
            bias=recipe.bias,
            dilation=recipe.dilation,
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.up(x)


@dataclass(frozen=True, repr=False)
class Resize(Printed):
    """`F.interpolate` to the skip's extents, whatever the ratio."""

    mode: Mode
    align_corners: bool = False

    def after(self, signal: Signal, skip: Signal) -> Signal:
        return Signal(signal.channels, skip.extents)

    def module(self, signal: Signal) -> nn.Module:
        return _ResizeModule(_interpolation(self.mode, self.align_corners, signal.ndim))


class _ResizeModule(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return F.interpolate(x, size=skip.shape[2:], **self.options)


@dataclass(frozen=True, repr=False)
class Scale(Printed):
    """`nn.Upsample` by whole factors, then `F.pad` by the difference to the skip's extents, negative or not."""

    factors: Extents
    mode: Mode
    align_corners: bool = False

    def after(self, signal: Signal, skip: Signal) -> Signal:
        return Signal(signal.channels, skip.extents)

    def module(self, signal: Signal) -> nn.Module:
        return _ScaleModule(self.factors, _interpolation(self.mode, self.align_corners, signal.ndim))


class _ScaleModule(nn.Module):
    def __init__(self, factors: Extents, options: dict[str, Any]) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=tuple(float(f) for f in factors), **options)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        pads: list[int] = []
        for axis in range(x.dim() - 1, 1, -1):
            diff = skip.size(axis) - x.size(axis)
            pads += [diff // 2, diff - diff // 2]
        return F.pad(x, pads)


@dataclass(frozen=True, repr=False)
class Level(Printed):
    """One resolution of a U."""

    encode: Chain
    down: Conv | MaxPool | AvgPool
    up: Transposed | Resize | Scale
    reduce: Conv | None
    """Applied to the upsampled map before the join, where an addition needs the skip's channels."""
    join: Literal["cat", "add"]
    decode: Chain

    def skip(self, signal: Signal) -> Signal:
        return self.encode.after(signal)

    def below(self, signal: Signal) -> Signal:
        """Returns the size of what the next level gets."""
        return self.down.after(self.skip(signal))

    def joined(self, skip: Signal, risen: Signal) -> Signal:
        """Returns the size of the join of the skip and what came up from below."""
        risen = self.up.after(risen, skip)
        risen = risen if self.reduce is None else self.reduce.after(risen)
        assert risen.extents == skip.extents
        if self.join == "add":
            assert risen == skip
            return skip
        return Signal(skip.channels + risen.channels, skip.extents)


@dataclass(frozen=True, repr=False)
class UShape(Node):
    """Levels from fine to coarse, and what lies at the bottom."""

    levels: tuple[Level, ...]
    bottom: Chain

    def after(self, signal: Signal) -> Signal:
        if not self.levels:
            return self.bottom.after(signal)
        level = self.levels[0]
        risen = UShape(self.levels[1:], self.bottom).after(level.below(signal))
        return level.decode.after(level.joined(level.skip(signal), risen))

    def module(self, signal: Signal) -> nn.Module:
        return _UShapeModule(self, signal)


class _UShapeModule(nn.Module):
    def __init__(self, recipe: UShape, signal: Signal) -> None:
        super().__init__()
        self.joins = [level.join for level in recipe.levels]
        self.encoders = nn.ModuleList()
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        self.reduces = nn.ModuleList()
        self.decoders = nn.ModuleList()
        for i, level in enumerate(recipe.levels):
            skip = level.skip(signal)
            risen = UShape(recipe.levels[i + 1 :], recipe.bottom).after(level.below(signal))
            up = level.up.after(risen, skip)
            self.encoders.append(level.encode.module(signal))
            self.downs.append(level.down.module(skip))
            self.ups.append(level.up.module(risen))
            self.reduces.append(nn.Identity() if level.reduce is None else level.reduce.module(up))
            self.decoders.append(level.decode.module(level.joined(skip, risen)))
            signal = level.below(signal)
        self.bottom = recipe.bottom.module(signal)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encode, down in zip(self.encoders, self.downs, strict=True):
            x = encode(x)
            skips.append(x)
            x = down(x)
        x = self.bottom(x)
        for i in reversed(range(len(skips))):
            x = self.reduces[i](self.ups[i](x, skips[i]))
            x = torch.cat([skips[i], x], dim=1) if self.joins[i] == "cat" else skips[i] + x
            x = self.decoders[i](x)
        return x


def draw_up(draw: DrawFn, risen: Signal, skip: Signal, factors: Extents) -> Transposed | Resize | Scale:
    """Draws what brings `risen` to the extents of `skip`, `factors` being the strides on the way down."""
    options = [
        transposed_windows(n, target, strides=(s,))
        for n, target, s in zip(risen.extents, skip.extents, factors, strict=True)
    ]
    kinds = ["resize", "scale"]
    if all(options):
        kinds = ["transposed", "transposed", *kinds]
    kind = draw(st.sampled_from(kinds))
    if kind == "transposed":
        axes = per_axis(draw, risen, lambda a: options[a])
        kernel, stride, padding, dilation = zip(*[window for window, _ in axes], strict=True)
        output_padding = tuple(extra for _, extra in axes)
        channels = draw(st.integers(1, 4))
        groups = draw(st.sampled_from([g for g in (1, 2, 3, 4) if risen.channels % g == channels % g == 0]))
        bias = draw(st.booleans())
        return Transposed(channels, kernel, stride, padding, dilation, output_padding, groups, bias)
    modes: list[Mode] = ["nearest", "linear", "linear"]
    if kind == "resize" and risen.ndim != 2 and not is_whole_ratio(risen.extents, skip.extents):
        modes = ["linear"]
    mode = draw(st.sampled_from(modes))
    align_corners = mode == "linear" and draw(st.booleans())
    return Resize(mode, align_corners) if kind == "resize" else Scale(factors, mode, align_corners)


def draw_ushape(draw: DrawFn, signal: Signal, depth: int) -> UShape:
    """Draws a U of `depth` levels."""
    if depth == 0:
        return UShape((), draw_path(draw, signal, draw(st.integers(1, 2)), target=signal.extents))
    encode = draw_path(draw, signal, draw(st.integers(1, 2)), target=draw(st.sampled_from([signal.extents, None])))
    skip = encode.after(signal)
    strides = tuple(draw(st.sampled_from([s for s in (2, 3, 1) if s <= max(1, n // 2)])) for n in skip.extents)
    down = draw_windowed(draw, skip, strides=strides)
    inner = draw_ushape(draw, down.after(skip), depth - 1)
    risen = inner.after(down.after(skip))
    up = draw_up(draw, risen, skip, strides)
    risen = up.after(risen, skip)
    joins: list[Literal["cat", "add"]] = ["cat", "add"]
    join = draw(st.sampled_from(joins))
    reduce: Conv | None = None
    if join == "add" and risen.channels != skip.channels:
        reduce = draw_conv(draw, risen, strides=(1,) * signal.ndim, target=skip.extents, channels=skip.channels)
    joined = Signal(skip.channels + (risen.channels if join == "cat" else 0), skip.extents)
    decode_target = draw(st.sampled_from([joined.extents, joined.extents, None]))
    decode = draw_path(draw, joined, draw(st.integers(1, 2)), target=decode_target)
    return UShape((Level(encode, down, up, reduce, join, decode), *inner.levels), inner.bottom)


@st.composite
def ushape_nets(draw: DrawFn, ndims: Sequence[int] = (1, 2, 3)) -> Recipe:
    """A U of one to three levels."""
    signal = draw_input(draw, ndims)
    return draw_recipe(draw, "ushape", signal, draw_ushape(draw, signal, draw(st.integers(1, 3))))
