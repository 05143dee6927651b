"""What carried samples take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamplan.costs.footprints import Index, carried_shapes
from streamplan.runtime.arena import blocks_for
from streamplan.runtime.segment import Segment


@dataclass(frozen=True)
class Carried:
    """Carried samples of a pass."""

    all_bytes: int
    """Kept from the forward to the backward pass."""
    block_bytes: int
    """Of the blocks they are packed into."""
    waiting_bytes: int
    """Most that waits for tiles that come later in the same pass."""


def count_carried(segment: Segment, indices: Iterable[Index]) -> Carried:
    """Count them tile by tile; those of a kind are alike.

    Args:
        segment: The segment.
        indices: Its tiles, in the order they run.
    """
    sizes: dict[tuple[int, ...], dict[int, list[int]]] = {}
    total, packed, waiting, most = 0, [], 0, 0
    arrived: dict[tuple[int, ...], int] = {}
    for index in indices:
        kind = (
            *segment.kind(index),
            *(int(i + 1 == len(s.steps)) for i, s in zip(index, segment.schedules, strict=True)),
        )
        if kind not in sizes:
            by_axis: dict[int, list[int]] = {}
            for (name, axis), shape in carried_shapes(segment, index, "out").items():
                by_axis.setdefault(axis, []).append(_num_bytes(segment, name, shape))
            sizes[kind] = by_axis
        waiting -= arrived.pop(index, 0)
        for axis, these in sizes[kind].items():
            receiver = (*index[:axis], index[axis] + 1, *index[axis + 1 :])
            arrived[receiver] = arrived.get(receiver, 0) + sum(these)
            waiting += sum(these)
            total += sum(these)
            packed += these
        most = max(most, waiting)
    return Carried(total, blocks_for(packed, segment.memory.plan.costs.carry_bytes), most)


def _num_bytes(segment: Segment, name: str, shape: Sequence[int]) -> int:
    count = segment.maps[name].dtype.itemsize
    for extent in shape:
        count *= extent
    return count
