"""Draws tile sizes without knowing what a plan allows: as fractions between the smallest feasible and the whole."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

_STEPS = 16
"""Resolution of the fractions, which keeps failures readable."""


def tile_fractions(ndim: int) -> st.SearchStrategy[tuple[float, ...]]:
    """Draws one fraction in (0, 1] per axis; 1 is the whole axis, small ones make many tiles."""
    fraction = st.integers(1, _STEPS).map(lambda sixteenths: sixteenths / _STEPS)
    return st.tuples(*[fraction] * ndim)


def tile_size(fractions: Sequence[float], smallest: Sequence[int], whole: Sequence[int]) -> tuple[int, ...]:
    """Returns the tile size at `fractions` of the way from `smallest` to `whole`, per axis.

    The least fraction gives `smallest` itself unless the axis has more than 16 sizes to choose from; 1 gives `whole`.
    """
    return tuple(
        low + int(fraction * (high - low)) if low <= high else high
        for fraction, low, high in zip(fractions, smallest, whole, strict=True)
    )
