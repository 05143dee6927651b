"""What tiles of some size have at hand of every streamed value: shares from shapes, without dividing the image.

With carried halos a tile that advances by `s` samples of an image of `E` has of a value `s/E` of its positions and
what it receives: the samples carried along each axis, which do not depend on the size. With recomputed halos a block of
the cut is pulled back to every value, in the middle of the image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamplan.analysis.regions import StreamedPart, pull_regions
from streamplan.analysis.schedule import AxisSchedule
from streamplan.geometry import Interval


@dataclass(frozen=True)
class Tiling:
    """Shares of streamed values, in the order of `Columns.names`."""

    grid: tuple[int, ...]
    """Tiles along each axis."""
    at_hand: Tensor
    """Of one tile, what it has received included."""
    computed: Tensor
    """Of all tiles together: 1 where nothing is computed twice."""
    handed_on: Tensor
    """Of all tiles together."""
    waiting: Tensor
    """Handed on and not yet received, at most."""

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return math.prod(self.grid)


def carried_overlaps(names: Sequence[str], part: StreamedPart, schedules: Sequence[AxisSchedule]) -> Tensor:
    """Samples of every value that a step receives along each axis, at most, as a share of its extent."""
    rows = []
    for name in names:
        sizes = [
            max(step.regions[name].size - step.computed[name].size for step in schedule.steps) for schedule in schedules
        ]
        rows.append([size / extent for size, extent in zip(sizes, part.extents[name], strict=True)])
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(schedules))


def carried_tiling(overlaps: Tensor, extents: Sequence[int], tile_size: Sequence[int]) -> Tiling:
    """Tiles with carried halos.

    Args:
        overlaps: From `carried_overlaps`.
        extents: Of the first input map.
        tile_size: Samples of it that a tile advances by at most.
    """
    grid = tuple(-(-extent // size) for extent, size in zip(extents, tile_size, strict=True))
    ones = torch.ones(len(overlaps), dtype=torch.float64)
    at_hand, handed_on, waiting, before = ones, 0 * ones, 0 * ones, ones
    steps = [1 / count for count in grid]
    received = [overlaps[:, axis] if count > 1 else 0 * ones for axis, count in enumerate(grid)]
    for axis, count in enumerate(grid):
        along = (steps[axis] + received[axis]).clamp(max=1.0)
        at_hand = at_hand * along
        handed_on = handed_on + (count - 1) * received[axis] * before
        others = math.prod(grid[axis + 1 :]) if axis == 0 else 1
        band = received[axis] * math.prod(steps[a] for a in range(len(grid)) if a != axis) * others
        waiting = waiting + band
        before = before * (1 + (count - 1) * received[axis])
    return Tiling(grid, at_hand, ones, handed_on, waiting)


class RecomputedTilings:
    """Tiles with recomputed halos before one cut, each as large as its size allows.

    Args:
        names: Values to tell the shares of; those that the part lacks have none.
        part: The streamed part.
    """

    def __init__(self, names: Sequence[str], part: StreamedPart) -> None:
        self._names, self._part = names, part
        self._axes: dict[tuple[int, int], _Blocks | None] = {}
        self._same = [_first_like(part, axis) for axis in range(part.num_axes)]

    def tiling(self, tile_size: Sequence[int]) -> Tiling | None:
        """Tiles that read at most so many samples; None where one position reads more."""
        axes = [self._blocks(axis, size) for axis, size in enumerate(tile_size)]
        found = [blocks for blocks in axes if blocks is not None]
        if len(found) < len(axes):
            return None
        at_hand = computed = torch.ones(len(self._names), dtype=torch.float64)
        for blocks in found:
            at_hand, computed = at_hand * blocks.inner, computed * blocks.total
        nothing = torch.zeros(len(self._names), dtype=torch.float64)
        return Tiling(tuple(blocks.count for blocks in found), at_hand, computed, nothing, nothing)

    def _blocks(self, axis: int, size: int) -> _Blocks | None:
        key = (self._same[axis], size)
        if key not in self._axes:
            self._axes[key] = self._divide(*key)
        return self._axes[key]

    def _divide(self, axis: int, size: int) -> _Blocks | None:
        """Blocks of one axis: away from the borders every further position reads as many samples more."""
        extent = min(self._part.extents[name][axis] for name in self._part.frontier)
        one, some = self._num_read(axis, 1), self._num_read(axis, min(extent, 9))
        if one > size:
            return None
        length = extent
        if self._num_read(axis, extent) > size:
            length = min(extent, 1 + int((size - one) * 8 / max(1, some - one)))
            while length > 1 and self._num_read(axis, length) > size:
                length -= 1
        count = -(-extent // length)
        length = -(-extent // count)
        inner = self._shares(axis, length, (extent - length) // 2)
        if count == 1:
            return _Blocks(count, inner, inner)
        ends = self._shares(axis, length, 0) + self._shares(axis, length, extent - length)
        return _Blocks(count, inner, ends + (count - 2) * inner)

    def _shares(self, axis: int, length: int, start: int) -> Tensor:
        regions, extents = _pull(self._part, axis, length, start), self._part.extents
        shares = [regions[name].size / extents[name][axis] if name in regions else 0.0 for name in self._names]
        return torch.tensor(shares, dtype=torch.float64)

    def _num_read(self, axis: int, length: int) -> int:
        extent = min(self._part.extents[name][axis] for name in self._part.frontier)
        regions = _pull(self._part, axis, length, (extent - length) // 2)
        return max(regions[name].size for name in self._part.input_maps)


@dataclass(frozen=True)
class _Blocks:
    """How one axis is divided."""

    count: int
    inner: Tensor
    """Share of every value that a block in the middle reads."""
    total: Tensor
    """The same of all blocks together."""


def _first_like(part: StreamedPart, axis: int) -> int:
    """The first axis along which everything is as along this one."""

    def key(other: int) -> object:
        return tuple(e[other] for e in part.extents.values()), tuple(edge.axis_maps[other] for edge in part.edges)

    return next(other for other in range(axis + 1) if key(other) == key(axis))


def _pull(part: StreamedPart, axis: int, length: int, start: int) -> Mapping[str, Interval]:
    """What a block of the cut, in positions of its coarsest value, reads of every value."""
    coarsest = min(part.extents[name][axis] for name in part.frontier)
    blocks = {}
    for name in part.frontier:
        extent = part.extents[name][axis]
        blocks[name] = Interval(start * extent // coarsest, (start + length) * extent // coarsest)
    return pull_regions(part, axis, blocks).regions
