"""`F.pad` and the padding modules.

    constant, (2, 1):  out 0 1 2 3 4 5 6        out [1, 4) reads [0, 2) and one sample of the constant before
                       in  c c 0 1 2 3 c

Constant padding is a shifted window whose border is filled; a negative amount crops. Reflected, replicated and
circular borders look their positions up.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from streamplan.geometry import AffineWindow, AxisMap, FoldedPadding
from streamplan.rules.arguments import map_reference
from streamplan.rules.base import CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register


class Pad(Rule):
    """Padding of the image axes, and constant padding of others."""

    summary = "constant (any value, negative amounts crop), reflect, replicate, circular"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed where each padded dimension is an image axis; constant padding may also touch channels."""
        mode = ctx.call.arguments["mode"]
        if mode not in ("constant", "reflect", "replicate", "circular"):
            return Verdict(Locality.UNKNOWN, f"no rule for mode={mode!r}")
        amounts = _amounts(ctx)
        if mode != "constant":
            other = set(range(len(amounts))) - set(ctx.first_map.dims)
            if any(amounts[dim] != (0, 0) for dim in other):
                return Verdict(Locality.UNKNOWN, f"{mode} padding of a dimension that is not an image axis")
            if any(amount < 0 for pair in amounts for amount in pair):
                return Verdict(Locality.UNKNOWN, f"no rule for negative {mode} padding")
        return Verdict(Locality.WINDOWED, f"{mode} {tuple(ctx.call.arguments['pad'])}")

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """A shift, or a folded border, per axis."""
        amounts, mode = _amounts(ctx), ctx.call.arguments["mode"]
        spec = ctx.first_map
        if mode == "constant":
            return tuple(AffineWindow.shift(-amounts[dim][0]) for dim in spec.dims)
        return tuple(FoldedPadding(amounts[dim][0], spec.shape[dim], mode) for dim in spec.dims)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.window(x, "pad", fill=1.0)` or `t.gather(x, "pad")`."""
        source = map_reference(ctx.call.arguments["input"])
        if ctx.call.arguments["mode"] != "constant":
            return code.step("gather", code.window(source))
        value = ctx.call.arguments["value"]
        fill = 0.0 if value is None else float(value)
        text = code.window(source, fill, ahead=True)
        amounts = list(_amounts(ctx))
        for dim in ctx.first_map.dims:
            amounts[dim] = (0, 0)
        if any(pair != (0, 0) for pair in amounts):
            flat = [amount for pair in reversed(amounts) for amount in pair]
            text = f"F.pad({text}, {tuple(flat)}, value={fill!r})"
        return text

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """The padding itself; samples of a constant count 0 whatever is at hand, so they never lack anything."""
        return F.pad(x, _amounts(ctx)[ctx.first_map.dims[axis]], mode=ctx.call.arguments["mode"])


def _amounts(ctx: RuleContext) -> tuple[tuple[int, int], ...]:
    """Samples before and after each tensor dimension; torch lists them from the last dimension backwards."""
    pad = [int(amount) for amount in ctx.call.arguments["pad"]]
    pairs = [(pad[2 * i], pad[2 * i + 1]) for i in range(len(pad) // 2)]
    rank = len(ctx.first_map.shape)
    return tuple(reversed(pairs + [(0, 0)] * (rank - len(pairs))))


register("pad", Pad())
