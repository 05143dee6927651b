"""Operations that write their input several times: expand, repeat, tile, repeat_interleave.

x.repeat(1, 4, 1, 1):  out [a, b) reads [a, b), four times over along channels
"""

from __future__ import annotations

from streamplan.rules.arguments import map_reference, positive_dim
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register

_ALONG_AXIS = "it repeats the map along an image axis"


class Expand(Rule):
    """`expand`, `expand_as`, `broadcast_to`; the shape of the result says all."""

    summary = "over batch, channels and new dimensions"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise unless an image axis of one position becomes longer."""
        after = tuple(ctx.output.shape[dim] for dim in self.output_dims(ctx))
        return POINTWISE if after == ctx.first_map.extents else Verdict(Locality.GLOBAL, _ALONG_AXIS)

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """New dimensions come first."""
        return _behind_new_dims(ctx)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`x.expand(2, 8, -1, -1)`: -1 stands for an axis of the region."""
        dims = self.output_dims(ctx)
        sizes = [-1 if dim in dims else extent for dim, extent in enumerate(ctx.output.shape)]
        return f"{code.window(map_reference(ctx.call.arguments['input']))}.expand({', '.join(map(str, sizes))})"


class Repeat(Rule):
    """`repeat` and `tile`: copies of the whole one after the other."""

    summary = "along batch, channels and new dimensions"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise unless the map is repeated along an image axis."""
        repeats = ctx.call.arguments["repeats"]
        if any(repeats[dim] != 1 for dim in self.output_dims(ctx)):
            return Verdict(Locality.GLOBAL, _ALONG_AXIS)
        return POINTWISE

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """New dimensions come first."""
        return _behind_new_dims(ctx)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`x.repeat(1, 4, 1, 1)`."""
        arguments = ctx.call.arguments
        return f"{code.window(map_reference(arguments['input']))}.repeat({', '.join(map(str, arguments['repeats']))})"


class RepeatInterleave(Rule):
    """`repeat_interleave`: copies of each entry side by side."""

    summary = "along batch or channels, the same number of times"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise unless along an image axis."""
        dim = positive_dim(int(ctx.call.arguments["dim"]), len(ctx.first_map.shape))
        return Verdict(Locality.GLOBAL, _ALONG_AXIS) if dim in ctx.first_map.dims else POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`torch.repeat_interleave(x, 3, dim=1)`."""
        arguments = ctx.call.arguments
        source = code.window(map_reference(arguments["input"]))
        return f"torch.repeat_interleave({source}, {arguments['repeats']}, dim={arguments['dim']})"


def _behind_new_dims(ctx: RuleContext) -> tuple[int, ...]:
    num_new = len(ctx.output.shape) - len(ctx.first_map.shape)
    return tuple(dim + num_new for dim in ctx.first_map.dims)


register("expand", Expand())
register("repeat", Repeat())
register("repeat_interleave", RepeatInterleave())
