"""The tile at hand: what the emitted program calls to crop, pad and place regions.

A `Tile` turns the integers of one step per axis into slices. Its methods take a tensor that holds a value's region and
return a tensor; the last argument names the call on whose behalf they act.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from streamplan.analysis.regions import AxisStep
from streamplan.errors import RuleError
from streamplan.geometry import (
    AveragingWindow,
    AxisMap,
    FoldedPadding,
    FoldedWindow,
    IndexTable,
    Interval,
    LinearResize,
    ScatterWindow,
)
from streamplan.runtime.crops import crop, narrow, narrowed, pad_constant
from streamplan.runtime.dropout import drop, scale
from streamplan.runtime.joining import AxisJoin, Copy, Layout, cloned, join, join_rectified
from streamplan.runtime.segment import Segment
from streamplan.runtime.transfers import numbers_on
from streamplan.runtime.windows import Window, find_window

CarryKey = tuple[str, int]
"""Name of a carried value, and the axis it is carried along."""
NOTHING_RECEIVED: Mapping[CarryKey, Tensor] = MappingProxyType({})
"""What the first tile, and every tile that computes its halo again, receives."""
_REDUCED = (torch.float16, torch.bfloat16)
"""Dtypes in which torch interpolates in float32."""


class Tile:
    """Crops, border padding and global positions of one tile."""

    def __init__(
        self,
        segment: Segment,
        index: tuple[int, ...],
        received: Mapping[CarryKey, Tensor] = NOTHING_RECEIVED,
        device: torch.device | None = None,
        copy: Copy = cloned,
    ) -> None:
        self._segment = segment
        self._copy = copy
        self._device = device
        self._received = received
        self.handed: dict[CarryKey, Tensor] = {}
        self.steps: tuple[AxisStep, ...] = tuple(s.steps[i] for s, i in zip(segment.schedules, index, strict=True))
        self._kind = segment.kind(index)

    def slices(self, name: str, *, blocks: bool = False) -> tuple[slice, ...]:
        """Index of a value's region, or of its block of the cut, in the full-size tensor."""
        intervals = [(step.blocks if blocks else step.regions)[name] for step in self.steps]
        dims = self._segment.dims[name]
        index = [slice(None)] * (max(dims) + 1)
        for dim, interval in zip(dims, intervals, strict=True):
            index[dim] = slice(interval.start, interval.stop)
        return tuple(index)

    def has(self, name: str) -> bool:
        """Whether there is anything of a value to compute; with carried halos the first tiles do not reach far."""
        return not any(step.computed[name].is_empty for step in self.steps)

    def join(self, x: Tensor | None, name: str) -> Tensor | None:
        """The new block of a carried value with the samples carried to it; notes what is carried on.

        See `joining` for where they lie.
        """
        received = self._received_along_axes(name)
        axes: Sequence[int] = range(len(self.steps))
        if x is not None:
            layout = self._layout(name, received)
            if layout.is_trivial:
                return x
        elif received:  # nothing is new: the block is what was received
            first = min(received)
            axes = axes[first:]
            x = received[first].narrow(self._segment.dims[name][first], 0, 0)
            layout = self._layout_of(name, received, {axis: x.shape[self._segment.dims[name][axis]] for axis in axes})
        else:
            return None
        x, handed_on = join(layout, x, tuple(received.values()), self._copy)
        self.handed |= {(name, a): tensor for a, tensor in zip(axes, handed_on, strict=True) if tensor is not None}
        return x

    def rectify(self, x: Tensor, name: str, *, bias: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """`join(relu(x + bias + add), name)`, in one pass; nothing else reads `x`."""
        received = self._received_along_axes(name)
        layout = self._layout(name, received)
        if layout.is_trivial and bias is None:
            return torch.relu_(x if add is None else self.add_(x, add))
        x, handed_on = join_rectified(layout, x, bias, add, tuple(received.values()), self._copy)
        self.handed |= {(name, a): tensor for a, tensor in enumerate(handed_on) if tensor is not None}
        return x

    def _received_along_axes(self, name: str) -> dict[int, Tensor]:
        """What was received of a value, by axis."""
        along_axes = ((axis, self._received.get((name, axis))) for axis in range(len(self.steps)))
        return {axis: tensor for axis, tensor in along_axes if tensor is not None}

    def _layout(self, name: str, received: Mapping[int, Tensor]) -> Layout:
        """Where a new block and what was received lie."""
        key = (name, tuple(received), self._kind)
        layout: Layout | None = self._segment.by_kind.get(key)
        if layout is None:
            num_new = {axis: step.computed[name].size for axis, step in enumerate(self.steps)}
            layout = self._segment.by_kind[key] = self._layout_of(name, received, num_new)
        return layout

    def _layout_of(self, name: str, received: Mapping[int, Tensor], num_new: Mapping[int, int]) -> Layout:
        """The same, joined along the axes for which `num_new` tells the samples that are new."""
        dims, joins = self._segment.dims[name], []
        for axis, count in num_new.items():
            step = self.steps[axis]
            num_received = received[axis].shape[dims[axis]] if axis in received else 0
            is_carried = name in step.carried_out
            handed = step.carried_out[name].relative_to(step.carried_in[name].start) if is_carried else Interval(0, 0)
            joins.append(AxisJoin(dims[axis], num_received, count, handed))
        rank = len(self._segment.maps[name].shape)
        return Layout(tuple(joins), self._segment.memory_format(rank), rank)

    def window(
        self,
        x: Tensor | None,
        reader: str,
        *,
        source: str | None = None,
        fill: float = 0.0,
        native: bool = False,
        spare: bool = False,
    ) -> Tensor:
        """What `reader` reads of the region `x`: cropped, and padded with `fill` by what lies outside the map.

        With `native`, padding that the operation adds itself is left out, and samples behind the last window are left
        in; see `padding`. With `spare`, the reader may write over the result.
        """
        source = source or self._segment.first_source[reader]
        if x is None:  # nothing there yet: along one axis at least, every window lies in padding
            reads = [step.reads[reader, source] for step in self.steps]
            x = self._segment.blank(source, [read.span.size for read in reads], self._device)
            return pad_constant(x, self._border(source, x.dim(), [(read.before, read.after) for read in reads]), fill)
        window = self._window(reader, source, native=native)
        if window.spans is not None:
            dims = self._segment.dims[source]
            if spare:
                x = narrowed(x, dims, window.spans)
            else:
                x = crop(x, dims, window.spans, self._segment.memory_format(x.dim()))
        if window.border is None:
            return x
        return pad_constant(x, self._border(source, x.dim(), window.border), fill)

    def padding(self, reader: str) -> tuple[int, ...]:
        """Padding that a convolution or a pool adds itself, per axis, on both sides."""
        return self._window(reader, self._segment.first_source[reader], native=True).padding

    def _window(self, reader: str, source: str, *, native: bool) -> Window:
        key = (reader, source, native, self._kind)
        window: Window | None = self._segment.by_kind.get(key)
        if window is None:
            window = find_window(self._segment, self.steps, reader, source, native=native)
            self._segment.by_kind[key] = window
        return window

    def _border(self, name: str, rank: int, padding: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        """Padding of the image axes as padding of all dimensions."""
        border = [(0, 0)] * rank
        for dim, pair in zip(self._segment.dims[name], padding, strict=True):
            border[dim] = pair
        return border

    def block(self, x: Tensor | None, name: str) -> Tensor | None:
        """The part of a cut value's region that this tile contributes; None if it contributes nothing."""
        if x is None or any(step.blocks[name].is_empty for step in self.steps):
            return None
        for dim, step in zip(self._segment.dims[name], self.steps, strict=True):
            x = narrow(x, dim, step.blocks[name].relative_to(step.regions[name].start))
        return x

    def reshape(self, x: Tensor, shape: tuple[int | None, ...], call: str) -> Tensor:
        """Reshape what a call reads; None stands for an image axis.

        An axis merged with dimensions behind it covers whole inputs: the result is cut to the call's region.
        """
        edge = self._segment.edges[call, self._segment.first_source[call]]
        sizes, cuts = list(shape), []
        for dim, step, axis_map in zip(self._segment.dims[call], self.steps, edge.axis_maps, strict=True):
            covered = region = step.computed[call]
            if isinstance(axis_map, ScatterWindow):
                covered = axis_map.push(step.reads[edge.key].span)
            sizes[dim] = covered.size
            cuts.append((dim, region.relative_to(covered.start)))
        x = x.reshape([size for size in sizes if size is not None])
        for dim, span in cuts:
            x = narrow(x, dim, span)
        return x

    def fit(self, x: Tensor, bias: Tensor | None, call: str) -> Tensor:
        """Cut a scattered result to the call's region, fill gaps at its ends with zeros, and add the bias."""
        edge = self._segment.edges[call, self._segment.first_source[call]]
        border = [(0, 0)] * x.dim()
        for dim, step, axis_map in zip(self._segment.dims[call], self.steps, edge.axis_maps, strict=True):
            assert isinstance(axis_map, ScatterWindow)
            region = step.computed[call]
            covered = axis_map.push(step.reads[edge.key].span)
            start = min(max(region.start, covered.start), region.stop)
            stop = max(min(region.stop, covered.stop), start)
            inside = Interval(start, stop)
            x = narrow(x, dim, _inside(inside, covered))
            border[dim] = (inside.start - region.start, region.stop - inside.stop)
        x = pad_constant(x, border, 0.0)
        return x if bias is None else x + bias.to(x.dtype).view(-1, *(1,) * (x.dim() - 2))

    def add_(self, x: Tensor, other: Tensor | float, alpha: float = 1) -> Tensor:
        """`x + alpha * other`, written over `x` if it has the dtype of the sum; under autocast it need not."""
        return (
            x.add_(other, alpha=alpha) if torch.result_type(x, other) == x.dtype else torch.add(x, other, alpha=alpha)
        )

    def sub_(self, x: Tensor, other: Tensor | float, alpha: float = 1) -> Tensor:
        """`x - alpha * other`, likewise."""
        return self.add_(x, other, alpha=-alpha)

    def dropout(self, x: Tensor, seed: Tensor, p: float, call: str) -> Tensor:
        """Elementwise dropout, by the positions of the call's region in the full-size map."""
        spec, dims = self._segment.maps[call], self._segment.dims[call]
        starts = [0] * len(spec.shape)
        for dim, step in zip(dims, self.steps, strict=True):
            starts[dim] = step.computed[call].start
        return drop(x, seed, p, spec.shape, starts)

    scale = staticmethod(scale)

    def batch_norm(
        self,
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        *,
        eps: float,
    ) -> Tensor:
        """Batch normalisation with running statistics.

        On the CPU torch's backward is wrong for a map with an extent of 1 whose memory order is ambiguous, as a tile of
        one row may be: then the map and its gradient are brought into one order.
        """
        if x.device.type != "cpu" or 1 not in (x.shape[0], *x.shape[2:]):
            return F.batch_norm(x, mean, variance, weight, bias, eps=eps)
        ordered = self._segment.ordered
        normed = F.batch_norm(ordered(x), mean, variance, weight, bias, eps=eps)
        if normed.requires_grad:
            normed.register_hook(ordered)  # type: ignore[no-untyped-call]
        return normed

    def rescale(self, x: Tensor, call: str) -> Tensor:
        """Turn averages over full windows into averages over the samples that count."""
        key = (call, "rescale", self._kind, x.dtype, x.device)
        factors: list[Tensor] | None = self._segment.by_kind.get(key)
        if factors is None:  # windows are cut off by the borders alone, which tiles of a kind meet alike
            factors = self._segment.by_kind[key] = self._rescaling(x, call)
        for factor in factors:
            x = x * factor
        return x

    def _rescaling(self, x: Tensor, call: str) -> list[Tensor]:
        """Factors along the axes where windows are cut off; later calls, with autograd or without, use them too."""
        factors = []
        with torch.inference_mode(False):
            for dim, out, axis_map in self._lookups(call):
                assert isinstance(axis_map, AveragingWindow)
                counts = axis_map.counts(out)
                if any(count != axis_map.kernel for count in counts):
                    numbers = [axis_map.kernel / count for count in counts]
                    factors.append(_along(numbers_on(x.device, numbers, _exact(x.dtype)).to(x.dtype), dim, x.dim()))
        return factors

    def gather(self, x: Tensor, call: str) -> Tensor:
        """Look the call's region up position by position."""
        for dim, out, axis_map in self._lookups(call):
            assert isinstance(axis_map, IndexTable | FoldedPadding | FoldedWindow)
            x = _select(x, dim, axis_map.indices(out), self._origin(call, dim))
        return x

    def expect(self, x: Tensor, call: str) -> Tensor:
        """Check that what a registered rule computed has the extents of the call's region.

        Raises:
            RuleError: It has not.
        """
        regions = [step.computed[call] for step in self.steps]
        found = tuple(x.shape[dim] for dim in self._segment.dims[call] if dim < x.dim())
        if found != tuple(region.size for region in regions):
            raise RuleError(
                f"the rule of {call} computed {_by(found)} positions instead of {_by(r.size for r in regions)}",
                where=f"{call}, in the tile that computes {' x '.join(map(str, regions))} of it",
                why="`run` gets the region that the rule says is read, its border in place, and must not pad it again",
                do="make `run` return exactly the positions whose windows lie inside the region, or correct the window",
            )
        return x

    def lerp(self, x: Tensor, call: str) -> Tensor:
        """Mix the two samples around each position of the call's region, with weights of the full-size map."""
        result = x.float() if x.dtype in _REDUCED else x
        for dim, out, axis_map in self._lookups(call):
            assert isinstance(axis_map, LinearResize)
            lower, upper, weights = axis_map.taps(out)
            origin = self._origin(call, dim)
            low = _select(result, dim, lower, origin)
            if any(weights):
                high = _select(result, dim, upper, origin)
                weight = _along(numbers_on(x.device, weights, result.dtype), dim, x.dim())
                low = low + (high - low) * weight
            result = low
        return result.to(x.dtype)

    def _lookups(self, call: str) -> list[tuple[int, Interval, AxisMap]]:
        """Dimension, region and axis map of each axis of a call that reads one map."""
        edge = self._segment.edges[call, self._segment.first_source[call]]
        regions = [step.computed[call] for step in self.steps]
        return list(zip(self._segment.dims[call], regions, edge.axis_maps, strict=True))

    def _origin(self, call: str, dim: int) -> int:
        """Full-size position of the first sample of what a call reads."""
        source = self._segment.first_source[call]
        axis = self._segment.dims[source].index(dim)
        return self.steps[axis].reads[call, source].span.start


def _by(extents: Iterable[int]) -> str:
    return " x ".join(map(str, extents))


def _inside(inside: Interval, covered: Interval) -> Interval:
    """`inside` counted from the start of `covered`; an empty one that lies beyond it moves to its nearer end."""
    if inside.is_empty:
        return Interval(0, 0)
    return inside.relative_to(covered.start)


def _select(x: Tensor, dim: int, positions: tuple[int, ...], origin: int) -> Tensor:
    local = [position - origin for position in positions]
    if local == list(range(x.shape[dim])):
        return x
    return x.index_select(dim, numbers_on(x.device, local, torch.int64))


def _along(vector: Tensor, dim: int, rank: int) -> Tensor:
    """A vector shaped to broadcast along one dimension."""
    shape = [1] * rank
    shape[dim] = -1
    return vector.view(shape)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in _REDUCED else dtype
