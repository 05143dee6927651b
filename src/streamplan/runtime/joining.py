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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from streamplan.geometry import Interval
from streamplan.runtime.epilogue import rectified_gradient, rectify_into

Box = tuple[Interval, ...]
"""Positions along every image axis."""
Index = tuple[slice, ...]
"""A box, for indexing a tensor."""
Copy = Callable[[Tensor, torch.memory_format], Tensor]
"""Copies part of a tensor into memory of its own."""


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

    def new_block(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory for the joined block of a new block."""
        shape = list(x.shape)
        for axis in self.axes:
            shape[axis.dim] = axis.size
        return torch.empty(shape, dtype=dtype, device=x.device, memory_format=self.memory_format)

    def ordered(self, x: Tensor) -> Tensor:
        """A tensor in the memory order of the block."""
        return x.contiguous(memory_format=self.memory_format)

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
    def forward(ctx: Any, layout: Layout, copy: Copy, x: Tensor, *received: Tensor) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.layout = layout
        joined = layout.new_block(x, x.dtype)
        joined[layout.pieces[0]].copy_(x)
        return joined, *_placed(layout, joined, received, copy)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        whole, *of_handed = gradients
        return None, None, *(_gathered(layout, n, whole, of_handed) for n in range(len(layout.pieces)))


class _Rectified(torch.autograd.Function):
    """The backward pass needs the joined block alone, which its readers keep anyway.

    It is a node of its own, apart from the convolution, so that what arrives here is gone when the convolution's
    backward pass begins.
    """

    @staticmethod
    def forward(
        ctx: Any,
        layout: Layout,
        copy: Copy,
        x: Tensor,
        bias: Tensor | None,
        addend: Tensor | None,
        *received: Tensor,
    ) -> tuple[Tensor | None, ...]:
        ctx.set_materialize_grads(False)
        ctx.layout = layout
        ctx.dtypes = [None if operand is None else operand.dtype for operand in (x, bias, addend)]
        dtype = x.dtype if addend is None else torch.result_type(x, addend)
        joined = layout.new_block(x, dtype)
        rectify_into(joined[layout.pieces[0]], x, bias, addend)
        handed = _placed(layout, joined, received, copy)
        ctx.save_for_backward(joined)
        return joined, *handed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        whole, *of_handed = gradients
        (joined,) = ctx.saved_tensors
        of_received = (_gathered(layout, n, whole, of_handed) for n in range(1, len(layout.pieces)))
        needs_bias = ctx.needs_input_grad[3]
        of_sum, of_bias = _rectified_gradient(layout, whole, of_handed, joined, wants_sum=needs_bias)
        of_addend = of_sum if ctx.needs_input_grad[4] else None
        operands = zip((of_sum, of_bias, of_addend), ctx.dtypes, strict=True)
        return None, None, *(None if g is None else g.to(dtype) for g, dtype in operands), *of_received


def _rectified_gradient(
    layout: Layout, whole: Tensor | None, of_handed: Sequence[Tensor | None], joined: Tensor, *, wants_sum: bool
) -> tuple[Tensor | None, Tensor | None]:
    """What arrives before the ReLU of the new block, and its sum per channel if that is wanted."""
    new = joined[layout.pieces[0]]
    if whole is None:
        gathered = _gathered(layout, 0, None, of_handed)
        return (None, None) if gathered is None else rectified_gradient(gathered, new, wants_sum=wants_sum)
    found, total = rectified_gradient(whole[layout.pieces[0]], new, wants_sum=wants_sum)
    for axis, there, here in layout.arriving[0]:
        arriving = of_handed[axis]
        if arriving is not None:
            part, its_total = rectified_gradient(arriving[there], new[here], wants_sum=wants_sum)
            found[here].add_(part)
            total = None if total is None or its_total is None else total + its_total
    return layout.ordered(found), total


def _placed(layout: Layout, joined: Tensor, received: Sequence[Tensor], copy: Copy) -> tuple[Tensor | None, ...]:
    """Put what was received beside the new block; copies of what is handed on, by axis."""
    for index, piece in zip(layout.pieces[1:], received, strict=True):
        joined[index].copy_(piece)
    return tuple(None if index is None else copy(joined[index], layout.memory_format) for index in layout.handed)


def _gathered(layout: Layout, number: int, whole: Tensor | None, of_handed: Sequence[Tensor | None]) -> Tensor | None:
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


def cloned(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """A copy without gaps."""
    return x.detach().clone(memory_format=memory_format)


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


def join(
    layout: Layout, x: Tensor, received: Sequence[Tensor], copy: Copy = cloned
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """The joined block, and copies of what is handed on, by axis.

    Args:
        layout: Where everything lies.
        x: The new block.
        received: What was received, for the axes along which something was.
        copy: Makes the tensors that are handed on.
    """
    joined, *handed = _Join.apply(layout, copy, x, *received)  # type: ignore[no-untyped-call]
    return joined, handed


def join_rectified(
    layout: Layout,
    x: Tensor,
    bias: Tensor | None,
    addend: Tensor | None,
    received: Sequence[Tensor],
    copy: Copy = cloned,
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """`join` of `relu(x + bias + addend)`; what was received is rectified already.

    Args:
        layout: Where everything lies.
        x: The new block.
        bias: One number per channel, or None.
        addend: As large as `x`, or None.
        received: What was received, for the axes along which something was.
        copy: Makes the tensors that are handed on.
    """
    joined, *handed = _Rectified.apply(layout, copy, x, bias, addend, *received)  # type: ignore[no-untyped-call]
    return joined, handed
