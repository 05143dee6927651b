"""Crops and borders of regions, and how operations that pad by themselves save both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streamplan.geometry import AffineWindow, AxisMap, AxisRead, Interval


@dataclass(frozen=True, slots=True)
class NativeFit:
    """How an operation that pads by itself, alike on both sides, runs along one axis.

    Samples behind the last whole window do no harm: the number of windows is rounded down.

        k3 s2 p1 at the left end of the map:  (p 0 1)(1 2 3) 4      reads [0, 4); 4 may stay, and so may a p after it
    """

    stop: int
    """End of the samples handed over; they begin where the call begins to read."""
    padding: int
    """What the operation adds on both sides."""

    @classmethod
    def find(cls, axis_map: AxisMap, read: AxisRead, available: int, size: int) -> NativeFit:
        """The cheapest way that gives `size` windows: without a crop, with a crop, padded before."""
        assert isinstance(axis_map, AffineWindow)
        span, stride, reach = read.span, axis_map.num, axis_map.last - axis_map.first + 1
        if read.after <= read.before:
            for stop in (available, span.stop):
                count = (stop - span.start + 2 * read.before - reach) // stride + 1
                if count == size:
                    return cls(stop, read.before)
        return cls(span.stop, 0)


class _Crop(torch.autograd.Function):
    """Part of a map along several axes; its gradient has the memory order of the tiles."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dims: tuple[int, ...], spans: Sequence[Interval], memory_format: torch.memory_format
    ) -> Tensor:
        ctx.dims, ctx.spans, ctx.shape, ctx.memory_format = dims, spans, x.shape, memory_format
        return narrowed(x, dims, spans)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        whole = torch.empty(
            ctx.shape, dtype=gradient.dtype, device=gradient.device, memory_format=ctx.memory_format
        ).zero_()
        narrowed(whole, ctx.dims, ctx.spans).copy_(gradient)
        return whole, None, None, None


def crop(x: Tensor, dims: tuple[int, ...], spans: Sequence[Interval], memory_format: torch.memory_format) -> Tensor:
    """A view of part of a tensor whose gradient has a memory order of its own; it must not be written over."""
    cropped: Tensor = _Crop.apply(x, dims, spans, memory_format)  # type: ignore[no-untyped-call]
    return cropped


def narrowed(x: Tensor, dims: tuple[int, ...], spans: Sequence[Interval]) -> Tensor:
    """A view of part of a tensor."""
    for dim, span in zip(dims, spans, strict=True):
        x = narrow(x, dim, span)
    return x


def pad_constant(x: Tensor, border: list[tuple[int, int]], fill: float) -> Tensor:
    """Pad with a constant; also where `x` has no sample on an axis, which torch's own operations refuse."""
    if all(pair == (0, 0) for pair in border):
        return x
    value: float = fill
    if fill == float("-inf") and not x.dtype.is_floating_point:
        value = torch.iinfo(x.dtype).min
    flat = [amount for pair in reversed(border) for amount in pair]
    return F.pad(x, flat, value=value)


def narrow(x: Tensor, dim: int, span: Interval) -> Tensor:
    """A view of part of one dimension; the tensor itself where that is all of it."""
    return x if span.start == 0 and span.stop == x.shape[dim] else x.narrow(dim, span.start, span.size)
