"""Family "dense": blocks of layers that read the concatenation of all before them, with transitions between blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies.draws import draw_input, draw_path, draw_recipe, draw_strides, draw_unit
from tests.strategies.recipe import Node, Recipe, Signal
from tests.strategies.sequence import Chain


@dataclass(frozen=True, repr=False)
class DenseBlock(Node):
    """Concatenation of the input and the outputs of all layers, each of which keeps extents."""

    layers: tuple[Chain, ...]

    def after(self, signal: Signal) -> Signal:
        for layer in self.layers:
            new = layer.after(signal)
            assert new.extents == signal.extents
            signal = Signal(signal.channels + new.channels, signal.extents)
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _DenseModule(self, signal)

    @property
    def is_fresh(self) -> bool:
        return True


class _DenseModule(nn.Module):
    def __init__(self, recipe: DenseBlock, signal: Signal) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i, layer in enumerate(recipe.layers):
            self.layers.append(layer.module(DenseBlock(recipe.layers[:i]).after(signal)))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, dim=1)


def draw_dense_block(draw: DrawFn, signal: Signal) -> DenseBlock:
    """Draws a block of one to three layers."""
    layers: list[Chain] = []
    for _ in range(draw(st.integers(1, 3))):
        here = DenseBlock(tuple(layers)).after(signal)
        channels = draw(st.integers(1, 2))
        layers.append(draw_path(draw, here, draw(st.integers(1, 2)), target=here.extents, channels=channels))
    return DenseBlock(tuple(layers))


@st.composite
def dense_nets(draw: DrawFn, ndims: Sequence[int] = (1, 2, 3)) -> Recipe:
    """Perhaps a stem, then one to three dense blocks with strided transitions between them."""
    signal = draw_input(draw, ndims)
    parts: list[Node] = draw_unit(draw, signal) if draw(st.booleans()) else []
    for i in range(draw(st.integers(1, 3))):
        if i > 0:
            here = Chain(tuple(parts)).after(signal)
            parts += draw_path(draw, here, 2, strides=draw_strides(draw, here)).parts
        parts.append(draw_dense_block(draw, Chain(tuple(parts)).after(signal)))
    return draw_recipe(draw, "dense", signal, Chain(tuple(parts)))
