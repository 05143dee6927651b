"""Family "residual": blocks whose output is joined with their input, or with a strided projection of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies.draws import draw_act, draw_conv, draw_input, draw_path, draw_recipe, draw_strides, draw_unit
from tests.strategies.ops import Act, Norm
from tests.strategies.recipe import Node, Recipe, Signal
from tests.strategies.sequence import Chain

Join = Literal["+", "+=", "torch.add", "*"]


@dataclass(frozen=True, repr=False)
class Residual(Node):
    """Body joined with a shortcut, perhaps activated."""

    body: Chain
    shortcut: Chain | None
    """Projection of the input; None for the input itself."""
    join: Join
    act: Act | None = None

    def after(self, signal: Signal) -> Signal:
        other = signal if self.shortcut is None else self.shortcut.after(signal)
        assert other == self.body.after(signal)
        return other

    def module(self, signal: Signal) -> nn.Module:
        return _ResidualModule(self, signal)


class _ResidualModule(nn.Module):
    def __init__(self, recipe: Residual, signal: Signal) -> None:
        super().__init__()
        self.join = recipe.join
        self.body = recipe.body.module(signal)
        self.shortcut = None if recipe.shortcut is None else recipe.shortcut.module(signal)
        self.act = None if recipe.act is None else recipe.act.module(recipe.after(signal))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.body(x)
        if self.shortcut is not None:
            identity = self.shortcut(x)
        if self.join == "+=":
            out += identity
        elif self.join == "torch.add":
            out = torch.add(identity, out)
        elif self.join == "*":
            out = out * identity
        else:
            out = out + identity
        return out if self.act is None else self.act(out)


def draw_residual(draw: DrawFn, signal: Signal) -> Residual:
    """Draws a block of one to three windowed operations."""
    num_units = draw(st.integers(1, 3))
    shortcut: Chain | None = None
    if draw(st.booleans()):
        body = draw_path(draw, signal, num_units, target=signal.extents, channels=signal.channels)
    else:
        strides = draw_strides(draw, signal)
        body = draw_path(draw, signal, num_units, strides=strides)
        after = body.after(signal)
        projection: list[Node] = [
            draw_conv(draw, signal, strides=strides, target=after.extents, channels=after.channels)
        ]
        if draw(st.booleans()):
            projection.append(Norm())
        shortcut = Chain(tuple(projection))
    joins: list[Join] = ["+", "torch.add", "*"]
    if body.is_fresh:
        joins += ["+=", "+="]
    act = draw_act(draw, is_fresh=True) if draw(st.booleans()) else None
    return Residual(body, shortcut, draw(st.sampled_from(joins)), act)


@st.composite
def residual_nets(draw: DrawFn, ndims: Sequence[int] = (1, 2, 3)) -> Recipe:
    """Perhaps a stem, then one to four blocks."""
    signal = draw_input(draw, ndims)
    parts: list[Node] = draw_unit(draw, signal) if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        parts.append(draw_residual(draw, Chain(tuple(parts)).after(signal)))
    return draw_recipe(draw, "residual", signal, Chain(tuple(parts)))
