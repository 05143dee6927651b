"""Operations that read the same position of every map: activations, arithmetic, casts.

add:  out [a, b) reads [a, b) of both maps; a parameter or a per-channel scale is read whole
"""

from __future__ import annotations

from streamplan.ir import ValueRef
from streamplan.rules.arguments import map_reference
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register

UNARY_FUNCTIONS: dict[str, str] = {
    **{
        name: f"torch.{name}"
        for name in (
            "abs acos asin atan ceil celu clamp clamp_max clamp_min cos cosh erf erfc exp expm1 floor frac log log10 "
            "log1p log2 logit neg prelu reciprocal relu round rsqrt selu sigmoid sign sin sinh sqrt square tan tanh "
            "trunc nan_to_num"
        ).split()
    },
    **{
        name: f"F.{name}"
        for name in (
            "elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 silu softplus "
            "softshrink softsign tanhshrink threshold"
        ).split()
    },
}
"""Canonical activation or function to the callable that computes it."""

ADDEND = "addend"
"""Argument that lowering gives to a ReLU that is written in one pass: what to add before it, or None."""

BIAS = "bias"
"""Argument that lowering gives to such a ReLU: one number per channel to add, or None."""

INFIX: dict[str, str] = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "pow": "**",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
"""Canonical arithmetic to its Python operator."""

BINARY_FUNCTIONS = ("maximum", "minimum", "atan2", "where", "lerp", "addcmul", "addcdiv", "masked_fill")
"""Elementwise functions of several tensors without an operator."""


def _broadcast_problem(ctx: RuleContext) -> str:
    """Why an elementwise call is not local although its maps are; "" if it is."""
    rank = len(ctx.output.shape)
    for name, spec in ctx.maps.items():
        if len(spec.shape) != rank or spec.dims != ctx.first_map.dims:
            return f"its maps disagree on which dimensions are the image's ({name})"
        if spec.extents != tuple(ctx.output.shape[dim] for dim in spec.dims):
            return f"{name} is broadcast along an image axis"
    if ctx.call.arguments.get(BIAS) is not None:
        return ""  # one number per channel of a convolution
    if ctx.call.op == "prelu":
        per_channel = any(spec.shape != (1,) for spec in ctx.smalls.values())
        return "its weight follows an image axis" if per_channel and 1 in ctx.first_map.dims else ""
    spanning = ctx.small_that_spans(ctx.first_map.dims)
    return f"{spanning} has values of its own for each position of the map" if spanning else ""


class Elementwise(Rule):
    """Arithmetic and functions, position by position, with broadcasting over the other dimensions."""

    summary = "elementwise, broadcasting over batch and channels"
    joins_maps = True

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise where all maps have the same axes and other operands do not span them."""
        problem = _broadcast_problem(ctx)
        return Verdict(Locality.GLOBAL, problem) if problem else POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`a + b`, `torch.relu(x)`, `F.leaky_relu(x, negative_slope=0.2)`."""
        op, arguments = ctx.call.op, dict(ctx.call.arguments)
        if ADDEND in arguments:
            texts = [code.window(map_reference(arguments["input"])), f'"{ctx.call.name}"']
            texts += [f"bias={code.value(bias)}"] if (bias := arguments.get(BIAS)) is not None else []
            texts += [f"add={code.window(addend)}"] if (addend := arguments[ADDEND]) is not None else []
            return f"t.rectify({', '.join(texts)})"
        if op in INFIX:
            left, right = (_operand(arguments[name], ctx, code) for name in ("input", "other"))
            alpha = arguments.get("alpha", 1)
            if code.overwrites:
                target, operand = (right, left) if code.overwrites == "other" else (left, right)
                return f"t.{op}_({target}, {operand}{'' if alpha == 1 else f', alpha={alpha!r}'})"
            return f"{left} {INFIX[op]} {right}" if alpha == 1 else f"torch.{op}({left}, {right}, alpha={alpha!r})"
        if op == "where":
            return f"torch.where({', '.join(_operand(value, ctx, code) for value in arguments.values())})"
        function = UNARY_FUNCTIONS.get(op, f"torch.{op}")
        texts = [_operand(arguments.pop("input"), ctx, code)]
        texts += [f"{name}={_operand(value, ctx, code)}" for name, value in arguments.items()]
        if code.overwrites and function.startswith("torch."):
            function += "_"
        elif code.overwrites:
            texts.append("inplace=True")
        return f"{function}({', '.join(texts)})"


def _operand(argument: object, ctx: RuleContext, code: CodeWriter) -> str:
    if isinstance(argument, ValueRef) and argument.name in ctx.maps:
        return code.window(argument)
    text = code.value(argument)
    return f"({text})" if text.startswith("-") else text  # -2.0 ** x would be -(2.0 ** x)


class Identity(Rule):
    """Operations that return their input: Identity, contiguous, clone."""

    summary = "returns its input; DropPath in eval mode"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise."""
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """The value itself, or its detached alias."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return f"{source}.detach()" if ctx.call.op == "detach" else source


class Cast(Rule):
    """Conversion to another dtype."""

    summary = "float(), half(), to(dtype)"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise."""
        return POINTWISE

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`x.to(torch.float32)`."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return f"{source}.to({ctx.output.dtype})"


register((*UNARY_FUNCTIONS, *INFIX, *BINARY_FUNCTIONS), Elementwise())
register(("identity", "detach"), Identity())
register("to", Cast())
