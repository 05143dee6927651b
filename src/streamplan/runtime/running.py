"""One tile, computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamplan.dtypes import is_differentiable
from streamplan.runtime.joining import Copy, cloned
from streamplan.runtime.segment import Segment
from streamplan.runtime.slivers import exact_slivers
from streamplan.runtime.tile import CarryKey, Tile

Index = tuple[int, ...]
"""Step number of a tile along every axis."""
Received = dict[CarryKey, Tensor]
"""Carried samples one tile receives."""


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
    copy: Copy = cloned,
) -> TileRun:
    """Compute one tile.

    Args:
        segment: The segment.
        index: Step number along every axis.
        read: Its regions of the input maps, on the device.
        smalls: Small tensors by name.
        received: Carried samples.
        wanted: With autograd, the input maps that need a gradient; None runs without autograd.
        copy: Makes the tensors that are handed on.
    """
    device = read[0].device
    if wanted is not None:
        received = {key: x.detach().requires_grad_(is_differentiable(x.dtype)) for key, x in received.items()}
    tile = Tile(segment, index, received, device, copy)
    regions = []
    for name, x in zip(segment.part.input_maps, read, strict=True):
        region = segment.ordered(x).detach()
        regions.append(region.requires_grad_() if wanted is not None and name in wanted else region)
    with torch.set_grad_enabled(wanted is not None):
        return TileRun(index, tile, received, regions, compute_blocks(segment, tile, smalls, regions))


def compute_blocks(
    segment: Segment, tile: Tile, smalls: Mapping[str, Tensor], regions: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Run the program of a tile.

    Args:
        segment: The segment.
        tile: The tile.
        smalls: Small tensors by name.
        regions: Its regions of the input maps, in the memory order of the tiles.
    """
    with exact_slivers(regions[0].device, smalls):
        return segment.tile(tile, smalls, *regions)
