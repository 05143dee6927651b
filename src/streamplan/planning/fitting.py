"""Whether the fields of a plan that was read fit each other, so that it can be printed and followed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from streamplan.options import PASSES
from streamplan.planning.reading import UnreadableError

if TYPE_CHECKING:
    from streamplan.planning.plan import Plan


def check_fit(plan: Plan) -> None:
    """Whether the fields of a plan fit each other.

    Raises:
        UnreadableError: Two do not.
    """
    rank = len(plan.inputs[0].shape) if plan.inputs else 0
    _ask(rank > 2, "inputs", "the first one is no map: batch, channels and at least one axis")
    per_axis: dict[str, tuple[Any, ...]] = {"tile_size": plan.tile_size, "smallest_tile_size": plan.smallest_tile_size}
    per_axis |= {"boundaries": plan.boundaries}
    for index, image in enumerate(plan.inputs):
        _ask(len(image.shape) == rank, f"inputs[{index}].shape", f"it has {len(image.shape)} numbers, not {rank}")
        per_axis |= {f"inputs[{index}].{name}": getattr(image, name) for name in ("max_read", "max_step")}
    for index, cut in enumerate(plan.cuts):
        place = f"cuts[{index}]"
        _ask(bool(cut.values) and len(cut.values) == len(cut.shapes), place, "it has not as many shapes as values")
        are_maps = all(len(shape) >= rank - 2 for shape in cut.shapes)  # channels may be split, or one of them taken
        _ask(are_maps, f"{place}.shapes", f"not all have {rank - 2} axes")
        per_axis |= {f"{place}.{name}": getattr(cut, name) for name in ("receptive_field", "halo")}
    for name, given in per_axis.items():
        _ask(len(given) == rank - 2, name, f"it has {len(given)} entries for {rank - 2} axes")
    for axis, stops in enumerate(plan.boundaries):
        is_rising = all(before <= after for before, after in pairwise(stops))
        _ask(len(stops) > 1 and is_rising, f"boundaries[{axis}]", "it is no series of rising numbers")
    _ask(any(cut.values == plan.cut for cut in plan.cuts), "cut", "it is none of the cuts")
    _ask(set(plan.passes) <= PASSES.keys(), "passes", "not all are lowering passes")
    _ask(all(plan.requested_cut), "requested_cut", "a name is empty")
    if plan.forecast is not None:
        is_each_told = len(plan.forecast.cuts) == len(plan.cuts)
        _ask(is_each_told, "forecast.cuts", f"it tells of {len(plan.forecast.cuts)} cuts of {len(plan.cuts)}")
        for name in ("memory", "plain_memory"):
            _ask(bool(getattr(plan.forecast, name).phases), f"forecast.{name}.phases", "there is none")


def _ask(is_so: bool, place: str, why: str) -> None:
    if not is_so:
        raise UnreadableError(place, why)
