"""Count forms: operations that count how many of the samples they read are there, along one axis.

Given 1 for the samples at hand and 0 for the others, (batch, 1, positions) in float64, a rule's `count_axis` returns
for each output position how many of the samples it reads are at hand. All taps are 1, and a dilated kernel is filled,
since a region that holds the outer taps holds what lies between them:

    k=3 s=2 p=1 on 6 samples:   at hand  0 1 1 1 0 0   counts  1 3 1
                                all      1 1 1 1 1 1           2 3 3

They are torch's own operations, so what they say of a border, an overhang or an odd size is what torch does. An output
is computable where the two counts agree; see `streamplan.analysis.probe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def filled(kernel: int, dilation: int) -> int:
    """Taps of a dilated kernel with its gaps filled.

    >>> filled(3, 2)
    5
    """
    return dilation * (kernel - 1) + 1


def count_conv(x: Tensor, *, taps: int, stride: int, padding: int | str = 0) -> Tensor:
    """A convolution with ones; the cases are the rows of one map, which takes less time than a batch."""
    rows = x.transpose(0, 1)[None]
    if padding == "same" and taps % 2 == 0:  # torch would warn that it makes a copy with one sample more at the end
        rows, padding = F.pad(rows, (0, 1)), taps // 2 - 1
    around = padding if isinstance(padding, str) else (0, padding)
    return F.conv2d(rows, _ones(1, taps), None, (1, stride), around)[0].transpose(0, 1)


def count_transposed(x: Tensor, *, taps: int, stride: int) -> Tensor:
    """A transposed convolution with ones, nothing cut off."""
    return F.conv_transpose2d(x.transpose(0, 1)[None], _ones(1, taps), None, (1, stride))[0].transpose(0, 1)


def _ones(*kernel: int) -> Tensor:
    return torch.ones(1, 1, *kernel, dtype=torch.float64)


def count_pool(x: Tensor, *, kernel: int, stride: int, padding: int, ceil_mode: bool) -> Tensor:
    """Sums over the windows of a pooling; only its 2-D form takes a divisor."""
    sums = F.avg_pool2d(x[..., None], (kernel, 1), (stride, 1), (padding, 0), ceil_mode, True, divisor_override=1)
    return sums.squeeze(-1)


def count_nearest(x: Tensor, num_axes: int, dtype: torch.dtype, options: dict[str, Any]) -> Tensor:
    """Look up what a nearest resize of maps of this rank and dtype reads; their kernels round differently.

    The positions go through torch's own operation as bits, one per channel, which every dtype holds exactly.
    """
    count = x.shape[-1]
    places = torch.arange(max(count.bit_length(), 4))[:, None]
    bits = torch.arange(count) >> places & 1
    maps = bits.to(dtype).reshape(1, len(places), count, *(1,) * (num_axes - 1))
    looked_up = F.interpolate(maps, **options).reshape(len(places), -1).long()
    return x.index_select(-1, (looked_up << places).sum(0))


def count_linear(x: Tensor, options: dict[str, Any]) -> Tensor:
    """Count the two samples around each position of a linear resize, whatever their weights.

    Torch reads both even where one has weight 0. A ramp, resized, tells the positions.
    """
    last = x.shape[-1] - 1
    ramp = torch.arange(last + 1, dtype=torch.float64)
    lower = (F.interpolate(ramp[None, None], **options)[0, 0] + _ROUNDING).floor().long().clamp(0, last)
    return x.index_select(-1, lower) + x.index_select(-1, (lower + 1).clamp(max=last))


def count_window(x: Tensor, sizes: Sequence[int], border: float | str, num_outputs: int) -> Tensor:
    """Count what sliding windows read, of which only the result's size tells how much border stands after the axis.

    Args:
        x: Samples at hand.
        sizes: Kernel, stride, padding before, dilation.
        border: A number, or the `mode` of `F.pad`.
        num_outputs: Positions of the result.
    """
    kernel, stride, before, dilation = sizes
    taps, extent = filled(kernel, dilation), x.shape[-1]
    amounts = (before, (num_outputs - 1) * stride + taps - before - extent)
    if not isinstance(border, str):
        return count_conv(F.pad(x, amounts), taps=taps, stride=stride)
    after = max(amounts[1], 0)
    padded = F.pad(x, (before, after), mode=border)[..., : before + extent + amounts[1]]
    counts = count_conv(padded, taps=taps, stride=stride)
    if border != "circular":
        return counts
    # A window that wraps around reads both ends of the axis, so it needs a region that holds all of it.
    is_border = F.pad(torch.zeros(1, 1, extent, dtype=x.dtype), (before, after), value=1.0)[..., : padded.shape[-1]]
    num_border = count_conv(is_border, taps=taps, stride=stride)
    return torch.where((num_border > 0) & (num_border < taps), x.sum(-1, keepdim=True), counts)


_ROUNDING = 1e-7
"""Far above the rounding of a position, far below the least distance of two positions that differ."""
