"""Window arithmetic along one axis: how many outputs, and which windows lead from one extent to another.

Written from torch's documentation and independent of the package's own geometry, so that a mistake in either shows.

    k=3 s=2 p=1 d=1 on 8 samples: outputs start at -1, 1, 3, 5; (8 + 2 - 3) // 2 + 1 = 4

All lists go from simple to odd windows, because hypothesis shrinks towards the front.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple

KERNELS = (1, 2, 3, 4, 5)
STRIDES = (1, 2, 3)


class Window(NamedTuple):
    """Geometry of an operation along one axis."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def span(self) -> int:
        """Distance from the first tap to one past the last."""
        return self.dilation * (self.kernel - 1) + 1


def window_extent(extent: int, window: Window, ceil_mode: bool = False) -> int:
    """Number of outputs of a convolution or pool; less than 1 if the window does not fit."""
    room = extent + 2 * window.padding - window.span
    if room < 0:
        return 0
    if not ceil_mode:
        return room // window.stride + 1
    outputs = -(-room // window.stride) + 1
    last_start = (outputs - 1) * window.stride - window.padding
    return outputs - 1 if last_start >= extent else outputs  # no window starts in the padding after the input


def transposed_extent(extent: int, window: Window, output_padding: int) -> int:
    """Number of outputs of a transposed convolution."""
    return (extent - 1) * window.stride - 2 * window.padding + window.span + output_padding


def is_whole_ratio(extents: Iterable[int], targets: Iterable[int]) -> bool:
    """Whether each extent is a multiple of the other.

    Torch's nearest resize of maps with one or three axes computes positions in another precision backward than forward:
    from 30 to 58, two samples of the gradient land beside the sample that was read. Whole ratios are safe.
    """
    return all(max(n, m) % min(n, m) == 0 for n, m in zip(extents, targets, strict=True))


def conv_windows(
    extent: int,
    *,
    strides: Iterable[int] = STRIDES,
    dilations: Iterable[int] = (1,),
    target: int | None = None,
    most: int | None = None,
) -> list[Window]:
    """All windows of a convolution with padding below the kernel size that fit `extent`.

    Args:
        extent: Input extent.
        strides: Allowed strides.
        dilations: Allowed dilations.
        target: If given, the output extent.
        most: If given, the largest output extent.
    """
    windows = [
        Window(kernel, stride, padding, dilation)
        for stride, dilation, kernel in product(strides, dilations, KERNELS)
        for padding in range(kernel)
        if kernel > 1 or dilation == 1
    ]
    return [w for w in windows if _is_wanted(window_extent(extent, w), target, most)]


def pool_windows(
    extent: int,
    *,
    ceil_mode: bool,
    strides: Iterable[int] = STRIDES,
    target: int | None = None,
    most: int | None = None,
) -> list[Window]:
    """All windows of a pool, padded by at most half the kernel size: none of them misses the input."""
    windows = [
        Window(kernel, stride, padding)
        for stride, kernel in product(strides, KERNELS[1:] + KERNELS[:1])
        for padding in range(kernel // 2 + 1)
    ]
    return [w for w in windows if _is_wanted(window_extent(extent, w, ceil_mode), target, most)]


def transposed_windows(extent: int, target: int, strides: Iterable[int] = STRIDES) -> list[tuple[Window, int]]:
    """Windows and output paddings of a transposed convolution from `extent` to `target`."""
    candidates = [
        (Window(kernel, stride, padding, dilation), output_padding)
        for stride, dilation, kernel in product(strides, (1, 2), KERNELS)
        for padding in range(kernel)
        for output_padding in range(max(stride, dilation))
        if kernel > 1 or dilation == 1
    ]
    return [c for c in candidates if transposed_extent(extent, *c) == target]


def _is_wanted(extent: int, target: int | None, most: int | None) -> bool:
    return extent >= 1 and (target is None or extent == target) and (most is None or extent <= most)
