"""How far every value gets in each step of an axis, when halos are carried.

The frontier E_v(i) of value v after step i is the longest prefix computable from what exists then:

    conv k3 p1 on 8 samples, steps of 4:   image 4 | 8    conv 3 | 8
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from streamplan.analysis.carried_axis import CarriedAxis, Window
from streamplan.analysis.flush import find_paces
from streamplan.analysis.regions import read_region
from streamplan.geometry import Interval

Frontiers = Mapping[str, Sequence[int]]
"""E_v(i) of every root, for i = 0 (before the first step) to the last step."""


def find_frontiers(axis: CarriedAxis, boundaries: tuple[int, ...]) -> Frontiers:
    """The frontiers that follow when the image arrives in the given pieces.

    Args:
        axis: The axis.
        boundaries: Positions of the first input map that end each step, from 0; see `schedule_carried_axis`.
    """
    part = axis.part
    first = part.extents[part.input_maps[0]][axis.axis]
    paces = find_paces(axis, boundaries)
    frontiers: dict[str, list[int]] = {}
    for name, need in axis.needs.items():
        stops = [need.start]
        frontiers[name] = stops
        if name in part.input_maps:
            extent = part.extents[name][axis.axis]
            for boundary in boundaries[1:]:
                stops.append(max(stops[-1], min(boundary * extent // first, need.stop)))
            continue
        windows = axis.windows[name]
        available = [_available(window, frontiers) for window in windows]
        for step, pace in enumerate(paces, start=1):
            limit = min(need.stop, pace.get(name, need.stop))
            ends = [column[step] for column in available]
            stops.append(_longest_prefix(windows, ends, stops[-1], limit) if limit > stops[-1] else stops[-1])
    return frontiers


def _available(window: Window, frontiers: Frontiers) -> Sequence[int]:
    """How far a window may look in every step."""
    columns = [frontiers[root] for root in window.roots]
    return columns[0] if len(columns) == 1 else [min(stops) for stops in zip(*columns, strict=True)]


def _longest_prefix(windows: tuple[Window, ...], available: list[int], start: int, limit: int) -> int:
    """The largest frontier of a call at `start` whose new block reads only what exists; `limit` is beyond `start`."""
    others = []
    for window, stops in zip(windows, available, strict=True):
        if window.affine is None:
            others.append((window, stops))
        elif stops < window.extent:
            limit = min(limit, window.affine.reach(stops))
    if not others or limit <= start:
        return max(start, limit)

    def computable(stop: int) -> bool:
        for window, stops in others:
            span = read_region(window.axis_map, Interval(start, stop), window.extent).span
            if not span.is_empty and span.stop > stops:
                return False
        return True

    if computable(limit):
        return limit
    low, high = start, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if computable(middle) else (low, middle)
    return low
