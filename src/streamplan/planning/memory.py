"""What a phase of a call needs at its largest, item by item, for the error that says that memory ran out.

    forward         image, cut, carried samples, activations of one tile while they are needed or of all kept tiles
    head            image, cut, carried samples, kept tiles, activations of the resident part
    recomputation   image, cut and its gradient, carried samples, activations of one tile with autograd
    backward        the same, and the gradients inside the tile

Sizes of whole tensors are counted. Activations of a tile are an estimate: the share of every map that the largest tile
computes, without kernel workspace and without copies such as those that join carried samples; the resident part's are
its forward pass's, as if autograd kept them all. Under autocast maps are about half as large as counted here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from streamplan.analysis.schedule import AxisSchedule
from streamplan.planning.costs import largest_share
from streamplan.planning.passes import LoweredPart
from streamplan.planning.plan import CutCandidate, Plan
from streamplan.planning.text import format_bytes, format_extents

Phase = Literal["preparation", "forward", "head", "recomputation", "backward"]
"""Of a call and its backward pass; before the tiles, `preparation` of weights and small tensors."""
Place = Literal["device", "host"]
"""Memory; of a call on the CPU there is one, `device`."""


@dataclass(frozen=True)
class TileMemory:
    """Bytes of a net's tiles, with the plan they are of."""

    plan: Plan
    live_bytes: int
    """Most that one tile's values need at once where each is freed behind its last reader."""


@dataclass(frozen=True)
class CallMemory:
    """Bytes of a call that its plan does not know."""

    device_type: str
    """Such as `cuda`."""
    image_bytes: int
    """Of the input maps that are tensors."""
    image_place: Place
    is_image_wanted: bool
    """Whether the image gets a gradient that is a tensor."""
    weight_bytes: int = 0
    """Of the weights made for tiles: folded, or in another memory order."""
    gradient_bytes: int = 0
    """Of the gradients of weights."""
    is_differentiated: bool = False
    """Whether a backward pass may follow."""
    is_written: bool = False
    """Whether the cut goes into an array, tile by tile."""
    is_autocast: bool = False
    """Whether maps may be narrower than planned."""


@dataclass(frozen=True)
class MemoryItem:
    """Something that takes memory."""

    what: str
    num_bytes: int
    remedy: str = ""
    """What would make it smaller; "" if nothing would."""
    is_estimate: bool = False


def live_tile_bytes(lowered: LoweredPart, schedules: tuple[AxisSchedule, ...]) -> int:
    """Most that the values of the largest tile need at once without autograd.

    The image's region stays; every other value goes behind its last reader. A call may copy what it reads: joined with
    carried samples, or padded.
    """
    part, graph = lowered.part, lowered.graph
    regions = {
        name: round(spec.num_bytes * largest_share(part, schedules, name))
        for name in (*part.input_maps, *part.order)
        if (spec := graph[name].output) is not None
    }
    owners = _owners(lowered)
    last_use = {owners[name]: name for name in part.order}
    last_use |= {owners[edge.source]: edge.reader for edge in part.edges if edge.source in owners}
    last_use |= {owners[name]: "" for name in part.frontier}
    is_joined = any(step.carried_in for schedule in schedules for step in schedule.steps)
    may_copy = is_joined or "native_padding" not in lowered.passes
    live = most = sum(regions[name] for name in part.input_maps)
    for name in part.order:
        sources = (source for source in graph[name].inputs if source in regions)
        copied = max(map(regions.__getitem__, sources), default=0) if may_copy else 0
        live += regions[name] if owners[name] == name else 0
        most = max(most, live + copied)
        live -= sum(regions[owner] for owner, reader in last_use.items() if reader == name)
    return most


def _owners(lowered: LoweredPart) -> dict[str, str]:
    """The value whose storage each value lies in: another one's for views and where an operand is written over."""
    owners: dict[str, str] = {}
    for name in lowered.part.order:
        call = lowered.graph[name]
        operand = lowered.inplace.get(name)
        if operand is None and not call.activation_bytes and call.inputs:
            operand = call.inputs[0]
        owners[name] = owners.get(operand or name, name)
    return owners


def project_memory(
    tiles: TileMemory, call: CallMemory, phase: Phase, num_done: int, place: Place
) -> tuple[MemoryItem, ...]:
    """What a phase needs at its largest in one memory, the largest item first.

    Args:
        tiles: The plan, and what a tile needs.
        call: What is known of the call.
        phase: The phase.
        num_done: Tiles done in this pass; kept tiles are used up first by a backward pass.
        place: Whose memory.
    """
    items = [*_map_items(tiles.plan, call, phase, place), *_carry_items(tiles.plan, call, phase, place)]
    if place == "device":
        items += [*_weight_items(call, phase), *_tile_items(tiles, call, phase, num_done)]
    return tuple(sorted((item for item in items if item.num_bytes), key=lambda item: -item.num_bytes))


def _is_backward(phase: Phase) -> bool:
    return phase in ("recomputation", "backward")


def _map_items(plan: Plan, call: CallMemory, phase: Phase, place: Place) -> Iterator[MemoryItem]:
    """The image, the cut and their gradients."""
    if place == call.image_place:
        beside = call.device_type != "cpu" and place == "device"
        keep_out = "leave the image in host memory, or pass a Source" if beside else "pass the image as a Source"
        yield MemoryItem("image", call.image_bytes, f"{keep_out}: tiles are read when they are computed")
        if call.is_image_wanted and _is_backward(phase):
            remedy = "let the gradient by the image go into an array: Source(array, gradient=...)"
            yield MemoryItem("gradient of the image", call.image_bytes, remedy)
    if place == "device" and not call.is_written and phase != "preparation":
        cut_bytes, remedy = plan.costs.cut_bytes, _other_map(plan)
        yield MemoryItem("cut", cut_bytes, remedy, is_estimate=_is_backward(phase))
        if _is_backward(phase):
            yield MemoryItem("gradient of the cut", cut_bytes, remedy)


def _carry_items(plan: Plan, call: CallMemory, phase: Phase, place: Place) -> Iterator[MemoryItem]:
    """What tiles hand on."""
    if phase == "preparation":
        return
    of_a_band = plan.costs.carry_bytes // max(1, plan.grid[0] - 1)
    home: Place = "host" if plan.carries == "host" and call.device_type != "cpu" else "device"
    larger = "larger tiles along the axes with most of them hand on less"
    if call.is_differentiated and place == home:
        remedy = 'carries="host"' if home == "device" and call.device_type != "cpu" else larger
        yield MemoryItem("samples carried from tile to tile", plan.costs.carry_bytes, remedy)
    if place == "device" and phase != "head" and (home == "host" or not call.is_differentiated):
        yield MemoryItem("carried samples of one row of tiles", of_a_band, larger, is_estimate=True)
    if place == "device" and _is_backward(phase):
        yield MemoryItem("gradients of carried samples", of_a_band, larger, is_estimate=True)


def _weight_items(call: CallMemory, phase: Phase) -> Iterator[MemoryItem]:
    yield MemoryItem("weights made for tiles", call.weight_bytes)
    if _is_backward(phase):
        yield MemoryItem("gradients of weights", call.gradient_bytes)


def _tile_items(tiles: TileMemory, call: CallMemory, phase: Phase, num_done: int) -> Iterator[MemoryItem]:
    """Activations."""
    if phase == "preparation":
        return
    plan, smaller = tiles.plan, smaller_tiles(tiles.plan)
    saved_bytes = plan.costs.tile_activation_bytes
    num_kept = min(plan.keep_tiles, plan.num_tiles) if call.is_differentiated else 0
    num_kept = max(0, num_kept - num_done) if _is_backward(phase) else num_kept
    if num_kept:
        fewer = smaller if plan.keep_tiles == 1 else "fewer keep_tiles"
        what = f"activations of {num_kept} kept tile{'s' * (num_kept > 1)}"
        yield MemoryItem(what, num_kept * saved_bytes, fewer, is_estimate=True)
    elif phase == "forward":
        yield MemoryItem("activations of one tile", tiles.live_bytes, smaller, is_estimate=True)
    elif phase != "head":
        yield MemoryItem("activations of one tile, with autograd", saved_bytes, smaller, is_estimate=True)
    if phase == "backward":
        yield MemoryItem("gradients inside one tile", tiles.live_bytes, smaller, is_estimate=True)
    if phase == "head":
        resident_bytes = plan.costs.activation_bytes - plan.costs.streamed_activation_bytes
        yield MemoryItem("activations of the resident part", resident_bytes, _later_cut(plan), is_estimate=True)


def smaller_tiles(plan: Plan) -> str:
    """The tile size that halves the longest axis that can be halved; an earlier cut if none can."""
    extents = plan.inputs[0].shape[2:]
    sizes = [min(size, extent) for size, extent in zip(plan.tile_size, extents, strict=True)]
    fitting = [axis for axis, size in enumerate(sizes) if size // 2 >= max(1, plan.smallest_tile_size[axis])]
    if fitting:
        axis = max(fitting, key=sizes.__getitem__)
        halved = [size // 2 if other == axis else size for other, size in enumerate(sizes)]
        return f"smaller tiles along axis {axis}: tile_size=({', '.join(map(str, halved))}{',' * (len(halved) == 1)})"
    earlier = [c for c in plan.cuts if c.streamed_flops < plan.chosen.streamed_flops]
    return f"an earlier cut, whose tiles can be smaller: {_named(earlier[-1])}" if earlier else ""


def _other_map(plan: Plan) -> str:
    """A cut with a smaller map."""
    smallest = min(plan.cuts, key=lambda candidate: candidate.cut_bytes)
    if smallest.cut_bytes >= plan.chosen.cut_bytes:
        return ""
    is_earlier = smallest.streamed_flops < plan.chosen.streamed_flops
    return f"{'an earlier' if is_earlier else 'a later'} cut with a smaller map: {_named(smallest)}"


def _later_cut(plan: Plan) -> str:
    later = [c for c in plan.cuts if c.streamed_flops > plan.chosen.streamed_flops]
    if later:
        return f"a later cut, which leaves less to the resident part: {_named(later[-1])}"
    return "torch.utils.checkpoint in the resident part, whose maps are not streamed"


def _named(candidate: CutCandidate) -> str:
    size = format_bytes(candidate.cut_bytes)
    return f"cut={(candidate.module_path or candidate.values[-1])!r} ({format_extents(candidate.shapes[-1])}, {size})"
