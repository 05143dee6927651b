"""Memory and time of a cut and a tiling, estimated from shapes: cheap enough for hundreds of candidates.

Bytes of tiles are those of their activations times a factor that one exact projection gives, since what autograd keeps
and what operations copy stays in proportion to them:

    peak = parameters + image + cut + carries + head, or what a tile has at hand, whichever phase needs most
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from streamplan.analysis.cuts import Cut
from streamplan.analysis.regions import StreamedPart, streamed_part
from streamplan.costs.phases import Circumstances, largest_tiles
from streamplan.costs.step import StepSimulator
from streamplan.costs.tilings import RecomputedTilings, Tiling, carried_overlaps, carried_tiling
from streamplan.costs.times import Clock
from streamplan.ir import OpCall
from streamplan.planning import PreparedPlan

_MOVES_OF_CARRIES = 4
"""Times that a carried sample is read and written: handed on, joined, and the same for its gradient."""


@dataclass(frozen=True)
class Estimate:
    """What a candidate takes."""

    peak_bytes: int
    """Estimated."""
    bytes_without_kept: int
    """The same if no tile were kept."""
    host_bytes: int
    """Carried samples in host memory."""
    recomputation: float
    """FLOPs beyond those of the plain net's forward and backward pass, as a share of these."""
    time: float
    """In seconds, or in FLOPs where nothing is calibrated."""


@dataclass(frozen=True)
class TileFactors:
    """Bytes of a tile over those of its activations."""

    forward: float
    """Most at once without autograd."""
    saved: float
    """What autograd keeps."""
    backward: float
    """Most at once while it is computed again and differentiated."""


@dataclass(frozen=True)
class _Resident:
    """Of the part behind a cut."""

    cut_bytes: int
    head_bytes: int
    """Its activations, and the largest gradient beside them."""
    seconds: float


class Estimator:
    """Estimates candidates of one model and call.

    Args:
        reference: A plan with carried halos, of the latest cut that is considered.
        simulator: Its parts, run without data.
        clock: Times of calls.
    """

    def __init__(self, reference: PreparedPlan, simulator: StepSimulator, clock: Clock) -> None:
        self.reference, self.clock = reference, clock
        self._own = simulator.own
        self._lowered = reference.lowered
        self._part = reference.part
        self.names = self._part.order
        self._bytes = self._column([self._activation_bytes(name) for name in self.names])
        self._whole = self._column([self._output_bytes(name) for name in self.names])
        self._flops = self._column([self._lowered.graph[name].flops for name in self.names])
        self._overlaps = carried_overlaps(self.names, self._part, reference.schedules)
        self._rows = {name: row for row, name in enumerate(self.names)}
        self._tilings: dict[tuple[str, tuple[str, ...], tuple[int, ...]], Tiling | None] = {}
        self._recomputed: dict[tuple[str, ...], RecomputedTilings] = {}
        self._masks: dict[tuple[str, ...], Tensor] = {}
        self._residents: dict[tuple[str, ...], _Resident] = {}
        self._known_times: dict[int, tuple[Tensor, Tensor]] = {}
        self.factors = self._find_factors(simulator)

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)

    def _activation_bytes(self, name: str) -> int:
        return 0 if name in self._lowered.inplace else self._lowered.graph[name].activation_bytes

    def _output_bytes(self, name: str) -> int:
        spec = self._lowered.graph[name].output
        carried = self._lowered.graph[name].flops or self._lowered.graph[name].activation_bytes
        return spec.num_bytes if spec is not None and carried else 0

    def _find_factors(self, simulator: StepSimulator) -> TileFactors:
        """From the tile of the reference that computes most."""
        segment = simulator.segment
        largest = largest_tiles(segment, list(segment.tile_indices()))[0]
        shares = self._column(self._reference_shares(largest))
        activations = max(1.0, float((shares * self._bytes).sum()))
        forward, backward = simulator.forward(largest), simulator.backward(largest)
        return TileFactors(
            forward.peak.total_bytes / activations,
            backward.saved_bytes / activations,
            backward.peak.total_bytes / activations,
        )

    def _reference_shares(self, index: Sequence[int]) -> list[float]:
        steps = [schedule.steps[i] for schedule, i in zip(self.reference.schedules, index, strict=True)]
        extents = self._part.extents
        return [
            math.prod(step.regions[name].size / extent for step, extent in zip(steps, extents[name], strict=True))
            for name in self.names
        ]

    @cached_property
    def image_extents(self) -> tuple[int, ...]:
        """Of the first input map."""
        return self._part.extents[self._part.input_maps[0]]

    def tiling(self, cut: Cut, tile_size: tuple[int, ...], halo: str) -> Tiling | None:
        """Tiles of a size; None where they are not possible."""
        key = (halo, cut.frontier if halo == "recompute" else (), tile_size)
        if key not in self._tilings:
            if halo == "recompute":
                if cut.frontier not in self._recomputed:
                    self._recomputed[cut.frontier] = RecomputedTilings(self.names, self._part_of(cut))
                self._tilings[key] = self._recomputed[cut.frontier].tiling(tile_size)
            else:
                self._tilings[key] = carried_tiling(self._overlaps, self.image_extents, tile_size)
        return self._tilings[key]

    def _part_of(self, cut: Cut) -> StreamedPart:
        """The streamed part before an earlier cut, as the tiles run it where the passes left its values."""
        lowered = self._lowered
        if all(name in self._rows for name in cut.frontier):
            streamed = cut.streamed.intersection(self.names)
            return streamed_part(lowered.graph, lowered.facts, streamed, cut.frontier)
        return streamed_part(self.reference.graph, self.reference.facts, cut.streamed, cut.frontier)

    def _mask(self, cut: Cut) -> Tensor:
        if cut.frontier not in self._masks:
            self._masks[cut.frontier] = self._column([float(name in cut.streamed) for name in self.names])
        return self._masks[cut.frontier]

    def estimate(self, cut: Cut, tiling: Tiling, circumstances: Circumstances) -> Estimate:
        """Memory and time of a candidate."""
        mask = self._mask(cut)
        carried = float((mask * tiling.handed_on * self._whole).sum())
        without = replace(circumstances, keep_tiles=0)
        peak, least = (self._peak_bytes(cut, tiling, around, mask, carried) for around in (circumstances, without))
        num_kept = min(circumstances.keep_tiles, tiling.num_tiles)
        again = (tiling.num_tiles - num_kept) / tiling.num_tiles
        flops = self.reference.plan.costs.flops
        extra = float((mask * self._flops * ((3 + again) * tiling.computed - 3)).sum())
        return Estimate(
            peak_bytes=round(peak),
            bytes_without_kept=round(min(peak, least)),
            host_bytes=round(carried) if circumstances.are_carries_on_host else 0,
            recomputation=rounded(extra / (3 * flops) if flops else 0.0),
            time=rounded(self._time(cut, tiling, mask, again, carried)),
        )

    def _peak_bytes(
        self, cut: Cut, tiling: Tiling, circumstances: Circumstances, mask: Tensor, carried: float
    ) -> float:
        """The phase that needs most."""
        own, factors, resident = self._own, self.factors, self._resident_part(cut)
        activations = float((mask * tiling.at_hand * self._bytes).sum())
        waiting = float((mask * tiling.waiting * self._whole).sum())
        image = own.images
        if circumstances.is_image_on_host:
            image = min(image, round(3 * image / tiling.num_tiles))
        base = own.parameters + own.buffers + image + own.made + circumstances.optimizer_bytes
        kept = min(circumstances.keep_tiles, tiling.num_tiles) * factors.saved * activations
        home, under_way = (0.0, waiting) if circumstances.are_carries_on_host else (carried, 0.0)
        with_autograd = kept + (factors.backward - factors.saved) * activations if kept else 0.0
        if circumstances.keep_tiles < tiling.num_tiles:
            with_autograd = max(with_autograd, factors.backward * activations + waiting)
        num_maps = 1 if resident.head_bytes else 2  # a cut that is the output is there beside its gradient
        return base + max(
            resident.cut_bytes + home + under_way + max(kept, factors.forward * activations),
            resident.cut_bytes + home + kept + resident.head_bytes,
            num_maps * resident.cut_bytes + home + own.sums + with_autograd,
        )

    def _time(self, cut: Cut, tiling: Tiling, mask: Tensor, again: float, carried: float) -> float:
        clock = self.clock
        forward, backward = self._call_times(round(math.log2(tiling.num_tiles)))
        seconds = float((mask * tiling.computed * ((1 + again) * forward + backward)).sum())
        per_call, count = clock.call_seconds(), float((mask * (tiling.at_hand > 0)).sum())
        seconds += tiling.num_tiles * count * ((1 + again) * per_call.forward + per_call.backward)
        moved = _MOVES_OF_CARRIES * carried * clock.byte_seconds(carried / tiling.num_tiles)
        return self._resident_part(cut).seconds + seconds + moved

    def _resident_part(self, cut: Cut) -> _Resident:
        """What stays as it is."""
        if cut.frontier not in self._residents:
            graph = self.reference.graph
            calls = [call for call in graph.calls if call.name not in cut.streamed]
            times = [self.clock.time(graph, call, _num_bytes, is_channels_last=False) for call in calls]
            cut_bytes = sum(spec.num_bytes for name in cut.frontier if (spec := graph[name].output) is not None)
            sizes = [call.activation_bytes for call in calls]
            head_bytes = sum(sizes) + max([*sizes, cut_bytes]) if any(sizes) else 0
            seconds = sum(time.forward + time.backward for time in times)
            self._residents[cut.frontier] = _Resident(cut_bytes, head_bytes, seconds)
        return self._residents[cut.frontier]

    def _call_times(self, log_num_tiles: int) -> tuple[Tensor, Tensor]:
        """Of all streamed calls at full size, computed in so many pieces."""
        if log_num_tiles not in self._known_times:
            graph, is_last = self._lowered.graph, "channels_last" in self._lowered.passes
            pieces = 2.0**log_num_tiles
            times = [
                self.clock.time(graph, graph[name], lambda call: _num_bytes(call) / pieces, is_channels_last=is_last)
                for name in self.names
            ]
            self._known_times[log_num_tiles] = (
                self._column([time.forward for time in times]),
                self._column([time.backward for time in times]),
            )
        return self._known_times[log_num_tiles]

    @cached_property
    def plain_time(self) -> float:
        """A forward and a backward pass of the plain net."""
        graph = self.reference.graph
        times = [self.clock.time(graph, call, _num_bytes, is_channels_last=False) for call in graph.calls]
        calls = self.clock.call_seconds()
        return rounded(sum(t.forward + t.backward for t in times) + len(times) * (calls.forward + calls.backward))


def rounded(number: float) -> float:
    """To nine digits, so that plans do not depend on the order in which a processor adds up."""
    return float(f"{number:.9g}")


def _num_bytes(call: OpCall) -> float:
    return float(call.output.num_bytes) if call.output is not None else 0.0
