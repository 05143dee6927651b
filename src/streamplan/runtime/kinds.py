"""Steps that are alike but for where they are.

In the middle of an image every step along an axis crops, pads and carries the same numbers of samples: what a tile
needs of that can be worked out once per kind of tile rather than once per tile. On 16 samples in steps of 4:

    step    0      1      2      3
    kind    0      1      1      2        border before, none, none, border after
"""

from __future__ import annotations

from collections.abc import Iterator

from streamplan.analysis.regions import AxisStep
from streamplan.analysis.schedule import AxisSchedule
from streamplan.geometry import Interval

Kind = tuple[int, ...]
"""Of a tile: the kind of its step along each axis."""


def step_kinds(schedule: AxisSchedule) -> tuple[int, ...]:
    """For every step of an axis a number, equal for steps that are alike but for a shift of every value."""
    numbers: dict[tuple[int, ...], int] = {}
    return tuple(numbers.setdefault(tuple(_shape_of(step)), len(numbers)) for step in schedule.steps)


def _shape_of(step: AxisStep) -> Iterator[int]:
    """All of a step, each interval counted from the start of its value's region."""
    for name, region in step.regions.items():
        yield region.size
        for part in (step.computed, step.carried_in, step.carried_out, step.blocks):
            yield from _counted_from(region, part.get(name))
    for (_, source), read in step.reads.items():
        yield from _counted_from(step.regions[source], read.span)
        yield from (read.before, read.after)


def _counted_from(region: Interval, part: Interval | None) -> tuple[int, int]:
    if part is None or part.is_empty:
        return (0, -1) if part is None else (0, 0)
    return part.start - region.start, part.size
