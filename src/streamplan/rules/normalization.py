"""Normalisation layers: local where they use stored statistics or one position's channels, global otherwise."""

from __future__ import annotations

from streamplan.rules.arguments import map_reference
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register


class BatchNorm(Rule):
    """Batch normalisation, local with running statistics."""

    summary = "eval mode or frozen; in training mode it is global"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise with running statistics; training mode needs statistics of the whole map."""
        arguments = ctx.call.arguments
        if arguments["running_mean"] is None:
            return Verdict(
                Locality.GLOBAL, "without running statistics it needs those of the whole map in eval mode too"
            )
        if arguments["training"]:
            return Verdict(Locality.GLOBAL, "in training mode it needs statistics of the whole map")
        if not ctx.is_channels_first:
            return Verdict(Locality.UNKNOWN, "an image axis stands in its batch or channel dimension")
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.batch_norm(x, mean, var, weight, bias, eps=1e-05)`."""
        arguments = ctx.call.arguments
        names = ("running_mean", "running_var", "weight", "bias")
        parts = [code.window(map_reference(arguments["input"])), *(code.value(arguments[name]) for name in names)]
        return f"t.batch_norm({', '.join(parts)}, eps={arguments['eps']!r})"


class LayerNorm(Rule):
    """Layer normalisation over trailing dimensions that are not image axes (channels last)."""

    summary = "over channels in channels-last layout"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise if no normalised dimension is an image axis."""
        rank = len(ctx.first_map.shape)
        normalized = range(rank - len(ctx.call.arguments["normalized_shape"]), rank)
        if any(dim in ctx.first_map.dims for dim in normalized):
            return Verdict(Locality.GLOBAL, "it needs statistics along image axes")
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`F.layer_norm(x, (96,), weight, bias, eps=1e-06)`."""
        arguments = ctx.call.arguments
        parts = [
            code.window(map_reference(arguments["input"])),
            str(tuple(arguments["normalized_shape"])),
            code.value(arguments["weight"]),
            code.value(arguments["bias"]),
        ]
        return f"F.layer_norm({', '.join(parts)}, eps={arguments['eps']!r})"


class Linear(Rule):
    """A linear layer over the last dimension, channels last."""

    summary = "over channels in channels-last layout"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise if the last dimension is not an image axis."""
        if len(ctx.first_map.shape) - 1 in ctx.first_map.dims:
            return Verdict(Locality.GLOBAL, "it mixes all positions along the last image axis")
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`F.linear(x, weight, bias)`."""
        arguments = ctx.call.arguments
        source = code.window(map_reference(arguments["input"]))
        return f"F.linear({source}, {code.value(arguments['weight'])}, {code.value(arguments['bias'])})"


register("batch_norm", BatchNorm())
register("layer_norm", LayerNorm())
register("linear", Linear())
