"""The memory of a training step, phase by phase, from what its tiles, its head and its folded tensors take.

    forward     parameters, image, tensors made for tiles, cut, carried samples, kept tiles, one tile
    head        the same without the tile, and what the resident part takes, forward and backward
    backward    parameters, image, tensors made for tiles, output, gradient of the cut, carried samples and gradients
                left for them, kept tiles, sums of gradients, gradients of the resident part, one tile with autograd
    end         parameters, image, sums of gradients and the parameters' gradients

Gradients of parameters are not there when a step begins, as `zero_grad()` leaves them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamplan.costs.carries import count_carried
from streamplan.costs.footprints import BackwardFootprint, Index, Peak
from streamplan.costs.step import StepSimulator
from streamplan.planning.projection import MemoryProjection, PhaseProjection, ProjectedItem
from streamplan.runtime.segment import Segment

_MOST_SIMULATED = ((200, 6), (400, 3), (math.inf, 1))
"""Tiles that are simulated of nets with fewer calls than that: those of a deep net take long, and are more alike."""
_TELLING = 0.6
"""Size of a tile that may need most, over the size of the largest."""
_REGIONS_AT_ONCE = 3
"""Regions of an image that is read tile by tile: one that is computed, and two that are on their way."""
_LEAST_MARGIN = 2**18
_MARGIN = 0.01
"""Small tensors that are not followed one by one, such as indices and masks, as a share of what tiles take."""


@dataclass(frozen=True)
class Circumstances:
    """What a projection depends on besides the plan's cut, tiles and halo."""

    keep_tiles: int
    """Tiles that are not computed again."""
    are_carries_on_host: bool
    is_image_on_host: bool
    """Whether tiles read the image from host memory or from an array."""
    optimizer_bytes: int = 0
    """State that the optimiser keeps."""


def project_step(simulator: StepSimulator, circumstances: Circumstances) -> MemoryProjection:
    """What a training step needs.

    Args:
        simulator: The plan's parts.
        circumstances: What is kept where.
    """
    return _Step(simulator, circumstances).project()


def least_step_bytes(simulator: StepSimulator, circumstances: Circumstances) -> int:
    """What a training step needs at least.

    Besides the first tile of the backward pass and kept ones, one tile is run each way instead of several, and no
    margin is added. That takes about a quarter of the time of `project_step`, which is never less.
    """
    return _Step(simulator, circumstances, most_tiles=1).bytes_without_margin()


class _Step:
    """A step whose parts are put together, of tiles that may need most only so many if told."""

    def __init__(self, simulator: StepSimulator, circumstances: Circumstances, most_tiles: int | None = None) -> None:
        self._simulator, self._circumstances = simulator, circumstances
        segment = simulator.segment
        indices = list(segment.tile_indices())
        num_kept = min(circumstances.keep_tiles, len(indices))
        kept, others = indices[len(indices) - num_kept :], indices[: len(indices) - num_kept]
        later = others[: len(indices) - 1]
        self._forward = [simulator.forward(index) for index in largest_tiles(segment, others)[:most_tiles]]
        self._backward = [simulator.backward(index) for index in largest_tiles(segment, later)[:most_tiles]]
        self._first = simulator.backward(indices[-1], is_first=True)
        self._kept = [simulator.backward(index) for index in kept[:-1]] + [self._first] * bool(kept)
        self._carried = count_carried(segment, indices)
        self._cut_bytes = simulator.prepared.plan.costs.cut_bytes
        self._is_returned = any(name in simulator.prepared.graph.outputs for name in segment.outputs)

    def project(self) -> MemoryProjection:
        """All phases."""
        base = self._base()
        phases = (
            _phase("forward", _peak(self._forward_peaks()).operation, base, self._forward_items()),
            _phase("head", self._simulator.head.peak.operation, base, self._head_items()),
            _phase("backward", self._backward_operation(), base, self._backward_items()),
            _phase("end", "", base, self._end_items()),
        )
        host_bytes = self._carried.all_bytes if self._circumstances.are_carries_on_host else 0
        return MemoryProjection(phases, host_bytes)

    def bytes_without_margin(self) -> int:
        """The most that a phase takes, without a margin for small tensors."""
        items = (self._forward_items(), self._head_items(), self._backward_items(), self._end_items())
        return _total(self._base()) + max(map(_total, items))

    def _base(self) -> dict[str, int]:
        """What is there in all phases."""
        own = self._simulator.own
        return {
            "parameters": own.parameters,
            "buffers": own.buffers,
            "optimiser state": self._circumstances.optimizer_bytes,
            **self._image(),
            "tensors made for tiles": own.made,
        }

    def _image(self) -> dict[str, int]:
        if not self._circumstances.is_image_on_host:
            return {"image": self._simulator.own.images}
        segment = self._simulator.segment
        inputs = segment.part.input_maps
        largest = max(
            _region_bytes(segment, index, inputs) for index in largest_tiles(segment, list(segment.tile_indices()))
        )
        return {"regions of the image": _REGIONS_AT_ONCE * round(largest)}

    def _kept_carries(self) -> dict[str, int]:
        """Carried samples that wait for the backward pass."""
        return {} if self._circumstances.are_carries_on_host else {"carried samples": self._carried.block_bytes}

    def _forward_peaks(self) -> list[Peak]:
        return [found.peak for found in self._forward] + [found.forward_peak for found in self._kept]

    def _forward_items(self) -> dict[str, int]:
        items = {"cut": self._cut_bytes, **self._kept_carries()}
        if self._circumstances.are_carries_on_host:
            items["carried samples on their way"] = self._carried.waiting_bytes
        peak = _peak([found.peak for found in self._forward])
        if self._kept:
            saved = sum(found.saved_bytes for found in self._kept)
            above = max(found.forward_peak.total_bytes - found.saved_bytes for found in self._kept)
            if saved + above >= peak.total_bytes:
                return {**items, "kept tiles": saved, "inside one tile": above}
        return {**items, "one tile": peak.tensor_bytes, "work space of kernels": peak.reserve_bytes}

    def _head_items(self) -> dict[str, int]:
        peak = self._simulator.head.peak
        return {
            "cut": self._cut_bytes,
            **self._kept_carries(),
            "kept tiles": sum(found.saved_bytes for found in self._kept),
            "resident part": peak.tensor_bytes,
            "work space of kernels": peak.reserve_bytes,
        }

    def _backward_items(self) -> dict[str, int]:
        head = self._simulator.head
        items = {
            "output": head.output_bytes,
            "cut": self._cut_bytes if self._is_returned else 0,
            "gradient of the cut": head.cut_gradient_bytes or self._cut_bytes,
            "gradients of the resident part": head.gradient_bytes,
            **self._kept_carries(),
        }
        return items | max((tile_items for tile_items, _ in self._backward_moments()), key=_total)

    def _backward_operation(self) -> str:
        return max(self._backward_moments(), key=lambda moment: _total(moment[0]))[1].operation

    def _backward_moments(self) -> Iterator[tuple[dict[str, int], Peak]]:
        """What tiles take when they are differentiated: the first, of which others are kept, and later ones."""
        saved = sum(found.saved_bytes for found in self._kept)
        yield {"kept tiles": saved, **_tile_items(self._first, min(saved, self._first.saved_bytes))}, self._first.peak
        later = {
            "sums of gradients": self._simulator.own.sums,
            "gradients of carried samples": self._carried.waiting_bytes,
        }
        for place in range(len(self._kept) - 1):
            found = self._kept[place]
            saved = sum(other.saved_bytes for other in self._kept[: place + 1])
            yield {**later, "kept tiles": saved, **_tile_items(found, found.saved_bytes)}, found.peak
        for found in self._backward:
            yield {**later, **_tile_items(found, 0)}, found.peak

    def _end_items(self) -> dict[str, int]:
        """When the last tile is done, or later, when tensors made for tiles go as their gradients are passed on."""
        own, head = self._simulator.own, self._simulator.head
        held = {"output": head.output_bytes, "cut": self._cut_bytes if self._is_returned else 0}
        is_held = self._is_returned and len(self._simulator.segment.outputs) > 1  # autograd lets several go together
        at_first = {"gradient of the cut": self._cut_bytes if is_held else 0}
        later = {
            "tensors made for tiles": -own.made,
            "gradients of parameters": own.streamed_gradients + head.gradient_bytes,
        }
        return held | {"sums of gradients": own.sums} | max((at_first, later), key=_total)


def _peak(peaks: Sequence[Peak]) -> Peak:
    """The largest."""
    return max(peaks, key=lambda peak: peak.total_bytes, default=Peak(0, 0))


def _total(items: Mapping[str, int]) -> int:
    return sum(items.values())


def _tile_items(found: BackwardFootprint, saved: int) -> dict[str, int]:
    """A tile with autograd, but for what is counted as saved."""
    what = "inside one tile" if saved else "one tile"
    return {what: found.peak.tensor_bytes - saved, "work space of kernels": found.peak.reserve_bytes}


def _with_margin(items: Mapping[str, int]) -> dict[str, int]:
    """With something for small tensors."""
    of_tiles = sum(count for what, count in items.items() if what in ("one tile", "inside one tile", "carried samples"))
    return {**items, "small tensors": max(_LEAST_MARGIN, round(_MARGIN * of_tiles))}


def _phase(name: str, operation: str, base: Mapping[str, int], of_phase: Mapping[str, int]) -> PhaseProjection:
    """The items of a phase, added up by name."""
    totals: dict[str, int] = {}
    for part in (base, _with_margin(of_phase)):
        for what, count in part.items():
            totals[what] = totals.get(what, 0) + count
    items = [ProjectedItem(what, count) for what, count in totals.items() if count > 0]
    return PhaseProjection(name, tuple(sorted(items, key=lambda item: -item.num_bytes)), operation)


def largest_tiles(segment: Segment, indices: Sequence[Index]) -> list[Index]:
    """The largest tile of every place in the image: what autograd keeps of a sample differs between them.

    Places are the first step along an axis, those after it, and those when the image has ended; small tiles are left
    out.
    """
    sizes: dict[Index, tuple[float, Index]] = {}
    by_kind: dict[Index, Index] = {}
    for index in indices:
        by_kind.setdefault(segment.kind(index), index)
    for index in by_kind.values():
        size, place = _region_bytes(segment, index, tuple(segment.maps)), _place(segment, index)
        sizes[place] = max(sizes.get(place, (0.0, index)), (size, index))
    ranked = sorted(sizes.values(), reverse=True)
    most = next(most for calls, most in _MOST_SIMULATED if len(segment.part.order) < calls)
    return [index for size, index in ranked[:most] if size >= _TELLING * ranked[0][0]]


def _place(segment: Segment, index: Index) -> Index:
    """Of a tile, along each axis: 0 for the first step, 2 when the image has ended, 1 otherwise."""
    pairs = zip(index, segment.schedules, strict=True)
    return tuple(0 if i == 0 else 1 + (s.boundaries[i + 1] == s.boundaries[-1]) for i, s in pairs)


def _region_bytes(segment: Segment, index: Index, names: Sequence[str]) -> float:
    """Bytes of all that a tile has at hand of some values."""
    steps = [schedule.steps[i] for schedule, i in zip(segment.schedules, index, strict=True)]
    total = 0.0
    for name in names:
        share = 1.0
        for step, extent in zip(steps, segment.part.extents[name], strict=True):
            share *= step.regions[name].size / extent
        total += share * segment.maps[name].num_bytes
    return total
