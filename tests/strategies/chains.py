"""Family "chains": windowed and pointwise operations in a row, some of them with shared weights."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.strategies.draws import draw_input, draw_path, draw_recipe, draw_unit
from tests.strategies.recipe import Node, Recipe
from tests.strategies.sequence import Chain, Shared


@st.composite
def chain_nets(draw: DrawFn, ndims: Sequence[int] = (1, 2, 3)) -> Recipe:
    """Two to six windowed operations with pointwise ones between them."""
    signal = draw_input(draw, ndims)
    ops: list[Node] = []
    for _ in range(draw(st.integers(2, 6))):
        here = Chain(tuple(ops)).after(signal)
        if draw(st.integers(0, 7)) == 7:
            part = draw_path(draw, here, 1, target=here.extents, channels=here.channels)
            ops.append(Shared(part, draw(st.integers(2, 3))))
        else:
            ops += draw_unit(draw, here)
    return draw_recipe(draw, "chains", signal, Chain(tuple(ops)))
