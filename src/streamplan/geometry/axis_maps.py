"""What one operation reads along one axis.

An `AxisMap` pulls an interval of output positions back to the interval of input positions the operation reads, as if
the input went on for ever; `read_axis` then clamps it to the input and says how much was clamped off:

    k=3 s=2 p=1, input extent 6:  out [0, 2) pulls [-1, 4), reads [0, 4) with 1 sample of padding before
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from streamplan.geometry.interval import Interval


class AxisMap(Protocol):
    """One axis of an operation, from output positions to input positions."""

    def pull(self, out: Interval) -> Interval:
        """Input positions that a non-empty `out` reads, not clamped to the input."""
        ...


@dataclass(frozen=True, slots=True)
class AxisRead:
    """A pull clamped to the input, and the border that was clamped off."""

    span: Interval
    """Input positions read; empty if the window lies wholly outside the input."""
    before: int
    """Positions of the pull that lie before `span`."""
    after: int
    """Positions of the pull that lie after `span`."""


def read_axis(axis_map: AxisMap, out: Interval, extent: int) -> AxisRead:
    """Pull `out` through `axis_map` and clamp it to an input of `extent` positions.

    >>> from streamplan.geometry.windows import AffineWindow
    >>> read_axis(AffineWindow.sliding(kernel=3, stride=2, padding=1), Interval(0, 2), extent=6)
    AxisRead(span=Interval(start=0, stop=4), before=1, after=0)
    """
    pulled = axis_map.pull(out)
    if pulled.start >= 0 and pulled.stop <= extent and not pulled.is_empty:
        return AxisRead(pulled, before=0, after=0)
    span = pulled.clamp(extent)
    if span.is_empty:
        return AxisRead(span, before=pulled.size, after=0)
    return AxisRead(span, before=span.start - pulled.start, after=pulled.stop - span.stop)
