"""Random nets, streamed and plain: the same outputs and gradients, whatever the net and the tile size.

The default run draws a few nets per family and number of axes; the `fuzz` marked run draws as many as its profile says:

    pytest tests/test_fuzz.py -m fuzz --hypothesis-profile=fuzz
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import streamplan
from streamplan.errors import NothingToStreamError
from tests.runtime.comparison import assert_same_results, run
from tests.strategies import ALL, Recipe, nets, tile_fractions, tile_size

_EXAMPLES = {1: 24, 2: 16, 3: 10}
"""Nets per family in the default run, by number of axes; 300 in all."""
_LEAST_SHARE = {1: 0.4, 2: 0.4, 3: 0.15}
"""Share of the nets of a test that must have had more than one tile; small 3-D maps are often read whole."""
_RTOL = 1e-10
_MOST_TILES = 150
"""Above this, a tile size is drawn larger: many tiles of one sample each tell nothing new."""


def stream_one(recipe: Recipe, fractions: tuple[float, ...]) -> int:
    """Compare one net with itself streamed; returns the number of tiles."""
    model = recipe.build()
    plan = streamplan.plan(model, recipe.input_size)
    size = tile_size(fractions, plan.smallest_tile_size, recipe.extents)
    size = tuple(map(max, size, plan.smallest_tile_size))
    while streamplan.plan(model, recipe.input_size, size).num_tiles > _MOST_TILES:
        size = tuple(extent + 2 for extent in size)
    streamed = streamplan.compile(model, recipe.input_size, size)
    inputs = [recipe.draw_input()]
    assert_same_results(run(streamed, model, inputs), run(model, model, inputs), _RTOL, f"tile size {size}")
    return streamed.plan.num_tiles


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("family", ALL)
def test_random_nets_stream_exactly(family: str, ndim: int) -> None:
    tiles: list[int] = []

    @settings(max_examples=_EXAMPLES[ndim], suppress_health_check=[HealthCheck.too_slow])
    @given(nets((family,), (ndim,)), tile_fractions(ndim))
    def stream(recipe: Recipe, fractions: tuple[float, ...]) -> None:
        tiles.append(stream_one(recipe, fractions))

    stream()
    assert len(tiles) >= _EXAMPLES[ndim]
    print(family, ndim, tiles)
    assert sum(count > 1 for count in tiles) >= _LEAST_SHARE[ndim] * len(tiles)


@pytest.mark.fuzz
@given(nets(), st.data())
def test_fuzz(recipe: Recipe, data: st.DataObject) -> None:
    stream_one(recipe, data.draw(tile_fractions(recipe.ndim)))


class _NoImage(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def test_a_net_without_a_local_part_is_refused() -> None:
    with pytest.raises(NothingToStreamError):
        streamplan.plan(_NoImage(), (1, 1, 4, 4))
