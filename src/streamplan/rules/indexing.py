"""Slices and changes of layout.

x[:, :, 1::2]:  out [0, 2) reads [1, 4), then every second sample is taken
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from streamplan.geometry import IDENTITY, AffineWindow, AxisMap
from streamplan.rules.arguments import map_reference, positive_dim
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register

Index = tuple[Any, ...]
"""One entry per tensor dimension: a slice as (start, stop, step), or an int that drops the dimension."""


class Slice(Rule):
    """Basic indexing: slices with a positive step, integers, `...`; also chunk, split, unbind and narrow."""

    summary = "slices of channels and image axes; chunk, split, unbind, narrow"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Windowed on image axes, pointwise on others; an integer on an image axis selects one position."""
        index = ctx.call.arguments["index"]
        dims = ctx.first_map.dims
        if any(isinstance(index[dim], int) for dim in dims):
            return Verdict(Locality.GLOBAL, "it selects one position of an image axis")
        whole = all(index[dim] == (0, ctx.first_map.shape[dim], 1) for dim in dims)
        return POINTWISE if whole else Verdict(Locality.WINDOWED, "slice of the image axes")

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """Integers drop their dimension."""
        index = ctx.call.arguments["index"]
        return tuple(dim - sum(isinstance(entry, int) for entry in index[:dim]) for dim in ctx.first_map.dims)

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """A shift and a step per axis."""
        index = ctx.call.arguments["index"]
        entries = [index[dim] for dim in ctx.first_map.dims]
        return tuple(AffineWindow.shift(start, step) for start, _, step in entries)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.window(x, "getitem")[:, 0:3, ::2, ::2]`."""
        dims, shape = ctx.first_map.dims, ctx.first_map.shape
        texts = [
            _entry_text(entry, shape[dim], is_axis=dim in dims) for dim, entry in enumerate(ctx.call.arguments["index"])
        ]
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return source if all(text == ":" for text in texts) else f"{source}[{', '.join(texts)}]"

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """The slice itself."""
        return x[..., slice(*ctx.call.arguments["index"][ctx.first_map.dims[axis]])]


def _entry_text(entry: Any, extent: int, *, is_axis: bool) -> str:
    if isinstance(entry, int):
        return str(entry)
    start, stop, step = entry
    if is_axis:
        return ":" if step == 1 else f"::{step}"
    if (start, stop, step) == (0, extent, 1):
        return ":"
    return f"{start}:{stop}" if step == 1 else f"{start}:{stop}:{step}"


class Permute(Rule):
    """`permute`, `transpose`, `movedim`: the image axes move to other dimensions."""

    summary = "any order of dimensions"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise."""
        return POINTWISE

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """Where each image axis stands afterwards."""
        order = self._order(ctx)
        return tuple(order.index(dim) for dim in ctx.first_map.dims)

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """The same position."""
        return (IDENTITY,) * ctx.num_axes

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`x.permute(0, 2, 3, 1)`."""
        source = code.window(map_reference(ctx.call.arguments["input"]))
        return f"{source}.permute({', '.join(map(str, self._order(ctx)))})"

    def _order(self, ctx: RuleContext) -> tuple[int, ...]:
        rank = len(ctx.first_map.shape)
        return tuple(positive_dim(int(dim), rank) for dim in ctx.call.arguments["dims"])


register("slice", Slice())
register("permute", Permute())
