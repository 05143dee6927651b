"""Joining a new block with what was received, against `torch.cat` along one axis after the other."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from streamplan.geometry import Interval
from streamplan.runtime.joining import AxisJoin, Layout, join

SIZES = ((3, 7), (2, 6), (4, 5))
"""Received and new samples, by axis."""


def joined_by_cat(layout: Layout, x: Tensor, received: list[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    waiting, handed = list(received), []
    for axis in layout.axes:
        if axis.num_received:
            x = torch.cat([waiting.pop(0), x], axis.dim)
        handed.append(None if axis.handed.is_empty else x.narrow(axis.dim, axis.handed.start, axis.handed.size))
    return x, handed


def gradients(results: list[Tensor | None], leaves: list[Tensor], with_joined: bool) -> list[Tensor | None]:
    present = [x for x in results[1:] if x is not None] + ([results[0]] if with_joined else [])  # type: ignore[list-item]
    loss = sum((x.square() * torch.linspace(1, 2, x.numel()).view(x.shape)).sum() for x in present)
    return list(torch.autograd.grad(loss, leaves, allow_unused=True))  # type: ignore[arg-type]


def layouts(num_axes: int) -> list[Layout]:
    spans = (Interval(0, 0), Interval(1, 5), Interval(4, 7))
    found = []
    for has_received, handed in itertools.product(
        itertools.product((False, True), repeat=num_axes), itertools.product(spans, repeat=num_axes)
    ):
        axes = tuple(
            AxisJoin(2 + i, SIZES[i][0] if has_received[i] else 0, SIZES[i][1], handed[i]) for i in range(num_axes)
        )
        if all(axis.handed.stop <= axis.size for axis in axes):
            found.append(Layout(axes, torch.contiguous_format, 2 + num_axes))
    return found


@pytest.mark.parametrize("with_joined", [True, False])
@pytest.mark.parametrize("num_axes", [1, 2, 3])
def test_like_concatenation(num_axes: int, with_joined: bool) -> None:
    for layout in layouts(num_axes):
        if not with_joined and all(box is None for box in layout.handed):
            continue
        x = torch.randn(2, 3, *(new for _, new in SIZES[:num_axes]), requires_grad=True)
        received = []
        for i, axis in enumerate(layout.axes):
            if axis.num_received:
                extents = [a.size if k < i else a.num_new for k, a in enumerate(layout.axes)]
                extents[i] = axis.num_received
                received.append(torch.randn(2, 3, *extents, requires_grad=True))
        joined, handed = join(layout, x, received)
        joined_expected, handed_expected = joined_by_cat(layout, x, received)
        found, expected = [joined, *handed], [joined_expected, *handed_expected]
        leaves = [x, *received]
        for a, b in zip(found, expected, strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                assert torch.equal(a, b)
        for a, b in zip(gradients(found, leaves, with_joined), gradients(expected, leaves, with_joined), strict=True):
            if a is None:  # nothing of it is handed on
                assert b is None or not b.any()
            else:
                torch.testing.assert_close(a, b)


def test_the_gradient_of_what_was_received_is_a_tensor_of_its_own() -> None:
    received, new = (torch.randn(1, 2, rows, 5, requires_grad=True) for rows in (2, 30))
    axes = (AxisJoin(2, 2, 30, Interval(0, 0)), AxisJoin(3, 0, 5, Interval(0, 0)))
    layout = Layout(axes, torch.contiguous_format, 4)
    joined, handed = join(layout, new, [received])
    assert list(handed) == [None, None]
    joined.square().sum().backward()
    assert received.grad is not None
    assert received.grad.untyped_storage().nbytes() == received.numel() * received.element_size()
