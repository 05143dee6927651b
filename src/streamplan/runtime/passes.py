"""The two passes over the tiles of a segment.

    forward    tile after tile in raster order, without autograd; blocks of the cut are put in place, and what a tile
               hands on is kept for the tiles that receive it
    backward   the tiles in reverse; each is computed again, with autograd, from the image and what it received [1],
               seeded with its block of the cut's gradient and with the gradients that later tiles left for what it
               handed on [2]; what arrives at received samples is left for the tiles that handed them on [3]

Carried samples exist with the carried-halo policy only; with recomputed halos tiles have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import CarryKey, Tile

Report = Callable[[int], None]
"""Called with the number of tiles done."""
Received = dict[CarryKey, Tensor]
"""Carried samples one tile receives."""
Index = tuple[int, ...]


@dataclass
class Carries:
    """What tiles have received or left for each other, by the index of the tile that receives."""

    by_tile: dict[Index, Received] = field(default_factory=dict)

    def leave(self, segment: Segment, index: Index, handed: Mapping[CarryKey, Tensor]) -> None:
        """Keep what the tile at `index` hands on, as tensors of their own."""
        for (name, axis), tensor in handed.items():
            receiver = next_along(index, axis)
            if receiver[axis] < len(segment.schedules[axis].steps):
                kept = tensor.clone(memory_format=torch.contiguous_format)
                self.by_tile.setdefault(receiver, {})[name, axis] = kept

    def take(self, index: Index) -> Received:
        """What the tile at `index` receives; it is gone afterwards."""
        return self.by_tile.pop(index, {})


def next_along(index: Index, axis: int) -> Index:
    """The next tile along an axis."""
    return (*index[:axis], index[axis] + 1, *index[axis + 1 :])


def forward_pass(
    segment: Segment, maps: Sequence[Tensor], smalls: Mapping[str, Tensor], report: Report, *, keep: bool
) -> tuple[dict[str, Tensor], Carries]:
    """Compute the cut values without autograd.

    Args:
        segment: The segment.
        maps: Full-size input maps.
        smalls: Small tensors by name.
        report: Progress callback.
        keep: Whether to keep what tiles receive, for a backward pass.

    Returns:
        The cut values, full size, and what every tile received if it is kept.
    """
    outputs: dict[str, Tensor] = {}
    pending, kept = Carries(), Carries()
    for done, index in enumerate(segment.tile_indices()):
        received = pending.take(index)
        tile = Tile(segment, index, received, maps[0].device)
        blocks = segment.tile(tile, smalls, *_regions(segment, tile, maps))
        for (name, spec), block in zip(segment.outputs.items(), blocks, strict=True):
            if block is not None:
                if name not in outputs:
                    outputs[name] = block.new_empty(spec.shape)
                outputs[name][tile.slices(name, blocks=True)] = block
        pending.leave(segment, index, tile.handed)
        if keep and received:
            kept.by_tile[index] = received
        report(done + 1)
    return outputs, kept


def backward_pass(
    segment: Segment,
    maps: Sequence[Tensor],
    leaves: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    map_gradients: Mapping[str, Tensor],
    carries: Carries,
    report: Report,
) -> None:
    """Add up the gradients of all tiles.

    Args:
        segment: The segment.
        maps: Full-size input maps.
        leaves: Small tensors by name, as leaves; their `grad` accumulates.
        gradients: Gradients of the cut values that have one.
        map_gradients: Full-size gradients of the input maps that need one, added to.
        carries: What every tile received in the forward pass; used up.
        report: Progress callback.
    """
    left: dict[Index, Received] = {}
    for done, index in enumerate(reversed(list(segment.tile_indices()))):
        received = {key: x.detach().requires_grad_(x.is_floating_point()) for key, x in carries.take(index).items()}
        tile = Tile(segment, index, received, maps[0].device)
        with torch.enable_grad():
            regions = _regions(segment, tile, maps, wanted=map_gradients)
            blocks = segment.tile(tile, leaves, *regions)  # [1]
        outputs, seeds = [], []
        for name, block in zip(segment.outputs, blocks, strict=True):
            if block is not None and block.requires_grad and name in gradients:
                outputs.append(block)
                seeds.append(gradients[name][tile.slices(name, blocks=True)])
        for (name, axis), handed in tile.handed.items():
            seed = left.get(next_along(index, axis), {}).pop((name, axis), None)  # [2]
            if seed is not None and handed.requires_grad:
                outputs.append(handed)
                seeds.append(seed)
        if outputs:
            wanted = [x for x in (*leaves.values(), *regions, *received.values()) if x.requires_grad]
            torch.autograd.backward(outputs, seeds, inputs=wanted)
        for name, region in zip(segment.part.input_maps, regions, strict=True):
            if name in map_gradients and region.grad is not None:
                map_gradients[name][tile.slices(name)] += region.grad
        left[index] = {key: x.grad for key, x in received.items() if x.grad is not None}  # [3]
        report(done + 1)


def _regions(
    segment: Segment, tile: Tile, maps: Sequence[Tensor], wanted: Mapping[str, Tensor] | None = None
) -> list[Tensor]:
    """The parts of the input maps that a tile reads; leaves that require a gradient where one is wanted."""
    regions = []
    for name, x in zip(segment.part.input_maps, maps, strict=True):
        region = x[tile.slices(name)].detach()
        regions.append(region.requires_grad_(wanted is not None and name in wanted))
    return regions
