"""Receptive fields were the image unbounded: what a position away from the borders reads.

Pulls compose position by position, without clamping, over as much of each map as the positions asked for need:

    conv k3 s2 p1 after conv k3 p1:  out 5 reads [9, 12) of the first conv, [8, 13) of the image

A map that looks positions up in a table is continued with the table's own period, a folded border with the map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from streamplan.analysis.regions import StreamedEdge, StreamedPart
from streamplan.geometry import (
    AffineWindow,
    AveragingWindow,
    AxisMap,
    FoldedPadding,
    FoldedWindow,
    IndexTable,
    Interval,
    LinearResize,
    ScatterWindow,
    hull,
)

NUM_MIDDLE = 32
"""Positions in the middle of a map whose reads stand for those away from the borders."""
NOTHING = 1 << 40
"""Start of a position that reads nothing; its stop is the negative."""


@dataclass(frozen=True)
class Reads:
    """What the positions of a value read of one input map."""

    positions: Interval
    """Positions of the value, unbounded."""
    start: Tensor
    """First sample that each of them reads; meaningless where it reads none."""
    stop: Tensor
    """One past the last sample; not after `start` where none is read."""
    is_inside: Tensor
    """Whether all that lies between the position and the image stays within the maps: no border is met."""

    def of(self, positions: Interval) -> Reads:
        """The part for some of the positions."""
        part = slice(positions.start - self.positions.start, positions.stop - self.positions.start)
        return Reads(positions, self.start[part], self.stop[part], self.is_inside[part])


def unbounded_reads(part: StreamedPart, axis: int, source: str, wanted: Mapping[str, Interval]) -> dict[str, Reads]:
    """What positions of streamed values read of the input map `source`.

    Args:
        part: The streamed part.
        axis: Image axis, from 0.
        source: An input map.
        wanted: Positions, for every streamed value.

    Returns:
        The reads of every streamed value that depends on `source`, for at least the positions wanted.
    """
    domains = _domains(part, axis, wanted)
    domain = domains[source]
    everywhere = torch.arange(domain.start, domain.stop)
    inside = (everywhere >= 0) & (everywhere < part.extents[source][axis])
    reads = {source: Reads(domain, everywhere, everywhere + 1, inside)}
    for edge in part.edges:
        if edge.source not in reads:
            continue
        found = _read_through(edge, axis, domains[edge.reader], reads[edge.source], part)
        other = reads.get(edge.reader)
        if other is not None:
            found = Reads(
                found.positions,
                torch.minimum(found.start, other.start),
                torch.maximum(found.stop, other.stop),
                found.is_inside & other.is_inside,
            )
        reads[edge.reader] = found
    return reads


def receptive_fields(part: StreamedPart, axis: int) -> dict[str, int]:
    """Samples that one position of each streamed value reads of an input map, were the image unbounded.

    The most over the positions in the middle of the value, and over the input maps.

    Args:
        part: The streamed part.
        axis: Image axis, from 0.
    """
    fields: dict[str, int] = dict.fromkeys(part.order, 0)
    for source in part.input_maps:
        for name, reads in middle_reads(part, axis, source).items():
            fields[name] = max(fields[name], longest_read(reads) or 0)
    return fields


def middle_reads(part: StreamedPart, axis: int, source: str) -> dict[str, Reads]:
    """What the positions in the middle of each value that depends on an input map read of it."""
    wanted = {name: middle_of(part.extents[name][axis]) for name in part.order}
    reads = unbounded_reads(part, axis, source, wanted)
    return {name: reads[name].of(positions) for name, positions in wanted.items() if name in reads}


def middle_of(extent: int) -> Interval:
    """The positions in the middle of a map."""
    start = max(0, (extent - NUM_MIDDLE) // 2)
    return Interval(start, min(extent, start + NUM_MIDDLE))


def longest_read(reads: Reads) -> int | None:
    """Most samples that one position reads, from the first to the last; None if no position reads any."""
    sizes = reads.stop - reads.start
    longest = int(sizes.max()) if len(sizes) else 0
    return longest if longest > 0 else None


class EffectiveStride(NamedTuple):
    """How far apart the positions of a value are."""

    samples: Fraction
    """Image samples per position."""
    is_agreed: bool
    """Whether all paths from the image agree on it."""
    period: int
    """Positions after which what they read repeats, moved by a whole number of samples."""


def effective_strides(part: StreamedPart, axis: int, source: str) -> dict[str, EffectiveStride]:
    """The effective stride of every value that depends on `source`.

    Where paths of different strides meet, such as a map resized to the size of an odd one, the first path counts.
    """
    strides = {source: EffectiveStride(Fraction(1), True, 1)}
    for edge in part.edges:
        if edge.source not in strides:
            continue
        samples, is_agreed, period = strides[edge.source]
        num_inputs, num_outputs = part.extents[edge.source][axis], part.extents[edge.reader][axis]
        own = stride_of(edge.axis_maps[axis], num_inputs, num_outputs)
        moved, repeats = (num_inputs, num_outputs) if _is_table(edge.axis_maps[axis]) else own.as_integer_ratio()
        samples, period = samples if own == 1 else samples * own, repeats * (period // math.gcd(period, moved))
        known = strides.get(edge.reader, EffectiveStride(samples, True, 1))
        is_agreed = is_agreed and known.is_agreed and known.samples == samples
        strides[edge.reader] = EffectiveStride(known.samples, is_agreed, math.lcm(known.period, period))
    return strides


def _is_table(axis_map: AxisMap) -> bool:
    """Whether positions are looked up, so that nothing repeats before the end of the map."""
    regular = (AffineWindow, LinearResize, AveragingWindow, ScatterWindow, FoldedPadding, FoldedWindow)
    return not isinstance(axis_map, regular)


def stride_of(axis_map: AxisMap, num_inputs: int, num_outputs: int) -> Fraction:
    """Input positions per output position."""
    if isinstance(axis_map, AffineWindow | LinearResize):
        return _ratio(axis_map.num, axis_map.den)
    if isinstance(axis_map, AveragingWindow):
        return Fraction(axis_map.stride)
    if isinstance(axis_map, ScatterWindow):
        return Fraction(1, axis_map.stride)
    if isinstance(axis_map, FoldedPadding):
        return Fraction(1)
    if isinstance(axis_map, FoldedWindow):
        return Fraction(axis_map.window.num, axis_map.window.den)
    return Fraction(num_inputs, num_outputs)


@lru_cache(maxsize=256)
def _ratio(numerator: int, denominator: int) -> Fraction:
    return Fraction(numerator, denominator)


def pull_unbounded(axis_map: AxisMap, position: int, num_outputs: int, num_inputs: int) -> Interval:
    """Input positions that one output position reads, were there no borders."""
    out = Interval(position, position + 1)
    if isinstance(axis_map, AffineWindow | AveragingWindow | ScatterWindow):
        return axis_map.pull(out)
    if isinstance(axis_map, FoldedPadding):
        return out.relative_to(axis_map.before)
    if isinstance(axis_map, FoldedWindow):
        return axis_map.window.pull(out)
    if isinstance(axis_map, LinearResize):
        start = (position * axis_map.num + axis_map.first) // axis_map.den
        return Interval(start, start + 2)
    turns, inside = divmod(position, num_outputs)
    if not isinstance(axis_map, IndexTable):  # a map of a user's own: known on its own extent only
        turns, inside = 0, min(max(position, 0), num_outputs - 1)
    return axis_map.pull(Interval(inside, inside + 1)).relative_to(-turns * num_inputs)


def _domains(part: StreamedPart, axis: int, wanted: Mapping[str, Interval]) -> dict[str, Interval]:
    """Positions of every value that the wanted ones pass through."""
    needed: dict[str, list[Interval]] = {name: [] for name in (*part.input_maps, *part.order)}
    for name, positions in wanted.items():
        needed[name].append(positions)
    domains: dict[str, Interval] = {}
    for edge in reversed(part.edges):
        if edge.reader not in domains:
            domains[edge.reader] = hull(needed[edge.reader]) or Interval(0, 1)
        domain = domains[edge.reader]
        ends = [_pull(edge, axis, position, part) for position in (domain.start, domain.stop - 1)]
        start = min(end.start for end in ends)
        needed[edge.source].append(Interval(start, max(start + 1, *(end.stop for end in ends))))
    return domains | {name: hull(needed[name]) or Interval(0, 1) for name in part.input_maps}


def _pull(edge: StreamedEdge, axis: int, position: int, part: StreamedPart) -> Interval:
    num_outputs, num_inputs = part.extents[edge.reader][axis], part.extents[edge.source][axis]
    return pull_unbounded(edge.axis_maps[axis], position, num_outputs, num_inputs)


def _read_through(edge: StreamedEdge, axis: int, domain: Interval, source: Reads, part: StreamedPart) -> Reads:
    """Reads of the positions `domain` of a reader, through what its source reads."""
    pulled = [_pull(edge, axis, position, part) for position in range(domain.start, domain.stop)]
    first = torch.tensor([span.start for span in pulled]) - source.positions.start
    sizes = torch.tensor([span.size for span in pulled])
    start = torch.full((domain.size,), NOTHING)
    stop = torch.full((domain.size,), -NOTHING)
    positions = torch.arange(domain.start, domain.stop)
    inside = (positions >= 0) & (positions < part.extents[edge.reader][axis])
    last = source.positions.size - 1
    for step in range(max(int(sizes.max()), 1)):
        at, is_read = (first + step).clamp(0, last), step < sizes
        start = torch.where(is_read, torch.minimum(start, source.start[at]), start)
        stop = torch.where(is_read, torch.maximum(stop, source.stop[at]), stop)
        inside &= ~is_read | source.is_inside[at]
    return Reads(domain, start, stop, inside)
