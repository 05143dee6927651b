"""Recipes keep their promises: valid nets of the predicted sizes, sane numbers, and a repr that rebuilds them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.draws import num_examples
from tests.strategies import ALL, Recipe, flatten_outputs, nets, parse, tile_fractions, tile_size
from tests.strategies.axis import Window, conv_windows, pool_windows, transposed_windows, window_extent
from tests.strategies.channelwise import GATES, IN_PLACE
from tests.strategies.flavours import flavour_nets

BOUND = 1e6
"""Activations and gradients above this would drown differences in rounding errors."""


def _gradients(recipe: Recipe) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    model = recipe.build()
    x = recipe.draw_input().requires_grad_()
    outputs = flatten_outputs(model(x))
    generator = torch.Generator().manual_seed(0)
    cotangents = [torch.randn(out.shape, generator=generator, dtype=out.dtype) for out in outputs]
    torch.autograd.backward(outputs, cotangents)
    return outputs, {"input": x.grad} | {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("family", ALL)
@given(data=st.data())
@settings(max_examples=num_examples(20), deadline=None)
def test_recipe_builds_what_it_predicts(family: str, data: st.DataObject) -> None:
    recipe = data.draw(nets([family]))
    outputs, gradients = _gradients(recipe)

    assert [tuple(out.shape) for out in outputs] == list(recipe.output_sizes)
    for out in outputs:
        assert out.dtype == torch.float64
        assert out.abs().max() < BOUND
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.abs().max() < BOUND, name


@pytest.mark.parametrize("family", ALL)
@given(data=st.data())
@settings(max_examples=num_examples(20), deadline=None)
def test_repr_rebuilds_recipe(family: str, data: st.DataObject) -> None:
    recipe = data.draw(nets([family]))
    assert parse(repr(recipe)) == recipe
    assert repr(parse(repr(recipe))) == repr(recipe)


@given(recipe=nets())
@settings(max_examples=num_examples(10), deadline=None)
def test_equal_recipes_build_equal_nets(recipe: Recipe) -> None:
    first, second = recipe.build(), parse(repr(recipe)).build()
    assert not any(module.training for module in first.modules())
    states = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(v, w) for (a, v), (b, w) in states)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@given(data=st.data())
@settings(max_examples=num_examples(10), deadline=None)
def test_dimensions_are_the_ones_asked_for(ndim: int, data: st.DataObject) -> None:
    recipe = data.draw(nets(ndims=(ndim,)))
    assert recipe.ndim == ndim
    assert len(recipe.input_size) == ndim + 2


@given(ndim=st.integers(1, 3), data=st.data())
@settings(deadline=None)
def test_tile_sizes_lie_between_smallest_and_whole(ndim: int, data: st.DataObject) -> None:
    fractions = data.draw(tile_fractions(ndim))
    whole = data.draw(st.tuples(*[st.integers(1, 99)] * ndim))
    smallest = tuple(data.draw(st.integers(1, n)) for n in whole)
    size = tile_size(fractions, smallest, whole)
    assert all(0 < f <= 1 for f in fractions)
    assert all(low <= n <= high for low, n, high in zip(smallest, size, whole, strict=True))
    assert tile_size((1.0,) * ndim, smallest, whole) == whole


@pytest.mark.parametrize("extent", [1, 2, 3, 5, 8, 13])
def test_windows_fit_and_reach_their_target(extent: int) -> None:
    x = torch.zeros(1, 1, extent)
    for window in conv_windows(extent, dilations=(1, 2)):
        conv = nn.Conv1d(1, 1, window.kernel, window.stride, window.padding, window.dilation)
        assert conv(x).shape[2] == window_extent(extent, window), window
    for ceil_mode in (False, True):
        for window in pool_windows(extent, ceil_mode=ceil_mode):
            pool = nn.MaxPool1d(window.kernel, window.stride, window.padding, ceil_mode=ceil_mode)
            pooled = pool(x)
            assert pooled.shape[2] == window_extent(extent, window, ceil_mode), window
            assert torch.isfinite(pooled).all(), window  # a window that misses the input would give -inf
    for target in (extent, 2 * extent, 2 * extent + 1):
        for window, output_padding in transposed_windows(extent, target):
            k, s, p, d = window
            transposed = nn.ConvTranspose1d(1, 1, k, s, p, output_padding, dilation=d)
            assert transposed(x).shape[2] == target, window


def test_any_window_can_be_met_by_a_convolution() -> None:
    # Joins rely on it: whatever one arm's window leads to, a convolution of the same stride leads there, too.
    for extent in range(1, 65):
        for stride in (1, 2, 3):
            reached = {window_extent(extent, w) for w in conv_windows(extent, strides=(stride,), dilations=(1, 2))}
            for ceil_mode in (False, True):
                pools = pool_windows(extent, ceil_mode=ceil_mode, strides=(stride,))
                assert {window_extent(extent, w, ceil_mode) for w in pools} <= reached


def test_windows_begin_with_the_simplest() -> None:
    assert conv_windows(8)[0] == Window(1)
    assert pool_windows(8, ceil_mode=False)[0] == Window(2)


def test_flavours_are_all_drawn() -> None:
    """A flavour that is never drawn tests nothing; counted over the node names in printed recipes."""
    texts: list[str] = []

    @settings(max_examples=600, deadline=None, derandomize=True, phases=[Phase.generate])
    @given(flavour_nets())
    def collect(recipe: Recipe) -> None:
        texts.append(repr(recipe))

    collect()
    drawn = "".join(texts)
    assert [name for name in NODES if name not in drawn] == []
    for choices in ([f"Gate(kind='{kind}'" for kind in GATES], [f"InPlace(spelling='{name}'" for name in IN_PLACE]):
        assert sum(choice in drawn for choice in choices) > len(choices) // 2


NODES = (
    "Pad( PaddedMaxPool( Slice( Interpolated( Upconv( SpaceToDepth( DepthToSpace( ChannelShuffle( Partition( "
    "ChannelsLast( LocalNorm( Gate( Affine( StandardizedConv( Branches( Residual( Multi( mode='reflect' "
    "mode='replicate' mode='circular' mode='nearest-exact' align_corners=True recompute=True spelling='pixel'"
).split()
