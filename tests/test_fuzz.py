"""Random nets, streamed with recomputed halos, and plain: the same outputs and gradients for any net and tile size.

The default run draws a few nets per family and number of axes; the `fuzz` marked run draws as many as its profile says:

    pytest tests/test_fuzz.py -m fuzz --hypothesis-profile=fuzz
"""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import streamplan
from streamplan.errors import NothingToStreamError
from tests.draws import draw_until, num_examples
from tests.planned import plan_only
from tests.runtime.comparison import TrueBatchNorm, assert_same_results, run, run_plain
from tests.strategies import ALL, Recipe, nets, tile_fractions, tile_size

_EXAMPLES = {1: 12, 2: 12, 3: 9}
"""Nets per family in the run of all examples, by number of axes; 198 in all."""
_LEAST_SHARE = {1: 0.4, 2: 0.4, 3: 0.2}
"""Nets with more than one tile, as a share of those drawn at first; small 3-D maps are often read whole."""
_RTOL = 1e-10
_MOST_TILES = 100
"""Above this, a tile size is drawn larger: many tiles of one sample each tell nothing new."""
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""A failure is reported as it was drawn; to shrink it, run the `fuzz` marked test."""
_DEPTHS = st.sampled_from([0.0, 0.25, 0.5, 0.75])
"""How far down the net an earlier cut is made, as a share of its cuts."""


def stream_one(recipe: Recipe, fractions: tuple[float, ...], depth: float) -> int:
    """Compare one net with itself streamed at its latest cut and, if that takes one tile, at an earlier one.

    Returns:
        The largest number of tiles; 0 if the net was refused because nothing of it is local.
    """
    model, inputs = recipe.build(), [recipe.draw_input()]
    expected = run_plain(model, inputs)
    try:
        plan = plan_only(model, recipe.input_size, recipe.extents, halo="recompute", dtype=torch.float64)
    except NothingToStreamError:  # the first window covers the whole map
        return 0
    num_tiles = 0
    for cut in ("latest", plan.cuts[int(depth * len(plan.cuts))].values):
        if cut != "latest":
            plan = plan_only(model, recipe.input_size, recipe.extents, cut=cut, halo="recompute", dtype=torch.float64)
        size = tile_size([fraction**2 for fraction in fractions], plan.smallest_tile_size, recipe.extents)
        streamed = _compile(model, recipe, tuple(map(max, size, plan.smallest_tile_size)), cut)
        context = f"cut {cut}, tile size {streamed._plan.tile_size}"
        with nullcontext() if cut == "latest" else TrueBatchNorm():  # the resident part has torch's
            found = run(streamed, model, inputs)
        assert_same_results(found, expected, _RTOL, context)
        num_tiles = max(num_tiles, streamed._plan.num_tiles)
        if num_tiles > 1:
            break
    return num_tiles


def _compile(
    model: nn.Module, recipe: Recipe, size: tuple[int, ...], cut: str | tuple[str, ...]
) -> streamplan.StreamedModule:
    """Compile with a tile size, or a larger one if that gives too many tiles."""
    while True:
        streamed = streamplan.compile(model, recipe.input_size, size, cut=cut, halo="recompute", dtype=torch.float64)
        if streamed._plan.num_tiles <= _MOST_TILES:
            return streamed
        size = tuple(extent + 3 for extent in size)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("family", ALL)
def test_random_nets_stream_exactly(family: str, ndim: int) -> None:
    tiles: list[int] = []
    stated = num_examples(_EXAMPLES[ndim])

    @settings(max_examples=stated, phases=_PHASES, suppress_health_check=[HealthCheck.too_slow])
    @given(nets((family,), (ndim,)), tile_fractions(ndim), _DEPTHS)
    def stream(recipe: Recipe, fractions: tuple[float, ...], depth: float) -> None:
        tiles.append(stream_one(recipe, fractions, depth))

    draw_until(stream, lambda: sum(count > 1 for count in tiles) >= _LEAST_SHARE[ndim] * stated)
    assert len(tiles) >= stated


@pytest.mark.fuzz
@given(nets(), st.data())
def test_fuzz(recipe: Recipe, data: st.DataObject) -> None:
    stream_one(recipe, data.draw(tile_fractions(recipe.ndim)), data.draw(_DEPTHS))


class _NoImage(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def test_a_net_without_a_local_part_is_refused() -> None:
    with pytest.raises(NothingToStreamError):
        plan_only(_NoImage(), (1, 1, 4, 4))
