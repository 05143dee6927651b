"""What the tiles of a plan take, by running their program on tensors without data.

Tiles of a kind (`runtime.kinds`) take the same, so a few tiles tell all: those that have most positions to compute, and
those that are kept.

    forward     peak above what was there before, without autograd
    saved       what is there when the forward pass has run with autograd
    backward    peak above what was there before, while the tile is computed again and differentiated
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamplan.costs.liveness import LiveBytes, Reserve
from streamplan.dtypes import is_differentiable
from streamplan.runtime.running import Received, run_tile
from streamplan.runtime.seeds import Seeds
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import CarryKey, Tile
from streamplan.trace.replay.known_results import KnownResults

META = torch.device("meta")
Index = tuple[int, ...]


@dataclass(frozen=True)
class Peak:
    """The most bytes at once."""

    tensor_bytes: int
    """Of tensors."""
    total_bytes: int
    """With what operations take besides, at the moment when both together are most."""
    operation: str = ""
    """The one that runs then."""

    @property
    def reserve_bytes(self) -> int:
        """What operations take besides."""
        return self.total_bytes - self.tensor_bytes


def peak_seen(live: LiveBytes) -> Peak:
    """The most so far."""
    return Peak(live.peak_bytes, live.peak_with_reserve, live.peak_operation)


@dataclass(frozen=True)
class ForwardFootprint:
    """Of a tile without autograd."""

    peak: Peak


@dataclass(frozen=True)
class BackwardFootprint:
    """Of a tile with autograd."""

    saved_bytes: int
    """When its forward pass has run."""
    forward_peak: Peak
    """Of that forward pass."""
    peak: Peak
    """Of forward and backward pass."""


class TileSimulator:
    """Runs tiles of a segment without data.

    Args:
        segment: The segment.
        smalls: Its small tensors, on the meta device.
        wanted: Input maps that need a gradient.
        reserve: What operations take besides their tensors.
        results: What calls of the step gave before.
    """

    def __init__(
        self,
        segment: Segment,
        smalls: Mapping[str, Tensor],
        wanted: Collection[str] = (),
        reserve: Reserve | None = None,
        results: KnownResults | None = None,
    ) -> None:
        self._segment = segment
        self._wanted = frozenset(wanted)
        self._reserve = reserve
        self._results = KnownResults() if results is None else results
        self._smalls = {name: x.detach() for name, x in smalls.items()}
        self._leaves = {name: x.detach().requires_grad_(x.requires_grad) for name, x in smalls.items()}
        self._sums = {name: torch.empty_like(leaf) for name, leaf in self._leaves.items() if leaf.requires_grad}
        self._maps = {
            name: torch.empty(segment.maps[name].shape, dtype=segment.maps[name].dtype, device=META)
            for name in segment.part.input_maps
        }

    def forward(self, index: Index) -> ForwardFootprint:
        """Compute a tile without autograd."""
        read, received = self._read(index), self._received(index)

        def copy(x: Tensor, memory_format: torch.memory_format) -> Tensor:
            return elsewhere.detach().expand(x.shape)

        elsewhere = torch.empty((), device=META)
        known = [*read, *received.values(), *self._smalls.values(), elsewhere]
        with LiveBytes(self._reserve, known, self._results) as live:
            run = run_tile(self._segment, index, read, self._smalls, received, None, copy)
            del run
        return ForwardFootprint(peak_seen(live))

    def backward(self, index: Index, *, is_first: bool = False) -> BackwardFootprint:
        """Compute a tile with autograd and go back.

        Args:
            index: The tile.
            is_first: Whether it is the first of the pass, whose gradients of small tensors begin their sums; they count
                as its own.
        """
        for name, leaf in self._leaves.items():
            leaf.grad = None if is_first else self._sums.get(name)
        read, received = self._read(index), self._received(index)
        gradients = {
            name: torch.empty(spec.shape, dtype=spec.dtype, device=META)
            for name, spec in self._segment.outputs.items()
            if is_differentiable(spec.dtype)
        }
        tile = Tile(self._segment, index)
        blocks = {name: x[tile.slices(name, blocks=True)] for name, x in gradients.items()}
        seeds = Seeds(index, blocks, self._handed_gradients(index))
        known = [*read, *received.values(), *self._leaves.values(), *gradients.values(), *seeds.handed.values()]
        known += [leaf.grad for leaf in self._leaves.values() if leaf.grad is not None]
        with LiveBytes(self._reserve, known, self._results) as live:
            run = run_tile(self._segment, index, read, self._leaves, received, self._wanted)
            saved, forward_peak = live.current_bytes, peak_seen(live)
            seeds.backward(self._segment, run, self._leaves)
            del run
        return BackwardFootprint(saved, forward_peak, peak_seen(live))

    def _read(self, index: Index) -> list[Tensor]:
        """What a tile reads of the input maps: views of them."""
        tile = Tile(self._segment, index)
        return [x[tile.slices(name)] for name, x in self._maps.items()]

    def _received(self, index: Index) -> Received:
        """What is carried to a tile."""
        return {key: self._empty(key[0], shape) for key, shape in carried_shapes(self._segment, index, "in").items()}

    def _handed_gradients(self, index: Index) -> Received:
        """Gradients of what a tile hands on."""
        shapes = carried_shapes(self._segment, index, "out").items()
        return {key: self._empty(key[0], shape) for key, shape in shapes}

    def _empty(self, name: str, shape: Sequence[int]) -> Tensor:
        spec = self._segment.maps[name]
        return torch.empty(
            tuple(shape), dtype=spec.dtype, device=META, memory_format=self._segment.memory_format(len(shape))
        )


def carried_shapes(segment: Segment, index: Index, way: str) -> dict[CarryKey, list[int]]:
    """Shapes of what a tile receives ("in") or hands on ("out"), by value and axis.

    Samples are joined axis by axis: along one axis, they span what is at hand along the axes before it and what is new
    along those after.
    """
    tile = Tile(segment, index)
    shapes: dict[CarryKey, list[int]] = {}
    for axis, step in enumerate(tile.steps):
        for name, interval in (step.carried_in if way == "in" else step.carried_out).items():
            is_last = way == "out" and index[axis] + 1 == len(segment.schedules[axis].steps)
            shape = list(segment.maps[name].shape)
            for other, (dim, its) in enumerate(zip(segment.dims[name], tile.steps, strict=True)):
                along = its.regions[name] if other < axis else its.computed[name]
                shape[dim] = interval.size if other == axis else along.size
            if not is_last and all(shape):
                shapes[name, axis] = shape
    return shapes
