"""Convolutions and transposed convolutions, in one, two or three axes.

    k=3 s=2 p=1:   out  0     1     2        out [1, 3) reads [1, 6)
                   in (p 0 1)(1 2 3)(3 4 5)

    transposed, k=3 s=2 p=1:  in 1 writes out [1, 4);  out [2, 4) reads [1, 3)

The region is padded by what was clamped off, and the operation itself runs without padding. A transposed convolution
runs on its crop without padding or bias; its result is cut or filled with zeros to the region, then the bias is added.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from streamplan.geometry import AffineWindow, AxisMap, ScatterWindow
from streamplan.ir import OpCall
from streamplan.rules.arguments import map_reference, per_axis
from streamplan.rules.base import CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.counting import count_conv, count_transposed, filled
from streamplan.rules.registry import register


def same_padding_before(kernel: int, dilation: int) -> int:
    """Samples that torch's `padding="same"` puts before an axis; the odd one of an even kernel goes after it."""
    return dilation * (kernel - 1) // 2


def _kernel(call: OpCall, num_axes: int) -> tuple[int, ...]:
    """Extents of the weight, which lowering records beside the reference to it."""
    return per_axis(call.arguments["kernel_size"], num_axes)


class Convolution(Rule):
    """`conv1d`, `conv2d`, `conv3d` with zero padding, any stride, dilation and groups."""

    summary = "zero or 'same' padding, any stride, dilation and groups, even and asymmetric kernels"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed for channels-first maps."""
        if not ctx.is_channels_first:
            return Verdict(Locality.UNKNOWN, "an image axis stands in its batch or channel dimension")
        return Verdict(Locality.WINDOWED, describe_window(ctx))

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """A sliding window per axis."""
        arguments, axes = ctx.call.arguments, ctx.num_axes
        kernel, dilation = _kernel(ctx.call, axes), per_axis(arguments["dilation"], axes)
        if arguments["padding"] == "same":
            padding = tuple(same_padding_before(k, d) for k, d in zip(kernel, dilation, strict=True))
        else:
            padding = per_axis(0 if arguments["padding"] == "valid" else arguments["padding"], axes)
        stride = per_axis(arguments["stride"], axes)
        return tuple(
            AffineWindow.sliding(kernel=k, stride=s, padding=p, dilation=d)
            for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)
        )

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`F.conv2d(t.window(x, "conv1", native=True), weight, bias, stride=2, padding=t.padding("conv1"))`."""
        arguments = ctx.call.arguments
        region, padding = code.padded(map_reference(arguments["input"]))
        parts = [
            region,
            code.value(arguments["weight"]),
            code.value(arguments["bias"]),
            *_settings(ctx, ("stride", "dilation", "groups")),
            *([f"padding={padding}"] if padding else []),
        ]
        return f"F.conv{ctx.num_axes}d({', '.join(parts)})"

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """A convolution with ones."""
        arguments, axes = ctx.call.arguments, ctx.num_axes
        taps = filled(_kernel(ctx.call, axes)[axis], per_axis(arguments["dilation"], axes)[axis])
        padding = arguments["padding"]
        if not isinstance(padding, str):
            padding = per_axis(padding, axes)[axis]
        return count_conv(x, taps=taps, stride=per_axis(arguments["stride"], axes)[axis], padding=padding)


class TransposedConvolution(Rule):
    """`conv_transpose1d`, `conv_transpose2d`, `conv_transpose3d` with output padding, gaps included."""

    summary = "any stride, padding, output_padding, dilation and groups"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed for channels-first maps."""
        if not ctx.is_channels_first:
            return Verdict(Locality.UNKNOWN, "an image axis stands in its batch or channel dimension")
        return Verdict(Locality.WINDOWED, describe_window(ctx))

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """A scattering window per axis."""
        arguments, axes = ctx.call.arguments, ctx.num_axes
        settings = zip(
            _kernel(ctx.call, axes),
            per_axis(arguments["stride"], axes),
            per_axis(arguments["padding"], axes),
            per_axis(arguments["dilation"], axes),
            strict=True,
        )
        return tuple(ScatterWindow(kernel=k, stride=s, padding=p, dilation=d) for k, s, p, d in settings)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.fit(F.conv_transpose2d(t.window(x, "up"), weight, None, stride), bias, "up")`."""
        arguments = ctx.call.arguments
        parts = [
            code.window(map_reference(arguments["input"])),
            code.value(arguments["weight"]),
            "None",
            *_settings(ctx, ("stride", "groups", "dilation")),
        ]
        scattered = f"F.conv_transpose{ctx.num_axes}d({', '.join(parts)})"
        return code.step("fit", scattered, code.value(arguments["bias"]))

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """A transposed convolution with ones, cut like torch cuts it.

        Torch takes an `output_padding` up to the dilation, which a filled kernel no longer has: hence the `F.pad`.
        """
        arguments, axes = ctx.call.arguments, ctx.num_axes
        taps = filled(_kernel(ctx.call, axes)[axis], per_axis(arguments["dilation"], axes)[axis])
        padding, extra = (per_axis(arguments[name], axes)[axis] for name in ("padding", "output_padding"))
        whole = count_transposed(x, taps=taps, stride=per_axis(arguments["stride"], axes)[axis])
        return F.pad(whole, (-padding, extra - padding))


class PixelShuffle(Rule):
    """`pixel_shuffle`: channels to space."""

    summary = "2-D channels to space"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed for channels-first maps with two axes."""
        if not ctx.is_channels_first or ctx.num_axes != 2:
            return Verdict(Locality.UNKNOWN, "it is defined for (batch, channels, height, width)")
        return Verdict(Locality.WINDOWED, f"factor {ctx.call.arguments['upscale_factor']}")

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """One input writes `factor` outputs along each axis."""
        factor = int(ctx.call.arguments["upscale_factor"])
        return (ScatterWindow(kernel=factor, stride=factor),) * ctx.num_axes

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.fit(F.pixel_shuffle(t.window(x, "up"), 2), None, "up")`."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return code.step("fit", f"F.pixel_shuffle({source}, {ctx.call.arguments['upscale_factor']})", "None")

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """A pixel shuffle of a map one sample wide."""
        factor = int(ctx.call.arguments["upscale_factor"])
        batch, _, count = x.shape
        return F.pixel_shuffle(x[..., None].expand(batch, factor**2, count, 1), factor)[..., 0]


class PixelUnshuffle(Rule):
    """`pixel_unshuffle`: space to channels."""

    summary = "2-D space to channels"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed for channels-first maps with two axes."""
        if not ctx.is_channels_first or ctx.num_axes != 2:
            return Verdict(Locality.UNKNOWN, "it is defined for (batch, channels, height, width)")
        return Verdict(Locality.WINDOWED, f"factor {ctx.call.arguments['downscale_factor']}")

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """One output reads `factor` inputs along each axis."""
        factor = int(ctx.call.arguments["downscale_factor"])
        return (AffineWindow.sliding(kernel=factor, stride=factor),) * ctx.num_axes

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`F.pixel_unshuffle(t.window(x, "down"), 2)`."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return f"F.pixel_unshuffle({source}, {ctx.call.arguments['downscale_factor']})"

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """The channels of a pixel unshuffle, summed."""
        factor = int(ctx.call.arguments["downscale_factor"])
        return F.pixel_unshuffle(x[..., None].expand(*x.shape, factor), factor).sum(1, keepdim=True)[..., 0]


def _settings(ctx: RuleContext, names: tuple[str, ...]) -> list[str]:
    """Keyword arguments that differ from 1, as source text."""
    texts = []
    for name in names:
        value = ctx.call.arguments[name]
        axes = 1 if name == "groups" else ctx.num_axes
        values = per_axis(value, axes)
        if any(item != 1 for item in values):
            texts.append(f"{name}={values[0] if len(set(values)) == 1 else values}")
    return texts


def describe_window(ctx: RuleContext) -> str:
    """The window as `k7 s2 p3`, or one number per axis where they differ: `k1x7 p0x3`."""
    arguments, axes = ctx.call.arguments, ctx.num_axes
    stride = arguments.get("stride")
    settings = [
        ("k", arguments["kernel_size"], None),
        ("s", arguments["kernel_size"] if stride is None or stride == () else stride, 1),
        ("p", arguments.get("padding", 0), 0),
        ("d", arguments.get("dilation", 1), 1),
    ]
    texts = []
    for letter, value, default in settings:
        if isinstance(value, str):
            texts.append(letter + value)
            continue
        values = per_axis(value, axes)
        if any(item != default for item in values):
            texts.append(letter + ("x".join(map(str, values)) if len(set(values)) > 1 else str(values[0])))
    return " ".join(texts)


register("conv", Convolution())
register("conv_transpose", TransposedConvolution())
register("pixel_shuffle", PixelShuffle())
register("pixel_unshuffle", PixelUnshuffle())
