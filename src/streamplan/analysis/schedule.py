"""The tile grid: how each axis of the cut is divided so that no tile reads more than its size.

Each axis is divided on its own, in positions of the *coarsest* cut value; finer cut values follow in proportion, which
keeps their boundaries monotone. A grid is data: the boundaries alone fix every region of every tile.

    extent 8 at the cut, each block of b positions reads 4b + 6 samples of the image, tile size 14:
    boundaries (0, 2, 4, 6, 8)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise, product

from streamplan.analysis.regions import AxisStep, StreamedPart, pull_regions
from streamplan.geometry import AffineWindow, AveragingWindow, AxisMap, Interval, LinearResize, ScatterWindow

_MAX_POSITIONS = 4096
"""Positions examined for the smallest tile where there is no period to rely on."""


@dataclass(frozen=True)
class AxisSchedule:
    """The steps along one axis, with recomputed halos."""

    boundaries: tuple[int, ...]
    """Block boundaries in positions of the coarsest cut value, from 0 to its extent."""
    steps: tuple[AxisStep, ...]
    """What each step computes and reads."""

    def max_read(self, input_maps: tuple[str, ...]) -> int:
        """Largest number of input samples a step reads."""
        return max(step.regions[name].size for step in self.steps for name in input_maps)

    def computed(self, name: str) -> int:
        """Positions of a value computed in all steps, counting those computed again."""
        return sum(step.computed[name].size for step in self.steps)


def schedule_axis(part: StreamedPart, axis: int, boundaries: tuple[int, ...]) -> AxisSchedule:
    """The steps that given boundaries imply."""
    steps = tuple(_step(part, axis, start, stop) for start, stop in pairwise(boundaries))
    return AxisSchedule(boundaries, steps)


class InfeasibleTileError(Exception):
    """One position alone reads more than the tile may; `num_read` samples."""

    def __init__(self, num_read: int) -> None:
        self.num_read = num_read
        super().__init__(f"one position reads {num_read} samples")


def divide_axis(part: StreamedPart, axis: int, tile_size: int) -> tuple[int, ...]:
    """Boundaries with the fewest blocks that each read at most `tile_size` samples.

    Blocks are made even if that needs no further block.

    Raises:
        InfeasibleTileError: A block of one position reads more.
    """
    extent = coarsest_extent(part, axis)
    greedy = [0]
    guess = 1
    while greedy[-1] < extent:
        stop = _longest_block(part, axis, greedy[-1], guess, tile_size)
        if stop is None:
            raise InfeasibleTileError(_num_read(part, axis, greedy[-1], greedy[-1] + 1))
        guess = stop - greedy[-1]
        greedy.append(stop)
    blocks = len(greedy) - 1
    even = tuple(round(Fraction(index * extent, blocks)) for index in range(blocks + 1))
    fits = all(_num_read(part, axis, start, stop) <= tile_size for start, stop in pairwise(even))
    return even if fits else tuple(greedy)


def smallest_tile_size(part: StreamedPart, axis: int) -> int:
    """Samples read by the most demanding single position of the coarsest cut value."""
    return max(_num_read(part, axis, position, position + 1) for position in _telling_positions(part, axis))


def coarsest_extent(part: StreamedPart, axis: int) -> int:
    """Extent of the coarsest cut value along an axis."""
    return min(part.extents[name][axis] for name in part.frontier)


def _blocks(part: StreamedPart, axis: int, start: int, stop: int) -> Mapping[str, Interval]:
    """Blocks of all cut values between two positions of the coarsest one."""
    coarsest = coarsest_extent(part, axis)
    blocks = {}
    for name in part.frontier:
        extent = part.extents[name][axis]
        blocks[name] = Interval(start * extent // coarsest, stop * extent // coarsest)
    return blocks


def _step(part: StreamedPart, axis: int, start: int, stop: int) -> AxisStep:
    return pull_regions(part, axis, _blocks(part, axis, start, stop))


def _num_read(part: StreamedPart, axis: int, start: int, stop: int) -> int:
    step = _step(part, axis, start, stop)
    return max(step.regions[name].size for name in part.input_maps)


def _longest_block(part: StreamedPart, axis: int, start: int, guess: int, tile_size: int) -> int | None:
    """The largest stop whose block reads at most `tile_size` samples, searched from a guess of its length."""
    extent = coarsest_extent(part, axis)

    def fits(length: int) -> bool:
        return start + length <= extent and _num_read(part, axis, start, start + length) <= tile_size

    low, high = 0, min(guess, extent - start)
    reach = 1
    while fits(high):
        low, high, reach = high, high + reach, reach * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return start + low if low else None


def _telling_positions(part: StreamedPart, axis: int) -> Iterable[int]:
    """Positions that include the most demanding one.

    Away from the borders demand repeats with a period; clamping only makes it smaller. Without a period all positions
    are told, or, of a long axis, its ends, its middle and a sample between: demand drifts along the axis then.
    """
    extent = coarsest_extent(part, axis)
    period = _period(part, axis)
    middle = extent // 2
    if period is not None and middle + period <= extent and not _is_clamped(part, axis, middle, middle + period):
        return range(middle, middle + period)
    if extent <= _MAX_POSITIONS:
        return range(extent)
    window = _MAX_POSITIONS // 4
    sample = range(0, extent, extent // window)
    return {
        *range(window),
        *range(middle - window // 2, middle + window // 2),
        *range(extent - window, extent),
        *sample,
    }


def _is_clamped(part: StreamedPart, axis: int, start: int, stop: int) -> bool:
    """Whether any region of a block touches the border of its value."""
    step = _step(part, axis, start, stop)
    return any(region.start == 0 or region.stop == part.extents[name][axis] for name, region in step.regions.items())


def _period(part: StreamedPart, axis: int) -> int | None:
    """Positions of the coarsest cut value after which the demand repeats; None if values do not keep step."""
    scale: dict[str, Fraction] = {}
    coarsest = coarsest_extent(part, axis)
    for name in part.frontier:
        scale[name] = Fraction(part.extents[name][axis], coarsest)
    for edge in reversed(part.edges):
        ratio = _ratio(edge.axis_maps[axis])
        if ratio is None or scale.setdefault(edge.source, scale[edge.reader] * ratio) != scale[edge.reader] * ratio:
            return None
    return math.lcm(*(ratio.denominator for ratio in scale.values()))


def _ratio(axis_map: AxisMap) -> Fraction | None:
    """Input positions per output position."""
    if isinstance(axis_map, AffineWindow | LinearResize):
        return Fraction(axis_map.num, axis_map.den)
    if isinstance(axis_map, AveragingWindow):
        return Fraction(axis_map.stride)
    if isinstance(axis_map, ScatterWindow):
        return Fraction(1, axis_map.stride)
    return None


def grid_shape(schedules: tuple[AxisSchedule, ...]) -> tuple[int, ...]:
    """Number of tiles along each axis."""
    return tuple(len(schedule.steps) for schedule in schedules)


def tile_indices(schedules: tuple[AxisSchedule, ...]) -> Iterator[tuple[int, ...]]:
    """Step numbers of every tile in raster order, the last axis fastest."""
    return product(*(range(count) for count in grid_shape(schedules)))
