"""A streamed segment: maps and small tensors in, maps out, computed tile by tile.

    (maps_in, smalls_in)  ->  maps_out

The segment is data (regions, layouts) and one function, the emitted `tile`; it holds no tensor and no state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from streamplan.analysis.regions import StreamedEdge, StreamedPart
from streamplan.analysis.schedule import AxisSchedule, tile_indices
from streamplan.ir import TensorSpec
from streamplan.planning.memory import TileMemory
from streamplan.runtime.kinds import Kind, step_kinds

TileFunction = Callable[..., tuple[torch.Tensor | None, ...]]
"""`tile(t, w, *maps)`, as emitted."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Everything the tile loop needs."""

    part: StreamedPart
    """Edges and extents of the streamed calls."""
    schedules: tuple[AxisSchedule, ...]
    """Steps along each image axis."""
    dims: Mapping[str, tuple[int, ...]]
    """Tensor dimension of each image axis, for every value."""
    outputs: Mapping[str, TensorSpec]
    """Full-size cut values, in the order `tile` returns them."""
    smalls: tuple[str, ...]
    """Names of the small tensors, in the order they are passed."""
    tile: TileFunction
    """Computes one tile."""
    reached: Mapping[str, frozenset[str]]
    """Input maps and small tensors that each cut value is computed from, differentiably."""
    maps: Mapping[str, TensorSpec]
    """Every value at full size."""
    memory: TileMemory
    """What its tiles take."""
    narrowed: frozenset[str] = frozenset()
    """Small tensors that autocast narrows wherever they are read."""
    is_channels_last: bool = False
    """Whether tiles run in channels-last memory order."""
    keeps_carries_on_host: bool = False
    """Whether carried samples wait for the backward pass in host memory."""
    num_kept_tiles: int = 0
    """How many tiles, from the last, keep their autograd graphs from the forward pass for the backward pass."""

    def blank(self, name: str, extents: list[int], device: torch.device | None) -> torch.Tensor:
        """A value with other extents along the image axes, one of which is zero: a tensor without samples."""
        spec = self.maps[name]
        shape = list(spec.shape)
        for dim, extent in zip(self.dims[name], extents, strict=True):
            shape[dim] = extent
        return torch.empty(shape, dtype=spec.dtype, device=device)

    def ordered(self, x: torch.Tensor) -> torch.Tensor:
        """A region, a weight or a gradient in the memory order of the tiles."""
        return x.contiguous(memory_format=self.memory_format(x.dim()))

    def copied(self, x: torch.Tensor) -> torch.Tensor:
        """A copy in the memory order of the tiles."""
        return x.clone(memory_format=self.memory_format(x.dim()))

    def memory_format(self, rank: int) -> torch.memory_format:
        """The memory order of the tiles, for tensors of a rank."""
        channels_last = {4: torch.channels_last, 5: torch.channels_last_3d} if self.is_channels_last else {}
        return channels_last.get(rank, torch.contiguous_format)

    @cached_property
    def edges(self) -> Mapping[tuple[str, str], StreamedEdge]:
        """Edges by (reader, source)."""
        return {edge.key: edge for edge in self.part.edges}

    @cached_property
    def first_source(self) -> Mapping[str, str]:
        """The first map each call reads."""
        table: dict[str, str] = {}
        for edge in self.part.edges:
            table.setdefault(edge.reader, edge.source)
        return table

    @cached_property
    def by_kind(self) -> dict[Hashable, Any]:
        """What tiles have worked out for all of their kind; they fill it."""
        return {}

    @cached_property
    def _step_kinds(self) -> tuple[tuple[int, ...], ...]:
        return tuple(step_kinds(schedule) for schedule in self.schedules)

    def kind(self, index: tuple[int, ...]) -> Kind:
        """Equal for tiles that are alike but for where they are."""
        return tuple(kinds[i] for kinds, i in zip(self._step_kinds, index, strict=True))

    def tile_indices(self) -> Iterator[tuple[int, ...]]:
        """Step numbers of every tile, in raster order."""
        return tile_indices(self.schedules)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        count = 1
        for schedule in self.schedules:
            count *= len(schedule.steps)
        return count
