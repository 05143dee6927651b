"""Axis maps in closed form, against what torch's own operations read: the support of a float64 gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from streamplan.geometry import AffineWindow, AveragingWindow, AxisMap, Interval, ScatterWindow, read_axis
from tests.geometry.support import assert_reads_support, reads_of


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Extent, kernel, stride, padding and dilation of a window that fits."""
    kernel, stride, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, 6))
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    return draw(st.integers(least, least + 12)), kernel, stride, padding, dilation


@given(windows(), st.data())
def test_sliding_window_reads_what_a_convolution_reads(case: tuple[int, ...], data: st.DataObject) -> None:
    extent, kernel, stride, padding, dilation = case
    weight = torch.ones(1, 1, kernel, dtype=torch.float64)

    def conv(x: Tensor) -> Tensor:
        return F.conv1d(x, weight, None, stride, padding, dilation)

    window = AffineWindow.sliding(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    reads = reads_of(conv, extent)
    for position, support in enumerate(reads):
        if support:  # both ends of the window are taps, so a window that is not clamped is exact
            read = read_axis(window, Interval(position, position + 1), extent)
            assert read.span.contains(Interval(min(support), max(support) + 1))
            assert read.before + read.span.size + read.after == dilation * (kernel - 1) + 1
            if dilation == 1:
                assert (read.span.start, read.span.stop) == (min(support), max(support) + 1)
    assert_reads_support(window, reads, extent, data)


@given(windows(), st.data())
def test_clamped_border_is_the_padding_a_tile_needs(case: tuple[int, ...], data: st.DataObject) -> None:
    extent, kernel, stride, padding, dilation = case
    weight = torch.arange(1, kernel + 1, dtype=torch.float64)[None, None]
    x = torch.arange(1, extent + 1, dtype=torch.float64)[None, None] ** 2
    whole = F.conv1d(x, weight, None, stride, padding, dilation)
    start = data.draw(st.integers(0, whole.shape[2] - 1))
    stop = data.draw(st.integers(start + 1, whole.shape[2]))
    window = AffineWindow.sliding(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    read = read_axis(window, Interval(start, stop), extent)
    crop = F.pad(x[..., read.span.start : read.span.stop], (read.before, read.after))
    assert torch.equal(F.conv1d(crop, weight, None, stride, 0, dilation), whole[..., start:stop])


@st.composite
def scatters(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    """Extent, kernel, stride, padding, dilation and output padding of a transposed convolution."""
    kernel, stride, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    extent = draw(st.integers(1, 8))
    full = (extent - 1) * stride + dilation * (kernel - 1) + 1
    padding = draw(st.integers(0, min(6, (full - 1) // 2)))
    extra = draw(st.integers(0, max(stride, dilation) - 1))
    return extent, kernel, stride, padding, dilation, extra


@given(scatters(), st.data())
def test_scatter_window_reads_what_a_transposed_convolution_reads(case: tuple[int, ...], data: st.DataObject) -> None:
    extent, kernel, stride, padding, dilation, extra = case
    weight = torch.ones(1, 1, kernel, dtype=torch.float64)
    reads = reads_of(lambda x: F.conv_transpose1d(x, weight, None, stride, padding, extra, 1, dilation), extent)
    window = ScatterWindow(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    assert_reads_support(window, reads, extent, data)
    if dilation == 1:
        for position, support in enumerate(reads):
            span = read_axis(window, Interval(position, position + 1), extent).span
            assert list(range(span.start, span.stop)) == sorted(support)


@given(scatters(), st.data())
def test_push_covers_what_an_unpadded_transposed_convolution_writes(case: tuple[int, ...], data: st.DataObject) -> None:
    extent, kernel, stride, padding, dilation, _ = case
    start = data.draw(st.integers(0, extent - 1))
    stop = data.draw(st.integers(start + 1, extent))
    weight = torch.ones(1, 1, kernel, dtype=torch.float64)
    crop = torch.ones(1, 1, stop - start, dtype=torch.float64)
    written = F.conv_transpose1d(crop, weight, None, stride, dilation=dilation)
    whole = torch.zeros(1, 1, extent, dtype=torch.float64)
    whole[..., start:stop] = 1
    touched = F.conv_transpose1d(whole, weight, None, stride, dilation=dilation)[0, 0].nonzero().flatten() - padding
    pushed = ScatterWindow(kernel=kernel, stride=stride, padding=padding, dilation=dilation).push(Interval(start, stop))
    assert pushed.size == written.shape[2]
    assert (pushed.start, pushed.stop) == (int(touched[0]), int(touched[-1]) + 1)


@given(st.data(), st.booleans(), st.booleans())
def test_average_counts_are_what_torch_divides_by(data: st.DataObject, ceil_mode: bool, include: bool) -> None:
    kernel, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 6))
    padding = data.draw(st.integers(0, kernel // 2))
    extent = data.draw(st.integers(max(1, kernel - 2 * padding), 14))
    x = torch.full((1, 1, extent), 60.0, dtype=torch.float64, requires_grad=True)
    pooled = F.avg_pool1d(x, kernel, stride, padding, ceil_mode, include)
    window = AveragingWindow(kernel, stride, padding, extent, include)
    counts = window.counts(Interval(0, pooled.shape[2]))
    for position, count in enumerate(counts):
        (gradient,) = torch.autograd.grad(pooled[0, 0, position], x, retain_graph=True)
        shares = gradient[gradient != 0]
        torch.testing.assert_close(1 / shares, torch.full_like(shares, count), rtol=1e-14, atol=0)
    reads = reads_of(lambda y: F.avg_pool1d(y, kernel, stride, padding, ceil_mode, include), extent)
    assert_reads_support(window, reads, extent, data)


@pytest.mark.parametrize("offset", [-3, 0, 2])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_shift_is_a_slice(offset: int, step: int) -> None:
    positions = torch.arange(10)
    padded = F.pad(positions, (-offset, 0), value=-1) if offset <= 0 else positions[offset:]
    taken = padded[::step].tolist()
    shift = AffineWindow.shift(offset, step)
    for out, expected in enumerate(taken):
        span = read_axis(shift, Interval(out, out + 1), 10).span
        assert list(range(span.start, span.stop)) == ([] if expected < 0 else [expected])


@pytest.mark.parametrize(
    "make",
    [
        lambda s: AffineWindow.sliding(kernel=1, stride=1, padding=s),
        lambda s: AffineWindow.shift(-s),
        lambda s: ScatterWindow(kernel=1, stride=s),
    ],
)
def test_a_window_in_padding_reads_nothing(make: Callable[[int], AxisMap]) -> None:
    read = read_axis(make(5), Interval(1, 3), extent=4)
    assert read.span.is_empty
    assert read.after == 0
