"""The `derive` function of a program: tensors that the tiles need in another form, computed once per pass.

    scale = w["bn1.weight"] / torch.sqrt(w["bn1.running_var"] + 1e-05)
    yield "bn1:weight", w["conv1.weight"] * scale.view(-1, 1, 1, 1)
    yield "bn1:bias", w["bn1.bias"] - w["bn1.running_mean"] * scale

It runs under ordinary autograd, outside the tile loop.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamplan.codegen.names import quoted
from streamplan.ir import AttributeRef, ValueRef
from streamplan.planning.passes import FoldedNorm


def derive_source(folds: Sequence[FoldedNorm]) -> str:
    """The text of the function; it yields names and tensors."""
    lines = ["def derive(w):"]
    for fold in folds:
        lines += [f"    {line}" for line in _fold_lines(fold)]
    if not folds:
        lines.append("    yield from ()")
    return "\n".join(lines) + "\n"


def _fold_lines(fold: FoldedNorm) -> list[str]:
    norm, convolution = fold.norm.arguments, fold.convolution.arguments
    std = f"torch.sqrt({_text(norm['running_var'])} + {norm['eps']!r})"
    gamma, beta = norm["weight"], norm["bias"]
    scale = f"{_text(gamma)} / {std}" if gamma is not None else f"1 / {std}"
    mean, bias = _text(norm["running_mean"]), convolution["bias"]
    shift = f"({_text(bias)} - {mean}) * scale" if bias is not None else f"-{mean} * scale"
    if beta is not None:
        shift = f"{_text(beta)} + {shift}" if bias is not None else f"{_text(beta)} - {mean} * scale"
    return [
        f"scale = {scale}",
        f"yield {quoted(fold.weight_name)}, {_scaled_weight(fold)}",
        f"yield {quoted(fold.bias_name)}, {shift}",
    ]


def _scaled_weight(fold: FoldedNorm) -> str:
    """The weight times the scale of its output channel; those of a transposed convolution stand second."""
    arguments = fold.convolution.arguments
    weight, ones = _text(arguments["weight"]), ", 1" * len(arguments["kernel_size"])
    if fold.convolution.op == "conv":
        return f"{weight} * scale.view(-1, 1{ones})"
    groups = arguments["groups"]
    if groups == 1:
        return f"{weight} * scale.view(1, -1{ones})"
    return f"({weight}.unflatten(0, ({groups}, -1)) * scale.view({groups}, 1, -1{ones})).flatten(0, 1)"


def _text(reference: AttributeRef | ValueRef) -> str:
    return f"w[{quoted(reference.path if isinstance(reference, AttributeRef) else reference.name)}]"
