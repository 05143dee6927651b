"""The flush: what is left to compute when the image has ended, spread over steps of its own.

    steps of 4 on 8 samples, two convs k3 p1:    image   4 | 8 |        4 | 8 | 8
                                                 conv 1  3 | 8 |        3 | 7 | 8
                                                 conv 2  2 | 8 |        2 | 6 | 8

At its end the image needs no further samples, so everything could be computed at once; in a deep net that is a large
last step. Until the last step every value advances only as far as it could if the image went on for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamplan.analysis.carried_axis import CarriedAxis, Window
from streamplan.geometry import AffineWindow, AveragingWindow, Interval, ScatterWindow

_MOST_FLUSH_STEPS = 4
"""Steps to flush, as a multiple of the steps in which the image arrives."""


def find_paces(axis: CarriedAxis, boundaries: tuple[int, ...]) -> list[Mapping[str, int]]:
    """How far each root may advance in every step.

    Args:
        axis: The axis.
        boundaries: Ends of the steps, as for `schedule_carried_axis`.

    Returns:
        By step, limits by root: none for the last step, nor for any if there is no step to spread the flush over.
    """
    extent = boundaries[-1]
    if boundaries[-2] != extent:
        return [{}] * (len(boundaries) - 1)
    num_new = boundaries.index(extent)
    step = -(-extent // num_new)
    virtual = [*boundaries[1 : num_new + 1], *(extent + step * more for more in range(1, len(boundaries) - num_new))]
    paces: list[Mapping[str, int]] = [_pace(axis, stop) for stop in virtual[:-1]]
    return [*paces, {}]


def count_flush_steps(axis: CarriedAxis, boundaries: tuple[int, ...]) -> int:
    """Steps after the image has ended until every value is complete, each as long as the others."""
    extents = axis.part.extents
    extent, num_new = boundaries[-1], len(boundaries) - 1
    step = -(-extent // num_new)
    for more in range(_MOST_FLUSH_STEPS * num_new):
        pace = _pace(axis, extent + step * more)
        if all(pace[name] >= extents[name][axis.axis] for name in axis.windows):
            return more
    return 0


def _pace(axis: CarriedAxis, boundary: int) -> dict[str, int]:
    """How far each root would get if the image went on for ever and had arrived up to a boundary."""
    part = axis.part
    first = part.extents[part.input_maps[0]][axis.axis]
    state = {name: boundary * part.extents[name][axis.axis] // first for name in part.input_maps}
    for name, windows in axis.windows.items():
        extent = part.extents[name][axis.axis]
        state[name] = min(_reachable(window, extent, min([state[root] for root in window.roots])) for window in windows)
    return state


def _reachable(window: Window, extent: int, available: int) -> int:
    """The largest stop of a reader, of an extent, that reads no position from `available` on."""
    axis_map = window.axis_map
    is_unbounded = isinstance(axis_map, AffineWindow | AveragingWindow | ScatterWindow)
    if not is_unbounded and available >= window.extent:
        return 2 * extent  # a table of positions ends with its map
    if isinstance(axis_map, AffineWindow) and axis_map.num > 0:
        return min(max(axis_map.reach(available), 0), 2 * extent)
    low, high = 0, 2 * extent if is_unbounded else extent
    while low < high:
        middle = (low + high + 1) // 2
        pulled = axis_map.pull(Interval(middle - 1, middle))
        low, high = (middle, high) if pulled.stop <= available else (low, middle - 1)
    return low
