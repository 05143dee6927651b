"""The tiles along one axis of the image, in its samples: blocks, what a tile reads, and how far back it was told.

In: a plan. Out: per axis where tiles begin and end, from the boundaries:

    recompute   boundaries count positions of the cut; times the stride they are samples
    reuse       boundaries count samples; they repeat the extent where steps compute what is left after the image's end

A plan tells the halo as a whole: receptive field minus stride. It is taken to lie evenly around a position, the odd
sample before it, as padding by half a kernel makes it:

    conv k3 s2 p1:  field 3, stride 2, halo 1: position o reads [2o - 1, 2o + 2), 1 before and 0 after
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from streamplan.geometry import Interval
from streamplan.planning import Plan
from streamplan.plot.depth import strides_of


@dataclass(frozen=True)
class AxisTiles:
    """The tiles along one axis of the first input map, in its samples."""

    name: str
    """`rows` or `columns`; "" for an axis that the image does not have."""
    extent: int
    blocks: tuple[Interval, ...]
    """The samples that are each tile's own; tiles without are left out."""
    num_late: int = 0
    """Tiles that come after the image has ended, and so have no samples of their own."""
    before: int = 0
    after: int = 0
    """Halo of a position of the cut."""
    stride: int = 1
    """Samples per position of the cut."""

    @property
    def num_tiles(self) -> int:
        """All tiles along the axis."""
        return len(self.blocks) + self.num_late

    @property
    def middle(self) -> int:
        """The tile that is looked at: the second of two, so that there is one before it."""
        return len(self.blocks) // 2

    @property
    def block(self) -> Interval:
        """The samples that are its own."""
        return self.blocks[self.middle]

    @property
    def read(self) -> Interval:
        """What it reads if it computes its halo again."""
        return Interval(max(0, self.block.start - self.before), min(self.extent, self.block.stop + self.after))

    @property
    def received(self) -> Interval:
        """The samples behind what it is handed on: back to the first one that its new positions read.

        Positions up to `(start - after) / stride` were computable from what came before; the next one is new.
        """
        start = self.block.start
        first_new = max(0, (start - self.after) // self.stride)
        return Interval(max(0, min(start, first_new * self.stride - self.before)), start)


def tiles_along(plan: Plan, axis: int, name: str) -> AxisTiles:
    """The tiles along an axis.

    Args:
        plan: The plan.
        axis: Of the image, from 0.
        name: What the axis is called in the picture.
    """
    extent, boundaries = plan.input_size[2 + axis], plan.boundaries[axis]
    stops = [boundary * extent // boundaries[-1] for boundary in boundaries]
    blocks = tuple(Interval(start, stop) for start, stop in pairwise(stops) if stop > start)
    halo, stride = plan.chosen.halo[axis], strides_of(plan, plan.chosen)[axis]
    return AxisTiles(name, extent, blocks, len(stops) - 1 - len(blocks), halo - halo // 2, halo // 2, stride)


@dataclass(frozen=True)
class View:
    """A part of the image that is drawn."""

    down: AxisTiles
    across: AxisTiles
    is_detail: bool = False
    """Whether only what lies around the tile in the middle is drawn."""

    @property
    def numbers(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Numbers of the tiles that are drawn along each axis."""
        choose = _near if self.is_detail else _telling
        return choose(self.down), choose(self.across)

    @property
    def most(self) -> int:
        """Tiles drawn along the axis that has more of them."""
        return max(map(len, self.numbers))

    @property
    def window(self) -> tuple[Interval, Interval]:
        """Rows and columns that are shown."""
        if not self.is_detail:
            return Interval(0, self.down.extent), Interval(0, self.across.extent)
        down, across = (
            Interval(axis.blocks[numbers[0]].start, axis.blocks[numbers[-1]].stop)
            for axis, numbers in zip((self.down, self.across), self.numbers, strict=True)
        )
        return down, across


_MOST_DRAWN = 80
"""Tiles along an axis up to which all are drawn; of more, some at its ends and around the middle."""
_DRAWN = 6
"""So many at each of these places."""


def _telling(tiles: AxisTiles) -> tuple[int, ...]:
    """All tiles, or the first, the last and those around the middle."""
    count = len(tiles.blocks)
    if count <= _MOST_DRAWN:
        return tuple(range(count))
    around = range(tiles.middle - _DRAWN // 2, tiles.middle + _DRAWN // 2 + 1)
    return tuple(sorted({*range(_DRAWN), *around, *range(count - _DRAWN, count)}))


def _near(tiles: AxisTiles) -> tuple[int, ...]:
    """The tiles that the one in the middle has to do with, and one more at each side."""
    start, stop = min(tiles.read.start, tiles.received.start), tiles.read.stop
    touched = [i for i, block in enumerate(tiles.blocks) if block.start < stop and block.stop > start]
    return tuple(range(max(0, touched[0] - 1), min(len(tiles.blocks), touched[-1] + 2)))
