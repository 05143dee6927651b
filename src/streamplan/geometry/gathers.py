"""Axis maps that look input positions up one by one: nearest and linear resizing, reflected and replicated borders.

linear, 3 -> 6 (half pixel centres):  output 1 sits at input 0.25 = 3/4 of input 0 + 1/4 of input 1
reflect, 2 before, extent 4:          positions -2 -1 0 1 2 3 read 2 1 0 1 2 3
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamplan.geometry.interval import Interval
from streamplan.geometry.windows import AffineWindow

FoldMode = Literal["reflect", "replicate", "circular"]


@dataclass(frozen=True, slots=True)
class IndexTable:
    """Output `o` reads input `table[o]`; the table never decreases."""

    table: tuple[int, ...]
    """Input position of each output position."""

    def pull(self, out: Interval) -> Interval:
        """Input positions that a non-empty `out` reads."""
        return Interval(self.table[out.start], self.table[out.stop - 1] + 1)

    def indices(self, out: Interval) -> tuple[int, ...]:
        """Input position of each position of `out`."""
        return self.table[out.start : out.stop]


@dataclass(frozen=True, slots=True)
class FoldedPadding:
    """Output `o` reads input `fold(o - before)`: the border continues the map instead of being constant."""

    before: int
    """Positions added before the axis; negative crops."""
    extent: int
    """Input positions along the axis."""
    mode: FoldMode

    def pull(self, out: Interval) -> Interval:
        """Hull of the input positions that a non-empty `out` reads; reflection is not monotone."""
        if self.mode == "circular":
            return Interval(min(self.indices(out)), max(self.indices(out)) + 1)
        # Within [0, extent) folding is the identity, so only the two ends and the borders they cross matter.
        start, stop = out.start - self.before, out.stop - self.before
        ends = [self._fold(start), self._fold(stop - 1)]
        if start < 0 < stop:
            ends.append(0)
        if start < self.extent < stop:
            ends.append(self.extent - 1)
        return Interval(min(ends), max(ends) + 1)

    def indices(self, out: Interval) -> tuple[int, ...]:
        """Input position of each position of `out`."""
        return tuple(self._fold(position - self.before) for position in range(out.start, out.stop))

    def _fold(self, position: int) -> int:
        last = self.extent - 1
        if self.mode == "circular":
            return position % self.extent
        if self.mode == "replicate":
            return min(max(position, 0), last)
        if position < 0:
            return -position
        return 2 * last - position if position > last else position


@dataclass(frozen=True, slots=True)
class FoldedWindow:
    """A sliding window over an axis whose border continues the map instead of being constant."""

    window: AffineWindow
    """What an output reads of the endless axis; its padding stands before position 0."""
    border: FoldedPadding
    """Where each position of the endless axis is found in the map; its `before` is 0."""

    def pull(self, out: Interval) -> Interval:
        """Hull of the input positions that a non-empty `out` reads."""
        return self.border.pull(self.window.pull(out))

    def indices(self, out: Interval) -> tuple[int, ...]:
        """Input position of each position that the windows of `out` cover together.

        >>> window = AffineWindow.sliding(kernel=3, stride=2, padding=1)
        >>> FoldedWindow(window, FoldedPadding(0, 6, "reflect")).indices(Interval(0, 2))
        (1, 0, 1, 2, 3)
        """
        return self.border.indices(self.window.pull(out))


@dataclass(frozen=True, slots=True)
class LinearResize:
    """Output `o` sits at input position `max(o*num + first, 0) / den` and mixes the two inputs around it."""

    num: int
    den: int
    first: int
    """Offset in units of 1/den positions."""
    extent: int
    """Input positions along the axis; a neighbour past the end is the last position."""

    def pull(self, out: Interval) -> Interval:
        """Input positions that a non-empty `out` reads."""
        start, _ = self._locate(out.start)
        stop, _ = self._locate(out.stop - 1)
        return Interval(start, min(stop + 1, self.extent - 1) + 1)

    def taps(self, out: Interval) -> tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
        """For each position of `out`: lower input, upper input, and the weight of the upper one.

        >>> LinearResize(num=6, den=12, first=-3, extent=3).taps(Interval(0, 2))
        ((0, 0), (1, 1), (0.0, 0.25))
        """
        located = [self._locate(position) for position in range(out.start, out.stop)]
        lower = tuple(index for index, _ in located)
        upper = tuple(min(index + 1, self.extent - 1) for index in lower)
        return lower, upper, tuple(weight for _, weight in located)

    def _locate(self, position: int) -> tuple[int, float]:
        whole, rest = divmod(max(position * self.num + self.first, 0), self.den)
        if whole >= self.extent - 1:
            return self.extent - 1, 0.0
        return whole, rest / self.den
