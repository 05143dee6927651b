"""The new block of a carried value, with the samples carried to it along every axis.

Along each axis what was received comes first, then what is new; axes are taken one after the other, outermost first,
so what is received along an outer axis is as wide as the new block, and along an inner axis as high as the joined one.
What is handed on along an axis is cut out in the same way.

        columns                0 . . . . . axis 0: received (0), new (n); along axis 1 joined with what was received (1)
                            1  0 0 0 0 0
                            1  n n n n n

Autograd would give the gradient of each thing handed on the size of the whole, padded with zeros, and add them up; and
that of what was received would be a view that keeps all of it alive until the tile that handed it on is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamplan.geometry import Interval

Box = tuple[Interval, ...]
"""Positions along every image axis."""
_ALL = slice(None)


@dataclass(frozen=True, slots=True)
class AxisJoin:
    """What happens along one axis."""

    dim: int
    """Tensor dimension of the axis."""
    num_received: int
    """Samples received."""
    num_new: int
    """Samples computed."""
    handed: Interval
    """Positions handed on, counted from the first one received."""

    @property
    def size(self) -> int:
        """Samples in all."""
        return self.num_received + self.num_new


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in the joined block."""

    axes: tuple[AxisJoin, ...]
    memory_format: torch.memory_format

    @property
    def new(self) -> Box:
        """The new block."""
        return tuple(Interval(axis.num_received, axis.size) for axis in self.axes)

    @property
    def received(self) -> list[Box | None]:
        """What was received, by axis."""
        return [self._across(i, Interval(0, axis.num_received)) for i, axis in enumerate(self.axes)]

    @property
    def handed(self) -> list[Box | None]:
        """What is handed on, by axis."""
        return [self._across(i, axis.handed) for i, axis in enumerate(self.axes)]

    def part(self, x: Tensor, box: Box) -> Tensor:
        """A view of a box of the joined block."""
        index = [_ALL] * x.dim()
        for axis, span in zip(self.axes, box, strict=True):
            index[axis.dim] = slice(span.start, span.stop)
        return x[tuple(index)]

    def _across(self, position: int, span: Interval) -> Box | None:
        if span.is_empty:
            return None
        outer = (Interval(0, axis.size) for axis in self.axes[:position])
        return (*outer, span, *self.new[position + 1 :])


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: Layout, x: Tensor, *received: Tensor) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.layout = layout
        shape = list(x.shape)
        for axis in layout.axes:
            shape[axis.dim] = axis.size
        joined = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout.memory_format)
        boxes = (layout.new, *(box for box in layout.received if box is not None))
        for box, piece in zip(boxes, (x, *received), strict=True):
            layout.part(joined, box).copy_(piece)
        handed = (
            None if box is None else layout.part(joined, box).clone(memory_format=layout.memory_format)
            for box in layout.handed
        )
        return joined, *handed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        whole, *of_handed = gradients
        sources = [
            (box, g) for box, g in zip(layout.handed, of_handed, strict=True) if box is not None and g is not None
        ]
        boxes = (layout.new, *(box for box in layout.received if box is not None))
        return None, *(_gathered(layout, box, whole, sources) for box in boxes)


def _gathered(layout: Layout, box: Box, whole: Tensor | None, sources: Sequence[tuple[Box, Tensor]]) -> Tensor | None:
    """The gradient of one box of the joined block, as a tensor of its own; None if nothing arrives there."""
    found = None if whole is None else layout.part(whole, box).clone(memory_format=layout.memory_format)
    for other, gradient in sources:
        if (common := _intersection(box, other)) is None:
            continue
        if found is None:
            shape = list(gradient.shape)
            for axis, span in zip(layout.axes, box, strict=True):
                shape[axis.dim] = span.size
            found = torch.empty(
                shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout.memory_format
            ).zero_()
        piece = layout.part(gradient, _from_start_of(other, common))
        layout.part(found, _from_start_of(box, common)).add_(piece)
    return found


def _intersection(box: Box, other: Box) -> Box | None:
    common = []
    for a, b in zip(box, other, strict=True):
        start, stop = max(a.start, b.start), min(a.stop, b.stop)
        if start >= stop:
            return None
        common.append(Interval(start, stop))
    return tuple(common)


def _from_start_of(box: Box, part: Box) -> Box:
    return tuple(span.relative_to(whole.start) for whole, span in zip(box, part, strict=True))


def join(layout: Layout, x: Tensor, received: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor | None]]:
    """The joined block, and copies of what is handed on, by axis.

    Args:
        layout: Where everything lies.
        x: The new block.
        received: What was received, for the axes along which something was.
    """
    joined, *handed = _Join.apply(layout, x, *received)  # type: ignore[no-untyped-call]
    return joined, handed
