"""Receptive field, effective stride, halo and tile overlap of every streamed value, along one axis and for one image.

In: a streamed part, an `EdgeReads` for each of its edges, and tiles of the image. Out: the numbers of a report. Whether
they come from interval arithmetic, from the averaging-kernel probe or from both depends on the edges alone.

    conv k3 p1, conv k3 s2 p1:  receptive field 5, stride 2, halo 2 before and 1 after
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from streamplan.analysis.reads import EdgeReads
from streamplan.analysis.regions import EdgeKey, StreamedPart
from streamplan.analysis.unbounded import NOTHING, Reads, longest_read, middle_of
from streamplan.geometry import Interval

Sides = tuple[int, int]
"""A number of positions before and after."""

_MAX_TILES = 64
"""Positions of the tile that are tried."""
_MAX_WINDOW = 64
"""Samples of a window that are looked at for all positions at once; wider ones, around a border, one by one."""


@dataclass(frozen=True)
class AxisField:
    """What a position of a value reads of the image along one axis, and what a tile's sides lose.

    A position `o` that reads the samples `[start, stop)`, with the effective stride `s`, has the nominal place
    `[floor(o*s), ceil((o + 1)*s))`: the samples that its own share of the image touches. The maxima below are over the
    32 positions in the middle of the map, as if the image went on for ever.
    """

    receptive_field: int | None
    """Most samples that one position reads, from the first to the last. None: every position meets a border."""
    stride: Fraction | None
    """Samples of the image per position. Where paths of different strides meet, that of the first. None: not found."""
    before: int | None
    """Largest `floor(o*s) - start`. Negative where a position reads less than its nominal place."""
    after: int | None
    """Largest `stop - ceil((o + 1)*s)`. Negative where a position reads less than its nominal place."""
    forward_overlap: Sides | None
    """The paper's forward overlap: at each side of a tile, the positions that read some of the tile's samples and also
    some that lie outside. The most over all tile positions. None: some tile is too small to compute any position."""
    backward_overlap: Sides | None
    """The paper's backward overlap: at each side of a tile, the positions that read some of its samples and whose
    gradient the tile cannot complete, because later positions that they contribute to are not computable at the cut.
    None: some tile is too small to complete any gradient."""
    literal_forward: Sides | None = None
    """What the paper's own probe counts, unthresholded, in activations; None where it does not apply."""
    literal_backward: Sides | None = None
    """The same in gradients."""


@dataclass(frozen=True)
class AxisProblem:
    """The streamed part along one axis, as seen from one input map."""

    part: StreamedPart
    axis: int
    source: str
    """The input map; others count as at hand everywhere."""
    reads: Mapping[EdgeKey, EdgeReads]

    def extent(self, name: str) -> int:
        """Positions of a value."""
        return self.part.extents[name][self.axis]

    def middle(self, name: str) -> Interval:
        """The positions of a value whose reads are told."""
        return middle_of(self.extent(name))


def place_tiles(extent: int, coarsest: int, tile_size: int) -> tuple[Interval, ...]:
    """A tile in the middle of the image, moved by one sample at a time over one position of the coarsest cut value."""
    tile_size = min(tile_size, extent)
    num_tiles = min(_MAX_TILES, -(-extent // coarsest), extent - tile_size + 1)
    first = (extent - tile_size - num_tiles + 1) // 2
    return tuple(Interval(first + i, first + i + tile_size) for i in range(num_tiles))


def tile_overlaps(problem: AxisProblem, tiles: Sequence[Interval]) -> dict[str, tuple[Sides | None, Sides | None]]:
    """Forward and backward overlap of the image and every value that depends on it, the most over all tiles."""
    valid, touched = _spread_forward(problem, tiles)
    complete = _spread_backward(problem, valid)
    dependent = [name for name in (problem.source, *problem.part.order) if touched[name].any()]
    return {name: (_sides(touched[name], valid[name]), _sides(touched[name], complete[name])) for name in dependent}


def _spread_forward(problem: AxisProblem, tiles: Sequence[Interval]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """For every value and tile: the positions that can be computed, and those that read any of it."""
    valid, touched = {}, {}
    for name in problem.part.input_maps:
        at = torch.arange(problem.extent(name)).expand(len(tiles), -1)
        start, stop = (torch.tensor([[getattr(tile, end)] for tile in tiles]) for end in ("start", "stop"))
        is_source = name == problem.source
        touched[name] = (at >= start) & (at < stop) if is_source else torch.zeros_like(at, dtype=torch.bool)
        valid[name] = touched[name] if is_source else torch.ones_like(at, dtype=torch.bool)
    for edge in problem.part.edges:
        reads, reader = problem.reads[edge.key], edge.reader
        now_valid, now_touched = reads.valid(valid[edge.source]), reads.touched(touched[edge.source])
        valid[reader] = valid[reader] & now_valid if reader in valid else now_valid
        touched[reader] = touched[reader] | now_touched if reader in touched else now_touched
    return valid, touched


def _spread_backward(problem: AxisProblem, valid: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """For every value and tile: the positions whose gradient the tile completes."""
    complete = {name: valid[name] for name in problem.part.frontier}
    for edge in reversed(problem.part.edges):
        now = problem.reads[edge.key].complete(complete[edge.reader])
        complete[edge.source] = complete[edge.source] & now if edge.source in complete else now
    return complete


def _sides(touched: Tensor, done: Tensor) -> Sides | None:
    """Positions touched and not done, in the first and in the second half of those touched; the most over all rows."""
    if not (touched & done).any(1).all():
        return None
    at = torch.arange(touched.shape[1])
    first = torch.where(touched, at, touched.shape[1]).amin(1, keepdim=True)
    last = torch.where(touched, at, -1).amax(1, keepdim=True)
    missing, is_before = touched & ~done, 2 * at < first + last
    before, after = (missing & is_before).sum(1).amax(), (missing & ~is_before).sum(1).amax()
    return int(before), int(after)


def image_reads(problem: AxisProblem) -> dict[str, Reads]:
    """What every position of every value that depends on the image reads of it, its borders included."""
    extent = problem.extent(problem.source)
    at = torch.arange(extent)
    found = {problem.source: (at, at + 1)}
    for edge in problem.part.edges:
        if edge.source not in found:
            continue
        start, stop = _compose(problem.reads[edge.key], *found[edge.source])
        if edge.reader in found:
            known = found[edge.reader]
            start, stop = torch.minimum(start, known[0]), torch.maximum(stop, known[1])
        found[edge.reader] = start, stop
    return {
        name: Reads(Interval(0, len(start)), start, stop, (start > 0) & (stop < extent))
        for name, (start, stop) in found.items()
        if name != problem.source
    }


def _compose(reads: EdgeReads, start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """First and last sample of the image that a reader's positions read, from those of what it reads."""
    if reads.is_identity:
        return start, stop
    first, past = reads.spans
    lowest, highest = torch.full_like(first, NOTHING), torch.full_like(first, -NOTHING)
    sizes = past - first
    for step in range(min(int(sizes.max()), _MAX_WINDOW)):
        at, is_read = (first + step).clamp(max=len(start) - 1), step < sizes
        lowest = torch.where(is_read, torch.minimum(lowest, start[at]), lowest)
        highest = torch.where(is_read, torch.maximum(highest, stop[at]), highest)
    for position in (sizes > _MAX_WINDOW).nonzero()[:, 0].tolist():
        span = slice(int(first[position]), int(past[position]))
        lowest[position], highest[position] = start[span].min(), stop[span].max()
    return lowest, highest


def describe_reads(reads: Reads, stride: Fraction | None) -> tuple[int | None, int | None, int | None]:
    """Receptive field and halo before and after: the largest over all positions that read anything."""
    field = longest_read(reads)
    spans = [span for span in spans_of(reads) if span is not None]
    if field is None or stride is None:
        return field, None, None
    before = max(math.floor(position * stride) - start for position, start, _ in spans)
    after = max(stop - math.ceil((position + 1) * stride) for position, _, stop in spans)
    return field, before, after


def measured_stride(reads: Reads) -> Fraction | None:
    """The effective stride told by reads that repeat: the least period after which all move by the same number."""
    spans = spans_of(reads)
    for period in range(1, len(spans) // 3 + 1):
        moves = set()
        for earlier, later in zip(spans, spans[period:], strict=False):
            if earlier is not None and later is not None:
                moves |= {later[1] - earlier[1], later[2] - earlier[2]}
            elif earlier is not later:
                moves.add(0)
        if len(moves) == 1 and (move := moves.pop()) > 0:
            return Fraction(move, period)
    return None


def spans_of(reads: Reads) -> list[tuple[int, int, int] | None]:
    """Position, start and stop of each position; None for one that reads nothing."""
    ends = zip(
        range(reads.positions.start, reads.positions.stop), reads.start.tolist(), reads.stop.tolist(), strict=True
    )
    return [(position, start, stop) if stop > start else None for position, start, stop in ends]


def only_inside(reads: Reads) -> Reads:
    """The longest run of positions that meet no border."""
    best, start = Interval(0, 0), 0
    flags = [*reads.is_inside.tolist(), False]
    for index, flag in enumerate(flags):
        if not flag:
            best = max(best, Interval(start, index), key=lambda run: run.size)
            start = index + 1
    return reads.of(best.relative_to(-reads.positions.start))
