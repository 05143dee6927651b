"""What happens at borders: `Pad`, `PaddedMaxPool` (padded with -inf) and `Slice`, with what draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies import op_modules
from tests.strategies.draws import LARGEST, Extents
from tests.strategies.ops import Spelling
from tests.strategies.recipe import Node, Signal

Pairs = tuple[tuple[int, int], ...]
"""Samples before and after each spatial axis."""

PadMode = Literal["constant", "reflect", "replicate", "circular"]

_PAD_MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "constant": (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}


def flat_amounts(pairs: Pairs) -> tuple[int, ...]:
    """Amounts as torch wants them: the last axis first."""
    return tuple(amount for pair in reversed(pairs) for amount in pair)


@dataclass(frozen=True, repr=False)
class Pad(Node):
    """Padding by a constant (negative amounts crop) or by the map's own samples."""

    amounts: Pairs
    mode: PadMode = "constant"
    value: float | None = None
    """The constant; None for torch's default."""
    channels: tuple[int, int] = (0, 0)
    """Constant channels before and after."""
    spelling: Spelling = "function"

    def after(self, signal: Signal) -> Signal:
        extents = tuple(n + sum(pair) for n, pair in zip(signal.extents, self.amounts, strict=True))
        return Signal(signal.channels + sum(self.channels), extents)

    def module(self, signal: Signal) -> nn.Module:
        flat = flat_amounts(self.amounts)
        if self.spelling == "module":
            kind: Any = _PAD_MODULES[self.mode][signal.ndim - 1]
            module: nn.Module = kind(flat, self.value or 0.0) if self.mode == "constant" else kind(flat)
            return module
        if self.channels != (0, 0):
            flat += self.channels
        if self.mode == "constant" and self.value is None:
            return op_modules.Called(F.pad, pad=flat)
        return op_modules.Called(F.pad, pad=flat, mode=self.mode, value=self.value)


def draw_pad(draw: DrawFn, signal: Signal) -> Pad:
    """Draws a padding of any mode; a constant one may crop, but leaves at least one sample of each axis."""
    modes: list[PadMode] = ["constant", "reflect", "replicate", "circular"]
    mode = draw(st.sampled_from(modes))
    spelling = draw(st.sampled_from(("function", "module")))
    pairs = []
    for n in signal.extents:
        most = {"constant": 4, "replicate": 4, "reflect": min(4, n - 1), "circular": min(4, n)}[mode]
        most = max(0, min(most, (LARGEST[signal.ndim] - n) // 2))
        least = -min(3, (n - 1) // 2) if mode == "constant" else 0
        pairs.append((draw(st.integers(least, most)), draw(st.integers(least, most))))
    if mode != "constant":
        return Pad(tuple(pairs), mode, spelling=spelling)
    value = draw(st.sampled_from((None, 0.0, 0.75, -1.5)))
    channels = (0, 0)
    if spelling == "function" and draw(st.integers(0, 3)) == 3:
        channels = (draw(st.integers(0, 1)), draw(st.integers(0, 1)))
    return Pad(tuple(pairs), mode, value, channels, spelling)


@dataclass(frozen=True, repr=False)
class PaddedMaxPool(Node):
    """`F.pad` with -inf and a max pool without padding of its own, as nets ported from TensorFlow do."""

    kernel: Extents
    stride: Extents
    amounts: Pairs
    """Below the kernel size: no window misses the input."""

    def after(self, signal: Signal) -> Signal:
        axes = zip(signal.extents, self.amounts, self.kernel, self.stride, strict=True)
        return Signal(signal.channels, tuple((n + sum(pair) - k) // s + 1 for n, pair, k, s in axes))

    def module(self, signal: Signal) -> nn.Module:
        pad = op_modules.Called(F.pad, pad=flat_amounts(self.amounts), value=-math.inf)
        kind: Any = op_modules.MAX_POOLS[signal.ndim - 1]
        return nn.Sequential(pad, kind(self.kernel, self.stride))

    @property
    def is_fresh(self) -> bool:
        return True


def draw_padded_max_pool(draw: DrawFn, signal: Signal) -> PaddedMaxPool:
    """Draws a pool of stride 1 to 3."""
    kernel, stride, pairs = [], [], []
    for n in signal.extents:
        k = draw(st.integers(1, min(n, 4)))
        kernel.append(k)
        stride.append(draw(st.integers(1, min(3, max(1, n // 3)))))
        most = min(k - 1, (LARGEST[signal.ndim] - n) // 2)
        pairs.append((draw(st.integers(0, max(0, most))), draw(st.integers(0, max(0, most)))))
    return PaddedMaxPool(tuple(kernel), tuple(stride), tuple(pairs))


@dataclass(frozen=True, repr=False)
class Slice(Node):
    """Basic indexing of the spatial axes."""

    starts: Extents
    stops: Extents
    steps: Extents
    spelling: Literal["plain", "ellipsis", "negative", "narrow"] = "plain"
    """"negative" counts stops from the end; "narrow" has no steps."""

    def after(self, signal: Signal) -> Signal:
        spans = zip(self.starts, self.stops, self.steps, strict=True)
        return Signal(signal.channels, tuple(len(range(start, stop, step)) for start, stop, step in spans))

    def module(self, signal: Signal) -> nn.Module:
        return _SliceModule(self, signal)


class _SliceModule(nn.Module):
    def __init__(self, recipe: Slice, signal: Signal) -> None:
        super().__init__()
        self.spans = tuple(zip(recipe.starts, recipe.stops, recipe.steps, strict=True))
        stops = recipe.stops
        if recipe.spelling == "negative":
            stops = tuple(stop - n if stop < n else None for stop, n in zip(stops, signal.extents, strict=True))
        axes = tuple(slice(*axis) for axis in zip(recipe.starts, stops, recipe.steps, strict=True))
        self.index = (..., *axes) if recipe.spelling == "ellipsis" else (slice(None), slice(None), *axes)
        self.narrows = recipe.spelling == "narrow"

    def forward(self, x: Tensor) -> Tensor:
        if not self.narrows:
            return x[self.index]
        for axis, (start, stop, _) in enumerate(self.spans):
            x = x.narrow(2 + axis, start, stop - start)
        return x


def draw_slice(draw: DrawFn, signal: Signal) -> Slice:
    """Draws a slice that keeps at least the middle half of each axis, before its step."""
    spelling = draw(st.sampled_from(("plain", "ellipsis", "negative", "narrow")))
    starts = tuple(draw(st.integers(0, n // 4)) for n in signal.extents)
    stops = tuple(draw(st.integers(n - n // 4, n)) for n in signal.extents)
    most = 1 if spelling == "narrow" else 3
    steps = tuple(draw(st.integers(1, max(1, min(most, n // 4)))) for n in signal.extents)
    return Slice(starts, stops, steps, spelling)
