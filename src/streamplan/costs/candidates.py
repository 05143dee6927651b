"""The plans that are considered: cuts, tile shapes, halo policies, kept tiles, and where carried samples wait."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from streamplan.analysis.cuts import Cut
from streamplan.options import Options

_MAX_CUTS = 5
_KEPT = (0, 1, 2, 4, 8)
"""Numbers of kept tiles."""
_LEAST_EXTENT = 16
"""Of a tile along an axis, in samples."""
_MOST_TILES = 4096
_MOST_OBLONG = 16
"""Longest over shortest side of a tile that does not span the image."""


@dataclass(frozen=True)
class Candidate:
    """A plan that could be made."""

    cut: Cut
    tile_size: tuple[int, ...]
    halo: str
    keep_tiles: int
    carries: str


def telling_cuts(cuts: Sequence[Cut], extents: Sequence[tuple[int, ...]]) -> tuple[Cut, ...]:
    """The last cut of every map extent, the latest of them if there are many.

    Args:
        cuts: All cuts, from the image on.
        extents: Of the map of each.
    """
    last = dict(zip(extents, cuts, strict=True))
    return tuple(last.values())[-_MAX_CUTS:]


def tile_sizes(extents: Sequence[int], least: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Tile sizes from the whole image on: along each axis a half, a third, a quarter, a sixth and so on of it.

    Tiles are neither tiny nor very oblong unless they span the image; along axes of one extent the first is the short
    side, as strips of full rows are.

    >>> tile_sizes((64, 64), (32, 32))
    ((64, 64), (32, 64), (32, 32))
    """
    is_fine = len(extents) < 3
    along = [
        list(_divisions(extent, max(low, _LEAST_EXTENT), is_fine=is_fine))
        for extent, low in zip(extents, least, strict=True)
    ]
    found = []
    for sizes in product(*along):
        count = math.prod(-(-extent // size) for extent, size in zip(extents, sizes, strict=True))
        if count > _MOST_TILES or (len(set(extents)) == 1 and any(a > b for a, b in pairwise(sizes))):
            continue
        inner = [size for size, extent in zip(sizes, extents, strict=True) if size < extent]
        if len(inner) < len(sizes) or max(inner) <= _MOST_OBLONG * min(inner):
            found.append(sizes)
    return tuple(sorted(found, key=lambda sizes: [-size for size in reversed(sizes)]))


def _divisions(extent: int, least: int, *, is_fine: bool) -> Iterator[int]:
    """The extent, and parts of it that are not below the least size."""
    yield extent
    count = 2
    while -(-extent // count) >= least:
        yield -(-extent // count)
        between = count * 3 // 2
        if is_fine and count > 1 and -(-extent // between) >= least:
            yield -(-extent // between)
        count *= 2


def candidates(
    options: Options, cuts: Sequence[Cut], sizes: Sequence[tuple[int, ...]], device: str
) -> Iterator[Candidate]:
    """All combinations that the options leave open.

    Args:
        options: What the user fixed.
        cuts: Cuts to consider.
        sizes: Tile sizes to consider.
        device: Kind of device; host memory is another memory only beside a GPU.
    """
    halos = ("reuse", "recompute") if options.halo == "auto" else (options.halo,)
    places = (options.carries,) if options.carries else ("device",) if device == "cpu" else ("device", "host")
    counts = _KEPT if options.keep_tiles is None else (options.keep_tiles,)
    for cut, size, halo in product(cuts, sizes, halos):
        for place in places if halo == "reuse" else places[:1]:
            for count in counts:
                yield Candidate(cut, size, halo, count, place)
