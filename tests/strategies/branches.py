"""Family "branches": inception-like modules, whose arms have equal strides and are concatenated or added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies.draws import draw_input, draw_path, draw_recipe, draw_strides, draw_unit
from tests.strategies.recipe import Node, Recipe, Signal
from tests.strategies.sequence import Chain


@dataclass(frozen=True, repr=False)
class Branches(Node):
    """Arms that read the same input; an empty arm passes it on."""

    arms: tuple[Chain, ...]
    join: Literal["cat", "add"] = "cat"

    def after(self, signal: Signal) -> Signal:
        ends = [arm.after(signal) for arm in self.arms]
        assert {end.extents for end in ends} == {ends[0].extents}
        if self.join == "add":
            assert set(ends) == {ends[0]}
            return ends[0]
        return Signal(sum(end.channels for end in ends), ends[0].extents)

    def module(self, signal: Signal) -> nn.Module:
        return _BranchesModule(self, signal)

    @property
    def is_fresh(self) -> bool:
        return True


class _BranchesModule(nn.Module):
    def __init__(self, recipe: Branches, signal: Signal) -> None:
        super().__init__()
        self.join = recipe.join
        self.arms = nn.ModuleList([arm.module(signal) for arm in recipe.arms])

    def forward(self, x: Tensor) -> Tensor:
        outputs = [arm(x) for arm in self.arms]
        if self.join == "cat":
            return torch.cat(outputs, 1)
        total = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total


def draw_branches(draw: DrawFn, signal: Signal) -> Branches:
    """Draws two to four arms of equal strides, the first freely, the others to meet it."""
    strides = draw_strides(draw, signal)
    target = signal.extents if draw(st.booleans()) and set(strides) == {1} else None
    joins: list[Literal["cat", "add"]] = ["cat", "cat", "add"]
    join = draw(st.sampled_from(joins))
    channels = draw(st.integers(1, 3)) if join == "add" else None
    arms = [draw_path(draw, signal, draw(st.integers(1, 2)), strides=strides, target=target, channels=channels)]
    target = arms[0].after(signal).extents
    may_be_empty = target == signal.extents and channels in (None, signal.channels)
    for _ in range(draw(st.integers(1, 3))):
        num_units = draw(st.integers(0 if may_be_empty else 1, 3))
        if num_units == 0:
            arms.append(Chain(()))
        else:
            arms.append(draw_path(draw, signal, num_units, strides=strides, target=target, channels=channels))
    return Branches(tuple(draw(st.permutations(arms))), join)


@st.composite
def branch_nets(draw: DrawFn, ndims: Sequence[int] = (1, 2, 3)) -> Recipe:
    """Perhaps a stem, then one to three modules with a plain unit between some of them."""
    signal = draw_input(draw, ndims)
    parts: list[Node] = draw_unit(draw, signal) if draw(st.booleans()) else []
    for i in range(draw(st.integers(1, 3))):
        if i > 0 and draw(st.booleans()):
            parts += draw_unit(draw, Chain(tuple(parts)).after(signal))
        parts.append(draw_branches(draw, Chain(tuple(parts)).after(signal)))
    return draw_recipe(draw, "branches", signal, Chain(tuple(parts)))
