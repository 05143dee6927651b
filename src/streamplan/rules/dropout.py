"""Dropout: the identity in eval mode; in training mode one draw per forward pass, which all tiles share.

    dropout          out[n, c, y, x] = in[n, c, y, x] * keep(seed, n, c, y, x) / (1 - p)
    feature_dropout  out[n, c, y, x] = in[n, c, y, x] * mask[n, c]

`keep` is a function of the position in the full-size map, so a tile, its recomputation and samples that are computed
again all see one mask, which nowhere exists as a whole.
"""

from __future__ import annotations

from streamplan.rules.arguments import map_reference
from streamplan.rules.base import POINTWISE, CodeWriter, Draw, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register


def is_active(ctx: RuleContext) -> bool:
    """Whether a dropout changes anything."""
    return bool(ctx.call.arguments["training"]) and ctx.call.arguments["p"] > 0


class Dropout(Rule):
    """Every element by itself."""

    summary = "in training mode a mask that is a function of one seed per call and the position"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise."""
        return POINTWISE

    def draw(self, ctx: RuleContext) -> Draw | None:
        """The seed."""
        return Draw("seed", ctx.output, ctx.call.arguments["p"]) if is_active(ctx) else None

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.dropout(x, w["dropout.seed"], 0.5, "dropout")`, or the value itself."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return code.step("dropout", source, code.drawn, repr(float(ctx.call.arguments["p"]))) if code.drawn else source


class FeatureDropout(Rule):
    """Whole channels of one image: Dropout1d, Dropout2d, Dropout3d."""

    summary = "in training mode one mask of channels per call"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise, where batch and channels stand in front."""
        if is_active(ctx) and not ctx.is_channels_first:
            return Verdict(
                Locality.GLOBAL, "it drops entries of the first two dimensions, and the image has one of them"
            )
        return POINTWISE

    def draw(self, ctx: RuleContext) -> Draw | None:
        """The mask: 0 or 1 / (1 - p) for every channel of every image."""
        return Draw("mask", ctx.output, ctx.call.arguments["p"]) if is_active(ctx) else None

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.scale(x, w["dropout2d.mask"])`, or the value itself."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return f"t.scale({source}, {code.drawn})" if code.drawn else source


class AlphaDropout(Rule):
    """AlphaDropout and FeatureAlphaDropout."""

    summary = "eval mode; in training mode it is refused"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise in eval mode or with p=0."""
        if is_active(ctx):
            return Verdict(Locality.GLOBAL, "in training mode it draws one random mask for the whole map")
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """The value itself."""
        return code.window(map_reference(ctx.call.arguments["input"]))


register("dropout", Dropout())
register("feature_dropout", FeatureDropout())
register("alpha_dropout", AlphaDropout())
