"""What the backward pass of one tile starts from, and whether that is anything but zeros.

Whether a block of the cut's gradient is zero is asked for all tiles at once, since a GPU has to finish what it was
asked to do before it can answer. What later tiles leave for a tile is not known before they are computed; on a GPU it
is looked at for tiles alone whose own blocks are zero, where the answer may save computing the tile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from streamplan.runtime.running import Index, Received, TileRun
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import Tile
from streamplan.runtime.transfers import transfers_to


def gradient_blocks(segment: Segment, index: Index, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tile's blocks of the gradients of the cut values."""
    tile = Tile(segment, index)
    return {name: gradient[tile.slices(name, blocks=True)] for name, gradient in gradients.items()}


@dataclass(frozen=True)
class BlockFlags:
    """What is known of the tiles' blocks of the cut's gradient before the backward pass begins."""

    nonzero: frozenset[Index]
    """Tiles with a block that holds anything but zeros."""
    empty: frozenset[Index]
    """Tiles that contribute nothing to the cut; with carried halos the first ones do not reach far enough."""

    @classmethod
    def find(cls, segment: Segment, gradients: Mapping[str, Tensor], device: torch.device) -> BlockFlags:
        """Ask the device, once."""
        owners: list[Index] = []
        flags: list[Tensor] = []
        for index in segment.tile_indices():
            for block in gradient_blocks(segment, index, gradients).values():
                if block.numel():
                    owners.append(index)
                    flags.append(block.any())
        found = transfers_to(device).fetch(torch.stack(flags)).wait().tolist() if flags else []
        nonzero = frozenset(index for index, flag in zip(owners, found, strict=True) if flag)
        return cls(nonzero, frozenset(segment.tile_indices()) - frozenset(owners))


@dataclass(frozen=True)
class Seeds:
    """The gradients that the backward pass of one tile starts from."""

    index: Index
    """The tile."""
    blocks: Mapping[str, Tensor]
    """By cut value."""
    handed: Received
    """By what the tile handed on."""

    @classmethod
    def of_tile(
        cls, segment: Segment, index: Index, gradients: Mapping[str, Tensor], arrived: Mapping[int, Received]
    ) -> Seeds:
        """Collect them; what later tiles left is taken away.

        Args:
            segment: The segment.
            index: The tile.
            gradients: Gradients of the cut values, full size.
            arrived: By axis, what the next tile along it left.
        """
        handed = {}
        for axis, seeds in arrived.items():
            for key in [key for key in seeds if key[1] == axis]:
                handed[key] = seeds.pop(key)
        return cls(index, gradient_blocks(segment, index, gradients), handed)

    def are_zero(self, flags: BlockFlags) -> bool:
        """Whether nothing would come of the tile's backward pass; on a GPU, whether that is known at little cost."""
        if self.index in flags.nonzero:
            return False
        if not self.handed:
            return True
        arrived = list(self.handed.values())
        if self.index in flags.empty and arrived[0].device.type != "cpu":
            return False
        return not bool(torch.stack([x.any() for x in arrived]).any())

    def backward(self, segment: Segment, run: TileRun, leaves: Mapping[str, Tensor]) -> None:
        """Run the backward pass of a computed tile."""
        outputs, seeds = [], []
        for name, block in zip(segment.outputs, run.blocks, strict=True):
            if block is not None and block.requires_grad and name in self.blocks:
                outputs.append(block)
                seeds.append(segment.ordered(self.blocks[name]))
        for key, handed in run.tile.handed.items():
            if key in self.handed and handed.requires_grad:
                outputs.append(handed)
                seeds.append(self.handed[key])
        if outputs:
            wanted = [x for x in (*leaves.values(), *run.regions, *run.received.values()) if x.requires_grad]
            torch.autograd.backward(outputs, seeds, inputs=wanted)
