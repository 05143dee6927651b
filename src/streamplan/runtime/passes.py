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

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from streamplan.images import Source
from streamplan.runtime.arena import Arena
from streamplan.runtime.carries import Handover, KeptCarries, next_along
from streamplan.runtime.fetching import HostWriter
from streamplan.runtime.joining import cloned
from streamplan.runtime.progress import Progress
from streamplan.runtime.reading import RegionReader
from streamplan.runtime.runners import TileRunner
from streamplan.runtime.running import Index, Received, TileRun
from streamplan.runtime.seeds import BlockFlags, Seeds
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import Tile

NOWHERE_ELSE: Mapping[str, Source] = MappingProxyType({})
"""Cut values are returned as tensors."""


@dataclass
class ForwardResult:
    """What the forward pass leaves."""

    outputs: dict[str, Tensor]
    """The cut values, full size, but for those written elsewhere."""
    carries: KeptCarries
    """What the tiles that will be computed again received."""
    kept: dict[Index, TileRun]
    """The tiles that will not, with their autograd graphs."""


def forward_pass(
    runner: TileRunner,
    maps: Sequence[Tensor | Source],
    device: torch.device,
    progress: Progress,
    *,
    wanted: Collection[str] | None,
    targets: Mapping[str, Source] = NOWHERE_ELSE,
) -> ForwardResult:
    """Compute the cut values.

    Args:
        runner: Runs tiles.
        maps: Full-size input maps.
        device: Where tiles are computed.
        progress: Told about every tile.
        wanted: The input maps that need a gradient; None if there will be no backward pass, and nothing is kept for it.
        targets: Where cut values are written instead of into tensors.
    """
    segment = runner.segment
    outputs: dict[str, Tensor] = {}
    is_kept_here = wanted is not None and not (segment.keeps_carries_on_host and device.type != "cpu")
    copy = Arena(segment.memory.plan.costs.carry_bytes).copy if is_kept_here else cloned
    handover, carries = Handover(segment), KeptCarries(segment, device)
    kept: dict[Index, TileRun] = {}
    num_computed_again = segment.num_tiles if wanted is None else segment.num_tiles - segment.num_kept_tiles
    writer = HostWriter(device)
    with progress.running("forward"), RegionReader(segment, maps, segment.tile_indices(), device) as reader:
        for done, index in enumerate(segment.tile_indices()):
            progress.enter("forward", index)
            received = handover.take(index)
            is_kept = done >= num_computed_again
            run = runner.compute(index, reader.take(index), received, wanted if is_kept else None, copy)
            _place_blocks(segment, run, outputs, targets, writer)
            handover.leave(index, run.tile.handed)
            if is_kept:
                kept[index] = run
            elif wanted is not None and received:
                carries.keep(index, received)
            del run  # what it read and computed is not needed while the next tile runs
            progress.leave()
        writer.finish()
    return ForwardResult(outputs, carries, kept)


def _place_blocks(
    segment: Segment, run: TileRun, outputs: dict[str, Tensor], targets: Mapping[str, Source], writer: HostWriter
) -> None:
    """Put what a tile contributes to the cut values in its place."""
    for (name, spec), block in zip(segment.outputs.items(), run.blocks, strict=True):
        if block is None:
            continue
        slices = run.tile.slices(name, blocks=True)
        if name in targets:
            writer.send(block, partial(targets[name].write, slices))
            continue
        if name not in outputs:
            outputs[name] = block.new_empty(spec.shape)
        outputs[name][slices] = block.detach()


def backward_pass(
    runner: TileRunner,
    maps: Sequence[Tensor | Source],
    device: torch.device,
    gradients: Mapping[str, Tensor],
    map_gradients: Mapping[str, Tensor | Source],
    forward: ForwardResult,
    progress: Progress,
) -> int:
    """Add up the gradients of all tiles.

    Args:
        runner: Runs tiles; what arrives at its small tensors adds up there.
        maps: Full-size input maps.
        device: Where tiles are computed.
        gradients: Gradients of the cut values that have one.
        map_gradients: For the input maps that need a gradient, the full-size gradient, or the source whose gradient it
            is; added to.
        forward: What the forward pass left; used up.
        progress: Told about every tile.

    Returns:
        The number of tiles that were skipped, since all they would start from was zero.
    """
    segment, num_skipped = runner.segment, 0
    left: dict[Index, Received] = {}
    order = list(segment.tile_indices())[::-1]
    read_again = [index for index in order if index not in forward.kept]
    flags, writer = BlockFlags.find(segment, gradients, device), HostWriter(device)
    with progress.running("backward"), RegionReader(segment, maps, read_again, device) as reader:
        for index, following in zip(order, (*order[1:], None), strict=True):
            progress.enter("backward", index)
            run, received = forward.kept.pop(index, None), forward.carries.take(index)
            forward.carries.bring(following)
            later = {axis: left.get(next_along(index, axis), {}) for axis in range(len(index))}
            seeds = Seeds.of_tile(segment, index, gradients, later)
            if seeds.are_zero(flags):
                left[index] = {}
                num_skipped += 1
            else:
                arrived = (
                    runner.differentiate(reader.take(index), received, map_gradients, seeds, progress)  # [1] [2]
                    if run is None
                    else runner.go_back(run, seeds)
                )
                _add_map_gradients(segment, index, arrived.regions, map_gradients, writer)
                left[index] = arrived.received  # [3]
            del run
            progress.leave()
        writer.finish()
    runner.finish()
    return num_skipped


def _add_map_gradients(
    segment: Segment,
    index: Index,
    arrived: Sequence[Tensor | None],
    map_gradients: Mapping[str, Tensor | Source],
    writer: HostWriter,
) -> None:
    """Add what arrived at a tile's regions of the input maps."""
    for name, gradient in zip(segment.part.input_maps, arrived, strict=True):
        if name not in map_gradients or gradient is None:
            continue
        whole, slices = map_gradients[name], Tile(segment, index).slices(name)
        if isinstance(whole, Source):
            writer.send(gradient, partial(whole.add_gradient, slices))
        elif whole.device == gradient.device:
            whole[slices] += gradient
        else:
            writer.send(gradient, whole[slices].add_)
