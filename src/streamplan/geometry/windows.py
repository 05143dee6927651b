"""Axis maps in closed form: sliding windows, their averaging kind, and windows that scatter.

    AffineWindow   conv, max pool, slice, constant padding: an output reads a window of inputs
    AveragingWindow  avg pool: the same, and the number of inputs each output divides by
    ScatterWindow  transposed conv, pixel shuffle: an input writes a window of outputs

Pull of an output interval [a, b):  [ (a*num + first) // den,  ((b-1)*num + last) // den + 1 )
"""

from __future__ import annotations

from dataclasses import dataclass

from streamplan.geometry.interval import Interval


@dataclass(frozen=True, slots=True)
class AffineWindow:
    """Output `o` reads inputs `(o*num + first) // den` to `(o*num + last) // den`, both included."""

    num: int
    """Input positions per output position, numerator."""
    den: int
    """The same, denominator; at least 1."""
    first: int
    """Offset of the first input read, in units of 1/den positions."""
    last: int
    """Offset of the last input read, in units of 1/den positions; at least `first`."""

    @property
    def pads(self) -> bool:
        """Whether the first window begins before the axis."""
        return self.first < 0

    @classmethod
    def sliding(cls, *, kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> AffineWindow:
        """The window of a convolution or pool; `padding` is what stands before the axis."""
        return cls(stride, 1, -padding, -padding + dilation * (kernel - 1))

    @classmethod
    def shift(cls, offset: int, step: int = 1) -> AffineWindow:
        """Output `o` reads input `o*step + offset`: a slice, or constant padding with a negative offset."""
        return cls(step, 1, offset, offset)

    def pull(self, out: Interval) -> Interval:
        """Input positions that a non-empty `out` reads, not clamped."""
        start = (out.start * self.num + self.first) // self.den
        stop = ((out.stop - 1) * self.num + self.last) // self.den + 1
        return Interval(start, stop)

    def reach(self, available: int) -> int:
        """The largest stop of outputs that read no input from position `available` on; not clamped.

        >>> AffineWindow.sliding(kernel=3, stride=2, padding=1).reach(6)
        3
        """
        return (available * self.den - 1 - self.last) // self.num + 1


IDENTITY = AffineWindow(1, 1, 0, 0)
"""Output `o` reads input `o`: pointwise operations and joins."""


@dataclass(frozen=True, slots=True)
class AveragingWindow:
    """The window of an average pool over an axis of `extent` inputs."""

    kernel: int
    stride: int
    padding: int
    extent: int
    """Input positions along the axis."""
    include_padding: bool
    """Whether zeros of the padding count in the divisor (`count_include_pad`)."""

    @property
    def window(self) -> AffineWindow:
        """What it reads, whatever it divides by."""
        return AffineWindow.sliding(kernel=self.kernel, stride=self.stride, padding=self.padding)

    def pull(self, out: Interval) -> Interval:
        """Input positions that a non-empty `out` reads, not clamped."""
        return self.window.pull(out)

    def counts(self, out: Interval) -> tuple[int, ...]:
        """Number of positions that each output divides by, along this axis alone.

        >>> AveragingWindow(kernel=3, stride=1, padding=1, extent=4, include_padding=False).counts(Interval(0, 4))
        (2, 3, 3, 2)
        """
        counts = []
        for position in range(out.start, out.stop):
            start = position * self.stride - self.padding
            stop = min(start + self.kernel, self.extent + self.padding)
            if not self.include_padding:
                start, stop = max(start, 0), min(stop, self.extent)
            counts.append(stop - start)
        return tuple(counts)


@dataclass(frozen=True, slots=True)
class ScatterWindow:
    """Input `i` writes outputs `i*stride - padding + dilation*j` for `j` in `range(kernel)`."""

    kernel: int
    stride: int
    padding: int = 0
    dilation: int = 1

    def pull(self, out: Interval) -> Interval:
        """Input positions that write into a non-empty `out`, not clamped; never runs backwards.

        A gap (stride beyond the kernel) is written by no input: the pull is empty there.
        """
        reach = self.dilation * (self.kernel - 1)
        start = (out.start + self.padding - reach + self.stride - 1) // self.stride
        stop = (out.stop - 1 + self.padding) // self.stride + 1
        return Interval(start, max(start, stop))

    def push(self, span: Interval) -> Interval:
        """Output positions covered when the operation runs on a non-empty `span` without padding.

        >>> ScatterWindow(kernel=3, stride=2, padding=1).push(Interval(1, 3))
        Interval(start=1, stop=6)
        """
        start = span.start * self.stride - self.padding
        stop = (span.stop - 1) * self.stride - self.padding + self.dilation * (self.kernel - 1) + 1
        return Interval(start, stop)
