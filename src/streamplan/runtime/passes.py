"""The two passes over the tiles of a segment.

    forward    tile after tile in raster order, without autograd; blocks of the cut are put in place, and what a tile
               hands on is kept for the tiles that receive it
    backward   the tiles in reverse; each is computed again, with autograd, from the image and what it received [1],
               seeded with its block of the cut's gradient and with the gradients that later tiles left for what it
               handed on [2]; what arrives at received samples is left for the tiles that handed them on [3]

A tile is not computed again if all that it would be seeded with is zero, nor are the last tiles, as many as the segment
says: they run with autograd in the forward pass, and the backward pass begins with what that left.

Carried samples exist with the carried-halo policy only; with recomputed halos tiles have nothing to do with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from streamplan.images import Source
from streamplan.runtime.reading import Index, RegionReader
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import CarryKey, Tile

Report = Callable[[int], None]
"""Called with the number of tiles done."""
Received = dict[CarryKey, Tensor]
"""Carried samples one tile receives."""
NOWHERE_ELSE: Mapping[str, Source] = MappingProxyType({})
"""Cut values are returned as tensors."""


@dataclass
class Carries:
    """What tiles have received or left for each other, by the index of the tile that receives."""

    by_tile: dict[Index, Received] = field(default_factory=dict)

    def leave(self, segment: Segment, index: Index, handed: Mapping[CarryKey, Tensor]) -> None:
        """Keep what the tile at `index` hands on."""
        for (name, axis), tensor in handed.items():
            receiver = next_along(index, axis)
            if receiver[axis] < len(segment.schedules[axis].steps):
                self.by_tile.setdefault(receiver, {})[name, axis] = tensor.detach()

    def take(self, index: Index) -> Received:
        """What the tile at `index` receives; it is gone afterwards."""
        return self.by_tile.pop(index, {})


def next_along(index: Index, axis: int) -> Index:
    """The next tile along an axis."""
    return (*index[:axis], index[axis] + 1, *index[axis + 1 :])


@dataclass(frozen=True)
class TileRun:
    """One tile, computed."""

    index: Index
    tile: Tile
    received: Received
    regions: list[Tensor]
    """What it read of the input maps."""
    blocks: Sequence[Tensor | None]
    """Its blocks of the cut values; None for a value that it contributes nothing to."""


def run_tile(
    segment: Segment,
    index: Index,
    read: Sequence[Tensor],
    smalls: Mapping[str, Tensor],
    received: Received,
    wanted: Collection[str] | None = None,
) -> TileRun:
    """Compute one tile.

    Args:
        segment: The segment.
        index: Step number along every axis.
        read: Its regions of the input maps, on the device.
        smalls: Small tensors by name.
        received: Carried samples.
        wanted: With autograd, the input maps that need a gradient; None runs without autograd.
    """
    device = read[0].device
    if wanted is not None:
        received = {
            key: x.to(device, non_blocking=True).detach().requires_grad_(x.is_floating_point())
            for key, x in received.items()
        }
    tile = Tile(segment, index, received, device)
    regions = []
    for name, x in zip(segment.part.input_maps, read, strict=True):
        region = segment.ordered(x)
        regions.append(region.requires_grad_() if wanted is not None and name in wanted else region)
    with torch.set_grad_enabled(wanted is not None):
        return TileRun(index, tile, received, regions, segment.tile(tile, smalls, *regions))


@dataclass
class ForwardResult:
    """What the forward pass leaves."""

    outputs: dict[str, Tensor]
    """The cut values, full size, but for those written elsewhere."""
    carries: Carries
    """What the tiles that will be computed again received."""
    kept: dict[Index, TileRun]
    """The tiles that will not, with their autograd graphs."""


def forward_pass(
    segment: Segment,
    maps: Sequence[Tensor | Source],
    smalls: Mapping[str, Tensor],
    device: torch.device,
    report: Report,
    *,
    wanted: Collection[str] | None,
    targets: Mapping[str, Source] = NOWHERE_ELSE,
) -> ForwardResult:
    """Compute the cut values.

    Args:
        segment: The segment.
        maps: Full-size input maps.
        smalls: Small tensors by name.
        device: Where tiles are computed.
        report: Progress callback.
        wanted: The input maps that need a gradient; None if there will be no backward pass, and nothing is kept for it.
        targets: Where cut values are written instead of into tensors.
    """
    outputs: dict[str, Tensor] = {}
    pending, carries = Carries(), Carries()
    kept: dict[Index, TileRun] = {}
    num_computed_again = segment.num_tiles if wanted is None else segment.num_tiles - segment.num_kept_tiles
    with RegionReader(segment, maps, segment.tile_indices(), device) as reader:
        for done, index in enumerate(segment.tile_indices()):
            received = pending.take(index)
            is_kept = done >= num_computed_again
            run = run_tile(segment, index, reader.take(index), smalls, received, wanted if is_kept else None)
            _place_blocks(segment, run, outputs, targets)
            pending.leave(segment, index, run.tile.handed)
            if is_kept:
                kept[index] = run
            elif wanted is not None and received:
                carries.by_tile[index] = {key: segment.stored(x) for key, x in received.items()}
            report(done + 1)
    return ForwardResult(outputs, carries, kept)


def _place_blocks(segment: Segment, run: TileRun, outputs: dict[str, Tensor], targets: Mapping[str, Source]) -> None:
    """Put what a tile contributes to the cut values in its place."""
    for (name, spec), block in zip(segment.outputs.items(), run.blocks, strict=True):
        if block is None:
            continue
        slices = run.tile.slices(name, blocks=True)
        if name in targets:
            targets[name].write(slices, block)
            continue
        if name not in outputs:
            outputs[name] = block.new_empty(spec.shape)
        outputs[name][slices] = block.detach()


def backward_pass(
    segment: Segment,
    maps: Sequence[Tensor | Source],
    leaves: Mapping[str, Tensor],
    device: torch.device,
    gradients: Mapping[str, Tensor],
    map_gradients: Mapping[str, Tensor | Source],
    forward: ForwardResult,
    report: Report,
) -> int:
    """Add up the gradients of all tiles.

    Args:
        segment: The segment.
        maps: Full-size input maps.
        leaves: Small tensors by name, as leaves; their `grad` accumulates.
        device: Where tiles are computed.
        gradients: Gradients of the cut values that have one.
        map_gradients: For the input maps that need a gradient, the full-size gradient, or the source whose gradient it
            is; added to.
        forward: What the forward pass left; used up.
        report: Progress callback.

    Returns:
        The number of tiles that were skipped, since all they would start from was zero.
    """
    num_skipped = 0
    left: dict[Index, Received] = {}
    order = list(segment.tile_indices())[::-1]
    read_again = [index for index in order if index not in forward.kept]
    with RegionReader(segment, maps, read_again, device) as reader:
        for done, index in enumerate(order):
            run, received = forward.kept.pop(index, None), forward.carries.take(index)
            arrived = {axis: left.get(next_along(index, axis), {}) for axis in range(len(index))}
            seeds = Seeds.of_tile(segment, index, gradients, arrived)
            if seeds.are_zero():
                left[index] = {}
                num_skipped += 1
            else:
                run = run or run_tile(segment, index, reader.take(index), leaves, received, map_gradients)  # [1]
                seeds.backward(segment, run, leaves)  # [2]
                _add_map_gradients(segment, run, map_gradients)
                left[index] = {key: x.grad for key, x in run.received.items() if x.grad is not None}  # [3]
            del run
            report(done + 1)
    return num_skipped


def _add_map_gradients(segment: Segment, run: TileRun, map_gradients: Mapping[str, Tensor | Source]) -> None:
    """Add what arrived at a tile's regions of the input maps."""
    for name, region in zip(segment.part.input_maps, run.regions, strict=True):
        if name not in map_gradients or region.grad is None:
            continue
        whole, slices = map_gradients[name], run.tile.slices(name)
        if isinstance(whole, Source):
            whole.add_gradient(slices, region.grad)
        else:
            whole[slices] += region.grad.to(whole.device)


@dataclass(frozen=True)
class Seeds:
    """The gradients that the backward pass of one tile starts from."""

    blocks: Mapping[str, Tensor]
    """By cut value."""
    handed: Mapping[CarryKey, Tensor]
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
        tile = Tile(segment, index)
        blocks = {name: gradient[tile.slices(name, blocks=True)] for name, gradient in gradients.items()}
        handed = {}
        for axis, seeds in arrived.items():
            for key in [key for key in seeds if key[1] == axis]:
                handed[key] = seeds.pop(key)
        return cls(blocks, handed)

    def are_zero(self) -> bool:
        """Whether nothing would come of the tile's backward pass."""
        return not any(bool(seed.any()) for seed in (*self.blocks.values(), *self.handed.values()))

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
