"""Max, average and adaptive pooling.

    k=3 s=2 p=1 ceil_mode, extent 4:  out 0 reads (p 0 1), out 1 reads (1 2 3), out 2 reads (3 p p)

A ceil_mode overhang is ordinary padding after the axis. An average divides by a number that depends on the global
position: the region is averaged over full windows first, then scaled where a window touches the border.
"""

from __future__ import annotations

import math

from torch import Tensor

from streamplan.geometry import AffineWindow, AveragingWindow, AxisMap
from streamplan.rules.arguments import map_reference, per_axis
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.convolution import describe_window
from streamplan.rules.counting import count_pool, filled
from streamplan.rules.registry import register


def _kernel_and_stride(ctx: RuleContext) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kernel and stride per axis; an absent stride is the kernel."""
    arguments, axes = ctx.call.arguments, ctx.num_axes
    stride = arguments["stride"]
    kernel = per_axis(arguments["kernel_size"], axes)
    return kernel, kernel if stride is None or stride == () else per_axis(stride, axes)


def _classify_pool(ctx: RuleContext) -> Verdict:
    if not ctx.is_channels_first:
        return Verdict(Locality.UNKNOWN, "an image axis stands in its batch or channel dimension")
    extents = ctx.output.shape[2:]
    if all(extent == 1 for extent in extents) and any(extent > 1 for extent in ctx.first_map.extents):
        return Verdict(Locality.GLOBAL, "at this input size its window covers the whole map")
    return Verdict(Locality.WINDOWED, describe_window(ctx))


class MaxPool(Rule):
    """`max_pool1d`, `max_pool2d`, `max_pool3d` without indices."""

    summary = "padding, dilation, ceil_mode"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed, unless one window covers the map or torch's own backward is unsafe."""
        if ctx.call.arguments["return_indices"]:
            return Verdict(Locality.UNKNOWN, "its indices count positions of the whole map")
        verdict = _classify_pool(ctx)
        if verdict.locality.is_local and self._misses_input(ctx):
            return Verdict(Locality.UNKNOWN, "a dilated window that misses its input corrupts memory in torch")
        return verdict

    def _misses_input(self, ctx: RuleContext) -> bool:
        """Whether a dilated window may contain no input position at all."""
        dilation = per_axis(ctx.call.arguments["dilation"], ctx.num_axes)
        kernel, _ = _kernel_and_stride(ctx)
        return any(d > 1 and d * (k - 1) >= n for d, k, n in zip(dilation, kernel, ctx.first_map.extents, strict=True))

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """A sliding window per axis."""
        arguments, axes = ctx.call.arguments, ctx.num_axes
        kernel, stride = _kernel_and_stride(ctx)
        padding, dilation = per_axis(arguments["padding"], axes), per_axis(arguments["dilation"], axes)
        return tuple(
            AffineWindow.sliding(kernel=k, stride=s, padding=p, dilation=d)
            for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)
        )

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`F.max_pool2d(t.window(x, "pool", fill=-inf, native=True), 3, 2, t.padding("pool"))`."""
        kernel, stride = _kernel_and_stride(ctx)
        dilation = per_axis(ctx.call.arguments["dilation"], ctx.num_axes)
        source, padding = code.padded(map_reference(ctx.call.arguments["input"]), -math.inf)
        tail = f", {padding}" if padding else ""
        tail += f", dilation={_short(dilation)}" if any(d != 1 for d in dilation) else ""
        return f"F.max_pool{ctx.num_axes}d({source}, {_short(kernel)}, {_short(stride)}{tail})"

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """Sums instead of maxima."""
        return _count_windows(ctx, axis, x, per_axis(ctx.call.arguments["dilation"], ctx.num_axes)[axis])


class AveragePool(Rule):
    """`avg_pool1d`, `avg_pool2d`, `avg_pool3d`."""

    summary = "padding, ceil_mode, both count_include_pad, divisor_override"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed, unless one window covers the map."""
        return _classify_pool(ctx)

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """A sliding window per axis that knows what it divides by."""
        arguments, axes = ctx.call.arguments, ctx.num_axes
        kernel, stride = _kernel_and_stride(ctx)
        padding = per_axis(arguments["padding"], axes)
        include = bool(arguments["count_include_pad"])
        return tuple(
            AveragingWindow(k, s, p, n, include)
            for k, s, p, n in zip(kernel, stride, padding, ctx.first_map.extents, strict=True)
        )

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.rescale(F.avg_pool2d(t.window(x, "pool"), 3, 2), "pool")`; no rescaling with a fixed divisor."""
        kernel, stride = _kernel_and_stride(ctx)
        source = code.window(map_reference(ctx.call.arguments["input"]))
        divisor = ctx.call.arguments["divisor_override"]
        tail = f", divisor_override={divisor}" if divisor is not None else ""
        average = f"F.avg_pool{ctx.num_axes}d({source}, {_short(kernel)}, {_short(stride)}{tail})"
        return average if divisor is not None else code.step("rescale", average)

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """Sums instead of averages."""
        return _count_windows(ctx, axis, x, dilation=1)


class AdaptivePool(Rule):
    """`adaptive_avg_pool*` and `adaptive_max_pool*`: the identity at the map's own size, else global."""

    summary = "local only where it keeps the size"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise where input and output extents agree, global otherwise."""
        if ctx.call.arguments.get("return_indices"):
            return Verdict(Locality.UNKNOWN, "its indices count positions of the whole map")
        if not ctx.is_channels_first:
            return Verdict(Locality.UNKNOWN, "an image axis stands in its batch or channel dimension")
        if ctx.output.shape[2:] == ctx.first_map.extents:
            return POINTWISE
        extents = "x".join(map(str, ctx.output.shape[2:]))
        return Verdict(Locality.GLOBAL, f"it reduces the map to {extents} at any size, so its windows grow with it")

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """The value itself."""
        return code.window(map_reference(ctx.call.arguments["input"]))


def _count_windows(ctx: RuleContext, axis: int, x: Tensor, dilation: int) -> Tensor:
    arguments = ctx.call.arguments
    kernel, stride = _kernel_and_stride(ctx)
    padding = per_axis(arguments["padding"], ctx.num_axes)[axis]
    taps = filled(kernel[axis], dilation)
    return count_pool(x, kernel=taps, stride=stride[axis], padding=padding, ceil_mode=bool(arguments["ceil_mode"]))


def _short(values: tuple[int, ...]) -> str:
    """One number where all axes agree."""
    return str(values[0]) if len(set(values)) == 1 else str(values)


register("max_pool", MaxPool())
register("avg_pool", AveragePool())
register(("adaptive_avg_pool", "adaptive_max_pool"), AdaptivePool())
