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


def recomputed_tiling(names: Sequence[str], part: StreamedPart, tile_size: Sequence[int]) -> Tiling | None:
    """Tiles with recomputed halos, each as large as the size allows; None where one position reads more.

    Args:
        names: Values to tell the shares of; those that the part lacks have none.
        part: The streamed part.
        tile_size: Samples that a tile reads at most.
    """
    axes = [_axis(names, part, axis, size) for axis, size in enumerate(tile_size)]
    if any(found is None for found in axes):
        return None
    at_hand = computed = torch.ones(len(names), dtype=torch.float64)
    for found in axes:
        assert found is not None
        at_hand, computed = at_hand * found[1], computed * found[2]
    nothing = torch.zeros(len(names), dtype=torch.float64)
    return Tiling(tuple(found[0] for found in axes if found is not None), at_hand, computed, nothing, nothing)


def _axis(names: Sequence[str], part: StreamedPart, axis: int, size: int) -> tuple[int, Tensor, Tensor] | None:
    """Number of blocks, the share of every value that a block in the middle reads, and that of all blocks together."""
    extent = min(part.extents[name][axis] for name in part.frontier)
    low, high = 0, extent
    while high > low:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _num_read(part, axis, middle) <= size else (low, middle - 1)
    if not low:
        return None
    count = -(-extent // low)
    length = -(-extent // count)
    middle_shares = _shares(names, part, axis, _pull(part, axis, length))
    if count == 1:
        return count, middle_shares, middle_shares
    ends = [_shares(names, part, axis, _pull(part, axis, length, start)) for start in (0, extent - length)]
    return count, middle_shares, ends[0] + ends[1] + (count - 2) * middle_shares


def _shares(names: Sequence[str], part: StreamedPart, axis: int, regions: Mapping[str, Interval]) -> Tensor:
    shares = [regions[name].size / part.extents[name][axis] if name in regions else 0.0 for name in names]
    return torch.tensor(shares, dtype=torch.float64)


def _num_read(part: StreamedPart, axis: int, length: int) -> int:
    regions = _pull(part, axis, length)
    return max(regions[name].size for name in part.input_maps)


def _pull(part: StreamedPart, axis: int, length: int, start: int | None = None) -> Mapping[str, Interval]:
    """What a block of the cut, in the middle or elsewhere, reads of every value."""
    coarsest = min(part.extents[name][axis] for name in part.frontier)
    start = (coarsest - length) // 2 if start is None else start
    blocks = {}
    for name in part.frontier:
        extent = part.extents[name][axis]
        blocks[name] = Interval(start * extent // coarsest, (start + length) * extent // coarsest)
    return pull_regions(part, axis, blocks).regions
