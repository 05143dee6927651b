"""Operations over channels: joins, reductions, softmax, and others along a dimension that is not an image axis.

cat([a, b], 1):  out [a, b) reads [a, b) of every map, whatever happens to their channels
"""

from __future__ import annotations

from streamplan.ir import AttributeRef, references
from streamplan.rules.arguments import dims_argument, map_reference, positive_dim
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register


class Concatenation(Rule):
    """`torch.cat` along a dimension that is not an image axis."""

    summary = "along batch or channels"
    joins_maps = True

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise along channels; along an image axis positions shift."""
        dim = positive_dim(int(ctx.call.arguments["dim"]), len(ctx.output.shape))
        verdict = _check_joined(ctx)
        if verdict.locality.is_local and dim in ctx.first_map.dims:
            return Verdict(Locality.UNKNOWN, "no rule for joining maps along an image axis")
        return verdict

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`torch.cat([a, b], 1)`."""
        parts = [code.window(ref) for ref in ctx.call.arguments["tensors"]]
        return f"torch.cat([{', '.join(parts)}], {ctx.call.arguments['dim']})"


class Stack(Concatenation):
    """`torch.stack`: maps side by side along a new dimension."""

    summary = "along a new dimension"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise if all its tensors are maps of one layout."""
        return _check_joined(ctx)

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """Dimensions from the new one on move back."""
        new = positive_dim(int(ctx.call.arguments["dim"]), len(ctx.output.shape))
        return tuple(dim + (dim >= new) for dim in ctx.first_map.dims)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`torch.stack([a, b], 1)`."""
        parts = [code.window(ref) for ref in ctx.call.arguments["tensors"]]
        return f"torch.stack([{', '.join(parts)}], {ctx.call.arguments['dim']})"


class OverChannels(Rule):
    """Softmax and reductions over dimensions that are not image axes."""

    summary = "over channels, at each position"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise if no reduced dimension is an image axis."""
        dims = dims_argument(ctx.call, len(ctx.first_map.shape))
        axes = [dim for dim in dims if dim in ctx.first_map.dims]
        if axes:
            return Verdict(Locality.GLOBAL, f"it reduces image axes (dimensions {', '.join(map(str, axes))})")
        return POINTWISE

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """Reduced dimensions disappear unless kept."""
        if ctx.call.arguments.get("keepdim", True):
            return ctx.first_map.dims
        gone = dims_argument(ctx.call, len(ctx.first_map.shape))
        return tuple(dim - sum(d < dim for d in gone) for dim in ctx.first_map.dims)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`torch.softmax(x, dim=1)`."""
        arguments = dict(ctx.call.arguments)
        texts = [code.window(map_reference(arguments.pop("input")))]
        texts += [f"{name}={code.value(value)}" for name, value in arguments.items() if value is not None]
        module = "F" if ctx.call.op in ("glu", "normalize") else "torch"
        return f"{module}.{ctx.call.op}({', '.join(texts)})"


class Reordering(OverChannels):
    """`flip` and `roll` along channels."""

    summary = "along channels"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise along channels; along an image axis the first tile would need the last one."""
        dims = dims_argument(ctx.call, len(ctx.first_map.shape), "dims")
        if any(dim in ctx.first_map.dims for dim in dims):
            return Verdict(Locality.GLOBAL, "it moves positions along an image axis from one end to the other")
        return POINTWISE

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """Dimensions stay."""
        return ctx.first_map.dims


class IndexSelect(Rule):
    """`index_select` along channels."""

    summary = "along channels"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise along channels."""
        dim = positive_dim(int(ctx.call.arguments["dim"]), len(ctx.first_map.shape))
        if dim in ctx.first_map.dims:
            return Verdict(Locality.GLOBAL, "it selects positions of an image axis that only the data determine")
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`torch.index_select(x, 1, index)`."""
        arguments = ctx.call.arguments
        source = code.window(map_reference(arguments["input"]))
        return f"torch.index_select({source}, {arguments['dim']}, {code.value(arguments['index'])})"


class LocalResponseNorm(Rule):
    """Local response normalisation: over neighbouring channels."""

    summary = "over neighbouring channels"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise for channels-first maps."""
        if not ctx.is_channels_first:
            return Verdict(Locality.UNKNOWN, "an image axis stands in its batch or channel dimension")
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`F.local_response_norm(x, size=5, alpha=0.0001, beta=0.75, k=1.0)`."""
        arguments = dict(ctx.call.arguments)
        texts = [code.window(map_reference(arguments.pop("input")))]
        texts += [f"{name}={value!r}" for name, value in arguments.items()]
        return f"F.local_response_norm({', '.join(texts)})"


def _check_joined(ctx: RuleContext) -> Verdict:
    """Whether all joined tensors are maps of one layout."""
    tensors = list(references(ctx.call.arguments["tensors"]))
    if any(isinstance(ref, AttributeRef) or ref.name not in ctx.maps for ref in tensors):
        return Verdict(Locality.GLOBAL, "it joins a map with a tensor that is not computed from the image")
    if any(spec.dims != ctx.first_map.dims for spec in ctx.maps.values()):
        return Verdict(Locality.GLOBAL, "its maps disagree on which dimensions are the image's")
    return POINTWISE


register("cat", Concatenation())
register("stack", Stack())
register(
    ("softmax", "log_softmax", "sum", "mean", "amax", "amin", "argmax", "argmin", "var", "std", "glu", "normalize"),
    OverChannels(),
)
register(("flip", "roll"), Reordering())
register("index_select", IndexSelect())
register("local_response_norm", LocalResponseNorm())
