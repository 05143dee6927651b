"""A forward pass whose streamed values are looked at tile by tile, each position once, and not kept.

The values to be looked at are cut values of the segment: their blocks are disjoint and cover them, with either halo
policy, and lowering leaves them as the model computes them. The program hands each to the tile as soon as it is
computed, so that it can go when nothing else reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from streamplan.images import Source
from streamplan.runtime.joining import Copy
from streamplan.runtime.passes import forward_pass
from streamplan.runtime.progress import Progress
from streamplan.runtime.runners import TileRunner
from streamplan.runtime.running import Index, Received, TileRun, compute_blocks
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import Tile
from streamplan.runtime.weights import TileWeights

Observer = Callable[[str, Tensor], None]
"""Told the name of a value and a block of it; it must not keep or change the block."""


class ObservedTile(Tile):
    """A tile whose program shows what it computes."""

    observer: Observer

    def observe(self, x: Tensor | None, name: str) -> None:
        """Show the block that this tile contributes to a value, if it contributes anything."""
        block = self.block(x, name)
        if block is not None:
            self.observer(name, block)


class _ObservingRunner(TileRunner):
    """Runs tiles without autograd, and shows what they compute."""

    def __init__(self, segment: Segment, weights: TileWeights, observer: Observer) -> None:
        super().__init__(segment, weights)
        self._observer = observer

    def compute(
        self, index: Index, read: Sequence[Tensor], received: Received, wanted: Collection[str] | None, copy: Copy
    ) -> TileRun:
        """Compute a tile; nothing can be differentiated."""
        assert wanted is None
        tile = ObservedTile(self.segment, index, received, read[0].device, copy)
        tile.observer = self._observer
        regions = [self.segment.ordered(x).detach() for x in read]
        return TileRun(
            index, tile, received, regions, compute_blocks(self.segment, tile, self.weights.tensors, regions)
        )


def observe_segment(
    segment: Segment,
    maps: Sequence[Tensor | Source],
    smalls: Mapping[str, Tensor],
    device: torch.device,
    observer: Observer,
    progress: Progress,
) -> None:
    """Compute the tiles of a segment without autograd and show their blocks of the cut values.

    Args:
        segment: The segment, whose program was emitted for it.
        maps: Full-size input maps, tensors or sources, in the order of `segment.part.input_maps`.
        smalls: Small tensors by name, in the memory order of the tiles.
        device: Where tiles are computed; maps may be in host memory.
        observer: Told every block, in the order in which they are computed.
        progress: Told about every tile.
    """
    weights = TileWeights(smalls, (), segment.narrowed, device)
    with torch.no_grad():
        forward_pass(_ObservingRunner(segment, weights, observer), maps, device, progress, wanted=None)
