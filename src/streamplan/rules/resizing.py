"""Resizing: nearest and linear interpolation in one, two or three axes.

    linear, 3 -> 6, align_corners=False:  out 1 = 3/4 in 0 + 1/4 in 1;   out [1, 3) reads [0, 2)

Positions are computed from *global* coordinates and the *full* sizes, so a tile gets the weights the whole map would
have. Nearest takes its indices from torch itself, which computes them in float32 and so differs from the integer
formula (2 -> 82: output 41 reads input 0).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from streamplan.geometry import AxisMap, IndexTable, LinearResize
from streamplan.rules.arguments import map_reference
from streamplan.rules.base import CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.counting import count_linear, count_nearest
from streamplan.rules.registry import register

_NEAREST = ("nearest", "nearest-exact")
_LINEAR = ("linear", "bilinear", "trilinear")


class Interpolate(Rule):
    """`F.interpolate` and `nn.Upsample`."""

    summary = "nearest, nearest-exact, linear, bilinear, trilinear; size or scale_factor; both align_corners"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed for nearest and linear modes."""
        mode = ctx.call.arguments["mode"]
        if not ctx.is_channels_first:
            return Verdict(Locality.UNKNOWN, "an image axis stands in its batch or channel dimension")
        if ctx.call.arguments["antialias"]:
            return Verdict(Locality.UNKNOWN, "no rule for antialias=True")
        if mode not in _NEAREST + _LINEAR:
            return Verdict(Locality.UNKNOWN, f"no rule for mode={mode!r}")
        return Verdict(Locality.WINDOWED, f"{mode} to {'x'.join(map(str, ctx.output.shape[2:]))}")

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """A table of nearest positions, or positions and weights, per axis."""
        mode = ctx.call.arguments["mode"]
        align_corners = bool(ctx.call.arguments["align_corners"])
        sizes = zip(ctx.first_map.extents, ctx.output.shape[2:], _scales(ctx), strict=True)
        if mode in _NEAREST:
            kind = (mode, ctx.num_axes, ctx.output.dtype)
            return tuple(IndexTable(_nearest_table(n_in, n_out, scale, *kind)) for n_in, n_out, scale in sizes)
        return tuple(_linear(n_in, n_out, scale, align_corners) for n_in, n_out, scale in sizes)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.gather(x, "up")` or `t.lerp(x, "up")`."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return code.step("gather" if ctx.call.arguments["mode"] in _NEAREST else "lerp", source)

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """The samples that torch's own resize of this axis reads."""
        arguments, mode = ctx.call.arguments, ctx.call.arguments["mode"]
        options = {"recompute_scale_factor": arguments["recompute_scale_factor"]}
        if arguments["size"] is not None:
            options["size"] = (ctx.output.shape[2 + axis],)
        else:
            options["scale_factor"] = (_scale_factors(ctx)[axis],)
        if mode in _LINEAR:
            return count_linear(x, {**options, "mode": "linear", "align_corners": arguments["align_corners"]})
        sizes = {
            name: value + (type(value[0])(1),) * (ctx.num_axes - 1)
            for name, value in options.items()
            if isinstance(value, tuple)
        }
        return count_nearest(x, ctx.num_axes, ctx.output.dtype, {**options, **sizes, "mode": mode})


def _scales(ctx: RuleContext) -> tuple[float | None, ...]:
    """The scale factor torch computes coordinates with, per axis; None where it uses the ratio of the sizes."""
    arguments = ctx.call.arguments
    factor = arguments["scale_factor"]
    if factor is None or arguments["size"] is not None or arguments["recompute_scale_factor"]:
        return (None,) * ctx.num_axes
    return _scale_factors(ctx)


def _scale_factors(ctx: RuleContext) -> tuple[float, ...]:
    """The argument `scale_factor`, per axis."""
    factor = ctx.call.arguments["scale_factor"]
    factors = factor if isinstance(factor, tuple | list) else (factor,) * ctx.num_axes
    return tuple(float(item) for item in factors)


def _linear(n_in: int, n_out: int, scale: float | None, align_corners: bool) -> LinearResize:
    if n_in == n_out or n_out == 1 == n_in:
        return LinearResize(num=1, den=1, first=0, extent=n_in)  # torch copies such an axis
    if align_corners:
        return LinearResize(num=n_in - 1, den=n_out - 1, first=0, extent=n_in) if n_out > 1 else _first(n_in)
    ratio = Fraction(n_out, n_in) if scale is None else _simple(scale)
    p, q = ratio.numerator, ratio.denominator
    return LinearResize(num=2 * q, den=2 * p, first=q - p, extent=n_in)


def _simple(scale: float) -> Fraction:
    """The fraction a scale factor stands for: 11/5 for 2.2, which as a float is a little more.

    Positions that fall on a sample then do so exactly, as they do in torch's rounded arithmetic.
    """
    simple = Fraction(scale).limit_denominator(_MAX_DENOMINATOR)
    return simple if float(simple) == scale else Fraction(scale)


_MAX_DENOMINATOR = 1000
"""Of a scale factor that somebody wrote as a decimal or a quotient."""


def _first(n_in: int) -> LinearResize:
    """align_corners with one output: position 0."""
    return LinearResize(num=0, den=1, first=0, extent=n_in)


@lru_cache(maxsize=256)
def _nearest_table(
    n_in: int, n_out: int, scale: float | None, mode: str, num_axes: int, dtype: torch.dtype
) -> tuple[int, ...]:
    """Input position of each output position, from torch's own kernel for this number of axes and dtype.

    Kernels differ in the precision they compute indices with. The positions go through the kernel as digits, one per
    channel, since a reduced dtype does not hold them whole.
    """
    digits, axes = _digits(n_in, dtype), [1] * (num_axes - 1)
    kernel = "upsample_nearest" if mode == "nearest" else "_upsample_nearest_exact"
    resize = getattr(torch.ops.aten, f"{kernel}{num_axes}d")
    looked_up = resize(digits.reshape(1, len(digits), n_in, *axes), [n_out, *axes], scale, *[None] * len(axes))
    table = sum(_BASE**place * looked_up[0, place].flatten().long() for place in range(len(digits)))
    assert isinstance(table, torch.Tensor)
    return tuple(table.tolist())


_BASE = 128
"""Digits below it are exact in every dtype."""
_NUM_DIGITS = 4
"""Enough for 2^28 positions; more than one channel, so that the layout is not taken for channels last."""


def _digits(count: int, dtype: torch.dtype) -> torch.Tensor:
    """The numbers below `count`, one row per digit, least significant first."""
    numbers = torch.arange(count)
    return torch.stack([numbers // _BASE**place % _BASE for place in range(_NUM_DIGITS)]).to(dtype)


register("interpolate", Interpolate())
