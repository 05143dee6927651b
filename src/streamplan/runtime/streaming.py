"""The tile loop, forward and backward, as one autograd function.

    dL/dw = sum over tiles t of (df_t/dw)^T (dL/dp)[R_t]

The gradient of a loss L by the parameters is a sum of vector-Jacobian products, one per block R_t of the cut p, for any
division of the cut and any recomputation inside a tile. So the forward pass keeps nothing but the cut [1]; the backward
pass computes each tile again [2], seeds it with its block of the cut's gradient [3], and adds up what arrives at small
tensors and at the image [4].

torch.utils.checkpoint cannot do this: it runs its function once over the whole input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from streamplan.errors import DoubleBackwardError, StaleStateError
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import Tile

OnTile = Callable[[str, int, int], None]
"""Called with the phase ("forward" or "backward"), tiles done, and the number of tiles."""


@dataclass(frozen=True)
class _AutocastState:
    """The autocast settings of the forward pass, for the recomputation."""

    device_type: str
    is_enabled: bool
    dtype: torch.dtype

    @classmethod
    def current(cls, device_type: str) -> _AutocastState:
        return cls(device_type, torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type))

    def enter(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.is_enabled)


@dataclass(frozen=True)
class _Call:
    """The non-tensor arguments of one call of the autograd function."""

    segment: Segment
    on_tile: OnTile | None
    autocast: _AutocastState

    def split(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Input maps, and small tensors by name."""
        count = len(self.segment.part.input_maps)
        return list(tensors[:count]), dict(zip(self.segment.smalls, tensors[count:], strict=True))

    def report(self, phase: str, done: int) -> None:
        """Tell the progress callback, if there is one."""
        if self.on_tile is not None:
            self.on_tile(phase, done, self.segment.num_tiles)


def stream_segment(
    segment: Segment, maps: Sequence[Tensor], smalls: Mapping[str, Tensor], *, on_tile: OnTile | None = None
) -> tuple[Tensor, ...]:
    """Compute the cut values of a segment tile by tile, differentiably.

    Args:
        segment: The segment.
        maps: Full-size input maps, in the order of `segment.part.input_maps`.
        smalls: Small tensors by name.
        on_tile: Progress callback.

    Returns:
        The cut values, full size, in the order of `segment.outputs`.
    """
    call = _Call(segment, on_tile, _AutocastState.current(maps[0].device.type))
    tensors = (*maps, *(smalls[name] for name in segment.smalls))
    outputs: tuple[Tensor, ...] = _StreamedSegment.apply(call, *tensors)  # type: ignore[no-untyped-call]
    return outputs


class _StreamedSegment(torch.autograd.Function):
    """Forward: every tile without autograd. Backward: every tile again, with it."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        maps, smalls = call.split(tensors)
        outputs: dict[str, Tensor] = {}
        for done, index in enumerate(call.segment.tile_indices()):
            tile = Tile(call.segment, index)
            blocks = _run_tile(call.segment, tile, maps, smalls)
            for (name, spec), block in zip(call.segment.outputs.items(), blocks, strict=True):
                if name not in outputs:
                    outputs[name] = block.new_empty(spec.shape)
                outputs[name][tile.slices(name, blocks=True)] = block  # [1]
            call.report("forward", done + 1)
        ctx.mark_non_differentiable(*(out for out in outputs.values() if not out.is_floating_point()))
        return tuple(outputs.values())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = _saved_tensors(ctx)
        with torch.no_grad():
            results = _StreamedSegment._gradients(ctx, saved, gradients)
        if torch.is_grad_enabled():  # create_graph=True
            results = _refuse_second_derivatives(results, saved)
        return (None, *results)

    @staticmethod
    def _gradients(ctx: Any, saved: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        """Gradients of the input maps and the small tensors."""
        call: _Call = ctx.call
        needs: tuple[bool, ...] = ctx.needs_input_grad[1:]
        maps, smalls = call.split(saved)
        num_maps = len(maps)
        leaves = {
            name: tensor.detach().requires_grad_(need)
            for (name, tensor), need in zip(smalls.items(), needs[num_maps:], strict=True)
        }
        map_gradients = [torch.zeros_like(x) if need else None for x, need in zip(maps, needs, strict=False)]
        with call.autocast.enter():
            for done, index in enumerate(call.segment.tile_indices()):
                _backward_tile(call.segment, index, maps, leaves, gradients, map_gradients)
                call.report("backward", done + 1)
        return (*map_gradients, *(leaf.grad for leaf in leaves.values()))


class _FirstDerivative(torch.autograd.Function):
    """The identity on a gradient; its own backward is refused."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, anchor: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise DoubleBackwardError(
            "the gradient of a gradient of the streamed part was asked for",
            why="the streamed part gives first derivatives only; its gradients would count as constants",
            do="with streamed.disabled(): run the plain net, or call backward() without create_graph",
        )


def _refuse_second_derivatives(results: Sequence[Tensor | None], saved: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Tie gradients to a tensor that requires a gradient, so that differentiating them is an error, not silence."""
    anchor = next((tensor for tensor in saved if tensor.requires_grad), None)
    if anchor is None:
        return tuple(results)
    return tuple(
        None if result is None else _FirstDerivative.apply(result, anchor)  # type: ignore[no-untyped-call]
        for result in results
    )


def _saved_tensors(ctx: FunctionCtx) -> tuple[Tensor, ...]:
    """The saved tensors; torch compares their versions with those of the forward pass."""
    try:
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        raise StaleStateError(
            "a tensor of the streamed part changed between forward and backward",
            why=f"the backward pass computes every tile again and would use the new values; torch says: {error}",
            do="call backward() before optimizer.step(), load_state_dict() or changing the image in place",
        ) from error
    return saved


def _run_tile(segment: Segment, tile: Tile, maps: Sequence[Tensor], smalls: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    regions = [x[tile.slices(name)] for x, name in zip(maps, segment.part.input_maps, strict=True)]
    return segment.tile(tile, smalls, *regions)


def _backward_tile(
    segment: Segment,
    index: tuple[int, ...],
    maps: Sequence[Tensor],
    leaves: Mapping[str, Tensor],
    gradients: Sequence[Tensor | None],
    map_gradients: Sequence[Tensor | None],
) -> None:
    """Compute one tile again and add its gradients to `leaves` and `map_gradients`."""
    tile = Tile(segment, index)
    names = segment.part.input_maps
    with torch.enable_grad():
        regions = [
            x[tile.slices(name)].detach().requires_grad_(total is not None)
            for x, name, total in zip(maps, names, map_gradients, strict=True)
        ]
        blocks = segment.tile(tile, leaves, *regions)  # [2]
    seeded = [
        (block, gradient[tile.slices(name, blocks=True)])
        for name, block, gradient in zip(segment.outputs, blocks, gradients, strict=True)
        if gradient is not None and block.requires_grad
    ]
    if not seeded:
        return
    wanted = [tensor for tensor in (*leaves.values(), *regions) if tensor.requires_grad]
    torch.autograd.backward([block for block, _ in seeded], [seed for _, seed in seeded], inputs=wanted)  # [3]
    for name, region, total in zip(names, regions, map_gradients, strict=True):
        if total is not None and region.grad is not None:
            total[tile.slices(name)] += region.grad  # [4]
