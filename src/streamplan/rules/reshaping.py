"""View, reshape, flatten, squeeze and unsqueeze: local where each image axis can be followed through.

Input and output dimensions are matched in groups of equal product. An image axis may stay as it is, be split with its
positions first (space to depth), or be merged with dimensions behind it (depth to space):

    (N, C, H, W) -> (N, g, C/g, H, W)          the axes stay: channel shuffle
    (N, C, H, W) -> (N, C, H/2, 2, W/2, 2)     output o reads inputs 2o and 2o+1
    (N, C, H, 2, W, 2) -> (N, C, 2H, 2W)       input i writes outputs 2i and 2i+1
    (N, C, H, W) -> (N, C, H*W)                mixes positions: global
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from streamplan.geometry import IDENTITY, AffineWindow, AxisMap, ScatterWindow
from streamplan.rules.arguments import map_reference
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.registry import register

Dims = tuple[int, ...]


@dataclass(frozen=True)
class AxisRoute:
    """Where one image axis goes."""

    dim: int
    """Dimension of the result it stands in."""
    axis_map: AxisMap
    """What it reads."""


def match_groups(before: Dims, after: Dims) -> tuple[tuple[Dims, Dims], ...]:
    """Dimensions of two shapes of equal product, in the smallest groups that have equal products.

    >>> match_groups((1, 6, 4), (1, 2, 3, 4))
    (((0,), (0,)), ((1,), (1, 2)), ((2,), (3,)))
    """
    groups, i, j = [], 0, 0
    while i < len(before) or j < len(after):
        start = (i, j)
        if i < len(before) and j < len(after) and (before[i] == 1) != (after[j] == 1):
            # A dimension of 1 comes or goes; it must not be taken for part of its neighbour.
            i, j = (i + 1, j) if before[i] == 1 else (i, j + 1)
            groups.append((tuple(range(start[0], i)), tuple(range(start[1], j))))
            continue
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while (sizes := (math.prod(before[start[0] : i]), math.prod(after[start[1] : j])))[0] != sizes[1]:
            i, j = (i + 1, j) if sizes[0] < sizes[1] else (i, j + 1)
        groups.append((tuple(range(start[0], i)), tuple(range(start[1], j))))
    return tuple(groups)


def route_axes(before: Dims, after: Dims, dims: Dims) -> tuple[AxisRoute, ...] | None:
    """Follow each image axis through a reshape; None if one cannot be followed."""
    routes: dict[int, AxisRoute] = {}
    for group_in, group_out in match_groups(before, after):
        axes = [dim for dim in group_in if dim in dims]
        if not axes:
            continue
        if len(axes) > 1 or axes[0] != group_in[0] or not group_out:
            return None
        route = _route(before, after, group_in, group_out)
        if route is None:
            return None
        routes[axes[0]] = route
    return tuple(routes[dim] for dim in dims)


def _route(before: Dims, after: Dims, group_in: Dims, group_out: Dims) -> AxisRoute | None:
    """The way of the image axis that a group of input dimensions begins with."""
    inner_in = math.prod(before[dim] for dim in group_in[1:])
    inner_out = math.prod(after[dim] for dim in group_out[1:])
    if inner_in == inner_out:
        return AxisRoute(group_out[0], IDENTITY)
    if inner_in == 1:
        return AxisRoute(group_out[0], AffineWindow.sliding(kernel=inner_out, stride=inner_out))
    if inner_out == 1:
        return AxisRoute(group_out[0], ScatterWindow(kernel=inner_in, stride=inner_in))
    return None


class View(Rule):
    """A reshape; `shape` is the full-size shape of the result."""

    summary = "image axes kept, split with positions first, or merged with dimensions behind them"

    def classify(self, ctx: RuleContext) -> Verdict:
        """Pointwise or windowed where every axis can be followed."""
        routes = self._routes(ctx)
        if routes is None:
            return Verdict(Locality.GLOBAL, "it mixes positions of the map, so its output may read the whole map")
        if all(route.axis_map == IDENTITY for route in routes):
            return POINTWISE
        return Verdict(Locality.WINDOWED, "image axes split or merged")

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """Where each axis stands afterwards."""
        return tuple(route.dim for route in self._known_routes(ctx))

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """How each axis is split or merged."""
        return tuple(route.axis_map for route in self._known_routes(ctx))

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.reshape(x, (1, 2, 29, None, None), "view")`: None stands for an axis of the region."""
        dims = self.output_dims(ctx)
        shape = tuple(None if dim in dims else extent for dim, extent in enumerate(ctx.output.shape))
        return code.step("reshape", code.window(map_reference(ctx.call.arguments["input"])), str(shape))

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """A reshape of the axis with the dimensions behind it that it is matched with, summed over the latter."""
        shape, dim = ctx.first_map.shape, ctx.first_map.dims[axis]
        group = next(before for before, _ in match_groups(shape, ctx.output.shape) if dim in before)
        inner = math.prod(shape[other] for other in group[1:])
        samples = x[..., None].expand(*x.shape, inner)
        return samples.reshape(*x.shape[:2], ctx.output.shape[self.output_dims(ctx)[axis]], -1).sum(-1)

    def _routes(self, ctx: RuleContext) -> tuple[AxisRoute, ...] | None:
        return route_axes(ctx.first_map.shape, ctx.output.shape, ctx.first_map.dims)

    def _known_routes(self, ctx: RuleContext) -> tuple[AxisRoute, ...]:
        routes = self._routes(ctx)
        assert routes is not None
        return routes


register("view", View())
