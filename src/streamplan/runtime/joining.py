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
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from streamplan.geometry import Interval

Box = tuple[Interval, ...]
"""Positions along every image axis."""
Index = tuple[slice, ...]
"""A box, for indexing a tensor."""


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


@dataclass(frozen=True)
class Layout:
    """Where everything lies in the joined block."""

    axes: tuple[AxisJoin, ...]
    memory_format: torch.memory_format
    rank: int
    """Dimensions of the tensors."""

    @cached_property
    def is_trivial(self) -> bool:
        """Whether nothing was received and nothing is handed on."""
        return all(axis.num_received == 0 and axis.handed.is_empty for axis in self.axes)

    @cached_property
    def pieces(self) -> tuple[Index, ...]:
        """The new block, and what was received along the axes along which something was."""
        return tuple(self.index(box) for box in self._pieces)

    @cached_property
    def handed(self) -> tuple[Index | None, ...]:
        """What is handed on, by axis."""
        return tuple(None if box is None else self.index(box) for box in self._handed)

    @cached_property
    def arriving(self) -> tuple[tuple[tuple[int, Index, Index], ...], ...]:
        """For each of the pieces, what it shares with things handed on: axis, index there, index in the piece."""
        return tuple(
            tuple(
                (axis, self.index(_from_start_of(other, common)), self.index(_from_start_of(box, common)))
                for axis, other in enumerate(self._handed)
                if other is not None and (common := _intersection(box, other)) is not None
            )
            for box in self._pieces
        )

    def shape_of(self, x: Tensor) -> list[int]:
        """The joined block's shape."""
        shape = list(x.shape)
        for axis in self.axes:
            shape[axis.dim] = axis.size
        return shape

    def shape_of_piece(self, number: int, x: Tensor) -> list[int]:
        """A piece's shape; of `x`, a part of the joined block, the other dimensions are taken."""
        shape = list(x.shape)
        for axis, span in zip(self.axes, self._pieces[number], strict=True):
            shape[axis.dim] = span.size
        return shape

    def index(self, box: Box) -> Index:
        """A box as an index."""
        index = [slice(None)] * self.rank
        for axis, span in zip(self.axes, box, strict=True):
            index[axis.dim] = slice(span.start, span.stop)
        return tuple(index)

    @cached_property
    def _pieces(self) -> tuple[Box, ...]:
        received = (self._across(i, Interval(0, axis.num_received)) for i, axis in enumerate(self.axes))
        return self._new, *(box for box in received if box is not None)

    @cached_property
    def _handed(self) -> tuple[Box | None, ...]:
        return tuple(self._across(i, axis.handed) for i, axis in enumerate(self.axes))

    @cached_property
    def _new(self) -> Box:
        return tuple(Interval(axis.num_received, axis.size) for axis in self.axes)

    def _across(self, position: int, span: Interval) -> Box | None:
        if span.is_empty:
            return None
        outer = (Interval(0, axis.size) for axis in self.axes[:position])
        return (*outer, span, *self._new[position + 1 :])


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layout: Layout, x: Tensor, *received: Tensor) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.layout = layout
        joined = torch.empty(layout.shape_of(x), dtype=x.dtype, device=x.device, memory_format=layout.memory_format)
        for index, piece in zip(layout.pieces, (x, *received), strict=True):
            joined[index].copy_(piece)
        handed = (
            None if index is None else joined[index].clone(memory_format=layout.memory_format)
            for index in layout.handed
        )
        return joined, *handed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        return None, *(_gathered(layout, number, *gradients) for number in range(len(layout.pieces)))


def _gathered(layout: Layout, number: int, whole: Tensor | None, *of_handed: Tensor | None) -> Tensor | None:
    """The gradient of a piece of the joined block, as a tensor of its own; None if nothing arrives there."""
    found = None if whole is None else whole[layout.pieces[number]].clone(memory_format=layout.memory_format)
    for axis, there, here in layout.arriving[number]:
        gradient = of_handed[axis]
        if gradient is None:
            continue
        if found is None:
            shape = layout.shape_of_piece(number, gradient)
            found = torch.empty(
                shape, dtype=gradient.dtype, device=gradient.device, memory_format=layout.memory_format
            ).zero_()
        found[here].add_(gradient[there])
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
