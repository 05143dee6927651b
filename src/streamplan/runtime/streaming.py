"""The tile loop, forward and backward, as one autograd function.

    dL/dw = sum over tiles t of (df_t/dw)^T (dL/dp)[R_t]

The gradient of a loss L by the parameters is a sum of vector-Jacobian products, one per block R_t of the cut p, for any
division of the cut and any recomputation inside a tile. So the forward pass keeps nothing but the cut and what tiles
carry to each other; the backward pass computes each tile again, seeds it with its block of the cut's gradient, and adds
up what arrives at small tensors and at the image. The passes themselves are in `passes`.

torch.utils.checkpoint cannot do this: it runs its function once over the whole input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from streamplan.errors import DoubleBackwardError, StaleStateError
from streamplan.images import Source
from streamplan.runtime.cuda.graphs import GraphCache
from streamplan.runtime.passes import backward_pass, forward_pass
from streamplan.runtime.progress import Progress
from streamplan.runtime.runners import TileRunner
from streamplan.runtime.segment import Segment
from streamplan.runtime.shortage import reporting_shortage
from streamplan.runtime.weights import TileWeights


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
    sources: Mapping[str, Source]
    """The input maps that are not tensors."""
    device: torch.device
    """Where tiles are computed."""
    progress: Progress
    graphs: GraphCache | None
    autocast: _AutocastState
    is_differentiated: bool
    """Whether a backward pass may follow; inside the autograd function grad mode is always off."""

    @cached_property
    def tensor_maps(self) -> tuple[str, ...]:
        """The input maps that are tensors."""
        return tuple(name for name in self.segment.part.input_maps if name not in self.sources)

    def split(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor | Source], dict[str, Tensor]]:
        """Input maps, and small tensors by name."""
        count = len(self.tensor_maps)
        end = count + len(self.segment.smalls)
        maps: dict[str, Tensor | Source] = {**self.sources, **dict(zip(self.tensor_maps, tensors[:count], strict=True))}
        in_order = [maps[name] for name in self.segment.part.input_maps]
        return in_order, dict(zip(self.segment.smalls, tensors[count:end], strict=True))

    def weights(self, smalls: Mapping[str, Tensor], needs: Sequence[bool]) -> TileWeights:
        """Small tensors as tiles read them."""
        wanted = [name for name, need in zip(smalls, needs[len(self.tensor_maps) :], strict=False) if need]
        return TileWeights(smalls, wanted, self.segment.narrowed, self.device)

    def needed(self, needs: Sequence[bool]) -> frozenset[str]:
        """Input maps and small tensors that need a gradient."""
        smalls = zip(self.segment.smalls, needs[len(self.tensor_maps) :], strict=False)
        return self.wanted_maps(needs).union(name for name, need in smalls if need)

    def wanted_maps(self, needs: Sequence[bool]) -> frozenset[str]:
        """Input maps that need a gradient."""
        sources = (name for name, source in self.sources.items() if source.requires_grad)
        return frozenset((*sources, *(name for name, need in zip(self.tensor_maps, needs, strict=False) if need)))


def stream_segment(
    segment: Segment,
    maps: Sequence[Tensor | Source],
    smalls: Mapping[str, Tensor],
    device: torch.device,
    progress: Progress,
    *,
    graphs: GraphCache | None = None,
    watched: Sequence[Tensor] = (),
) -> tuple[Tensor, ...]:
    """Compute the cut values of a segment tile by tile, differentiably.

    Args:
        segment: The segment.
        maps: Full-size input maps, tensors or sources, in the order of `segment.part.input_maps`.
        smalls: Small tensors by name, in the memory order of the tiles.
        device: Where tiles are computed; maps may be in host memory.
        progress: Told about every tile.
        graphs: Recordings of tiles; None runs without.
        watched: Tensors that small tensors were made from; they must not change before the backward pass either.

    Returns:
        The cut values, full size, in the order of `segment.outputs`.
    """
    by_name = dict(zip(segment.part.input_maps, maps, strict=True))
    sources = {name: x for name, x in by_name.items() if isinstance(x, Source)}
    tensors = (
        *(x for x in maps if isinstance(x, Tensor)),
        *(smalls[name] for name in segment.smalls),
        *(tensor.detach() for tensor in watched),
        *(source.anchor for source in sources.values() if source.anchor is not None),
    )
    is_differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    autocast = _AutocastState.current(device.type)
    call = _Call(segment, sources, device, progress, graphs, autocast, is_differentiated)
    outputs: tuple[Tensor, ...] = _StreamedSegment.apply(call, *tensors)  # type: ignore[no-untyped-call]
    return outputs


def write_segment(
    segment: Segment,
    maps: Sequence[Tensor | Source],
    smalls: Mapping[str, Tensor],
    device: torch.device,
    targets: Mapping[str, Source],
    progress: Progress,
    graphs: GraphCache | None = None,
) -> None:
    """Compute the cut values of a segment tile by tile, without autograd, and write each tile's share into arrays.

    Args:
        segment: The segment.
        maps: Full-size input maps, tensors or sources, in the order of `segment.part.input_maps`.
        smalls: Small tensors by name, in the memory order of the tiles.
        device: Where tiles are computed; maps may be in host memory.
        targets: Where to write, by cut value.
        progress: Told about every tile.
        graphs: Recordings of tiles; None runs without.
    """
    weights = TileWeights(smalls, (), segment.narrowed, device)
    with _runner(segment, graphs, weights, None, device) as runner:
        forward_pass(runner, maps, device, progress, wanted=None, targets=targets)


def _runner(
    segment: Segment,
    graphs: GraphCache | None,
    weights: TileWeights,
    wanted: frozenset[str] | None,
    device: torch.device,
) -> AbstractContextManager[TileRunner]:
    """What runs the tiles of a pass."""
    return nullcontext(TileRunner(segment, weights)) if graphs is None else graphs.runner(weights, wanted, device)


class _StreamedSegment(torch.autograd.Function):
    """Forward: every tile without autograd. Backward: every tile again, with it."""

    @staticmethod
    def forward(ctx: Any, call: _Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.call = call
        ctx.versions = {name: source.version for name, source in call.sources.items()}
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        maps, smalls = call.split(tensors)
        keep = call.is_differentiated
        weights = call.weights(smalls, ctx.needs_input_grad[1:] if keep else ())
        wanted = call.wanted_maps(ctx.needs_input_grad[1:]) if keep else None
        with _runner(call.segment, call.graphs, weights, wanted, call.device) as runner:
            result = forward_pass(runner, maps, call.device, call.progress, wanted=wanted)
        ctx.result, ctx.weights = result, weights if keep else None
        outputs, result.outputs = result.outputs, {}
        needed = call.needed(ctx.needs_input_grad[1:])
        ctx.mark_non_differentiable(*(x for name, x in outputs.items() if not call.segment.reached[name] & needed))
        return tuple(outputs[name] for name in call.segment.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, call = _saved_tensors(ctx), ctx.call
        _check_sources(call.sources, ctx.versions)
        progress = replace(call.progress, phase="backward", index=None, num_done=0)
        compute = [partial(_StreamedSegment._gradients, ctx, saved, gradients, progress)]
        del gradients  # an error raised here would keep them alive
        with torch.no_grad():
            results = reporting_shortage(compute.pop(), call.segment.memory, progress, call.device)
        if torch.is_grad_enabled():  # create_graph=True
            results = _refuse_second_derivatives(results, saved)
        return (None, *results)

    @staticmethod
    def _gradients(
        ctx: Any, saved: Sequence[Tensor], gradients: Sequence[Tensor | None], progress: Progress
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the input maps and the small tensors."""
        call: _Call = ctx.call
        needs: tuple[bool, ...] = ctx.needs_input_grad[1:]
        maps, smalls = call.split(saved)
        wanted = call.wanted_maps(needs)
        map_gradients = {
            name: x if isinstance(x, Source) else torch.zeros_like(x)
            for name, x in zip(call.segment.part.input_maps, maps, strict=True)
            if name in wanted
        }
        seeds = {name: g for name, g in zip(call.segment.outputs, gradients, strict=True) if g is not None}
        with call.autocast.enter():
            (result, weights), ctx.result, ctx.weights = (ctx.result, ctx.weights), None, None
            if result is None:  # a second backward pass through the same forward pass
                again = replace(progress, on_tile=None)
                weights = call.weights(smalls, needs)
                result = forward_pass(TileRunner(call.segment, weights), maps, call.device, again, wanted=wanted)
            with _runner(call.segment, call.graphs, weights, wanted, call.device) as runner:
                num_skipped = backward_pass(runner, maps, call.device, seeds, map_gradients, result, progress)
        # Where no tile had anything to contribute, the plain net's gradient is zero.
        reached = frozenset[str]().union(*(call.segment.reached[name] for name in seeds))
        of_maps = (map_gradients.get(name) if name in reached else None for name in call.tensor_maps)
        of_smalls = (
            weights.gradient_or_zeros(name, x) if num_skipped and name in reached else weights.gradient(name)
            for name, x in smalls.items()
        )
        found: tuple[Any, ...] = (*of_maps, *of_smalls)
        return (*found, *(None for _ in needs[len(found) :]))


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


def _check_sources(sources: Mapping[str, Source], versions: Mapping[str, int | None]) -> None:
    """Refuse to read a tensor again that is not as it was; of other arrays nothing is known.

    Raises:
        StaleStateError: One has changed.
    """
    for name, source in sources.items():
        if source.version != versions[name]:
            raise StaleStateError(
                "the image of the streamed part changed between forward and backward",
                where=f"input {name}: {source!r}",
                why=f"its tensor was changed in place {source.version} times now, {versions[name]} times then",
                do="call backward() before changing the image in place",
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
