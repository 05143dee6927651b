"""Hypothesis strategies for random nets, as recipes that a failing test prints in full.

    @given(nets(), st.data())
    def test_something(recipe, data):
        model = recipe.build()                            # float64, eval mode, weights from recipe.seed
        x = recipe.draw_input()                           # of recipe.input_size
        fractions = data.draw(tile_fractions(recipe.ndim))

The repr of a recipe is the Python expression that makes it: `parse(text)` or pasting it below
`from tests.strategies import *` rebuilds the net of a failure.

Draw order: sizes first, then only operations that are valid for them; nothing is ever rejected.

- `axis`: output extents, and all windows that fit an extent or lead to a given one; knows nothing of torch
- `recipe`: `Signal`, `Node`, `Recipe`
- `ops`, `op_modules`: single operations and their spellings
- `sequence`: `Chain`, which all families use
- `draws`: strategies for single operations and short runs of them
- `borders`, `scaling`, `channelwise`: less common operations, with the strategies that draw them
- one file per family of nets: `chains`, `residual`, `dense`, `branches`, `ushape`, `multi`, `flavours`
- `tiles`: tile sizes
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from tests.strategies.borders import Pad, PaddedMaxPool, Slice
from tests.strategies.branches import Branches, branch_nets
from tests.strategies.chains import chain_nets
from tests.strategies.channelwise import (
    Affine,
    ChannelShuffle,
    ChannelsLast,
    Gate,
    InPlace,
    LocalNorm,
    Partition,
    StandardizedConv,
)
from tests.strategies.dense import DenseBlock, dense_nets
from tests.strategies.flavours import flavour_nets
from tests.strategies.multi import Multi, multi_nets
from tests.strategies.ops import Act, AvgPool, Conv, Dropout, MaxPool, Norm
from tests.strategies.recipe import Head, Node, Recipe, Signal, flatten_outputs
from tests.strategies.residual import Residual, residual_nets
from tests.strategies.scaling import DepthToSpace, Interpolated, SpaceToDepth, Upconv
from tests.strategies.sequence import Chain, Shared
from tests.strategies.tiles import tile_fractions, tile_size
from tests.strategies.ushape import Level, Resize, Scale, Transposed, UShape, ushape_nets

__all__ = [
    "ALL",
    "Act",
    "Affine",
    "AvgPool",
    "Branches",
    "Chain",
    "ChannelShuffle",
    "ChannelsLast",
    "Conv",
    "DenseBlock",
    "DepthToSpace",
    "Dropout",
    "Gate",
    "Head",
    "InPlace",
    "Interpolated",
    "Level",
    "LocalNorm",
    "MaxPool",
    "Multi",
    "Node",
    "Norm",
    "Pad",
    "PaddedMaxPool",
    "Partition",
    "Recipe",
    "Residual",
    "Resize",
    "Scale",
    "Shared",
    "Signal",
    "Slice",
    "SpaceToDepth",
    "StandardizedConv",
    "Transposed",
    "UShape",
    "Upconv",
    "flatten_outputs",
    "nets",
    "parse",
    "tile_fractions",
    "tile_size",
]

_FAMILIES = {
    "chains": chain_nets,
    "residual": residual_nets,
    "dense": dense_nets,
    "branches": branch_nets,
    "ushape": ushape_nets,
    "multi": multi_nets,
    "flavours": flavour_nets,
}

ALL = tuple(_FAMILIES)
"""Names of all families, from simple to involved."""


def nets(families: Sequence[str] = ALL, ndims: Sequence[int] = (1, 2, 3)) -> st.SearchStrategy[Recipe]:
    """Recipes of random nets.

    Args:
        families: Some of `ALL`.
        ndims: Numbers of spatial dimensions, some of 1, 2, 3.
    """
    return st.one_of([_FAMILIES[family](tuple(ndims)) for family in families])


def parse(text: str) -> Recipe:
    """Returns the recipe that a test has printed."""
    recipe = eval(text, {name: globals()[name] for name in __all__})
    assert isinstance(recipe, Recipe)
    return recipe
