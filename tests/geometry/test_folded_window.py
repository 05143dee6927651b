"""A window over a continued border, against torch's own padding of a row of numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from streamplan.geometry import AffineWindow, FoldedPadding, FoldedWindow, Interval


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 1, 1), (4, 1, 3, 1), (2, 3, 2, 2), (5, 1, 2, 1)]
)
def test_reads_what_the_padded_row_holds(mode: str, kernel: int, stride: int, padding: int, dilation: int) -> None:
    extent = 7
    row = torch.arange(extent, dtype=torch.float64).view(1, 1, -1)
    padded = F.pad(row, (padding, padding), mode=mode).view(-1)
    reach = dilation * (kernel - 1) + 1
    positions = (len(padded) - reach) // stride + 1
    window = AffineWindow.sliding(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    folded = FoldedWindow(window, FoldedPadding(0, extent, mode))
    for start in range(positions):
        for stop in range(start + 1, positions + 1):
            expected = padded[start * stride : (stop - 1) * stride + reach].long().tolist()
            assert list(folded.indices(Interval(start, stop))) == expected
            assert folded.pull(Interval(start, stop)) == Interval(min(expected), max(expected) + 1)
