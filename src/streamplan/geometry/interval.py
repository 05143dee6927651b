"""Half-open integer intervals in the coordinates of the full-size tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True, init=False)
class Interval:
    """Positions `start, start + 1, ..., stop - 1` along one axis; empty when `stop == start`."""

    start: int
    """First position."""
    stop: int
    """One past the last position; never below `start`."""

    def __init__(self, start: int, stop: int) -> None:
        if stop < start:
            raise ValueError(f"interval [{start}, {stop}) runs backwards")
        _set_start(self, start)  # planning makes tens of thousands; this takes half as long as the dataclass's own way
        _set_stop(self, stop)

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"

    @property
    def size(self) -> int:
        """Number of positions."""
        return self.stop - self.start

    @property
    def is_empty(self) -> bool:
        """Whether it holds no position."""
        return self.stop == self.start

    def clamp(self, extent: int) -> Interval:
        """The part inside `[0, extent)`; an empty interval at the nearer border if there is none."""
        start = min(max(self.start, 0), extent)
        stop = min(max(self.stop, 0), extent)
        return Interval(start, stop)

    def relative_to(self, origin: int) -> Interval:
        """The same positions counted from `origin`."""
        return Interval(self.start - origin, self.stop - origin)

    def contains(self, other: Interval) -> bool:
        """Whether every position of `other` is in this interval; an empty one always is."""
        return other.is_empty or (self.start <= other.start and other.stop <= self.stop)


_set_start, _set_stop = (vars(Interval)[name].__set__ for name in ("start", "stop"))


def hull(intervals: Iterable[Interval]) -> Interval | None:
    """The smallest interval that holds all non-empty ones; None if all are empty.

    >>> hull([Interval(4, 6), Interval(0, 0), Interval(1, 2)])
    Interval(start=1, stop=6)
    """
    present = [interval for interval in intervals if not interval.is_empty]
    if not present:
        return None
    return Interval(min(i.start for i in present), max(i.stop for i in present))
