"""Pooled mean and variance: those of all numbers at once, however they are divided, and where E[x^2] - m^2 fails."""

from __future__ import annotations

import math
import statistics
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamplan.runtime import Moments, Pools
from tests.draws import num_examples


def pooled(x: Tensor, sizes: list[int]) -> Moments:
    pools = Pools()
    for block in x.split(sizes):
        pools.add("x", Moments.of(block, (1,)))
    return pools.moments["x"]


@settings(max_examples=num_examples(40))
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(-8, 8), st.integers(0, 2**31))
def test_any_division_gives_the_moments_of_all(sizes: list[int], magnitude: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64) + 0.5) * 10.0**magnitude
    found = pooled(x, sizes)
    assert found.count == sum(sizes)
    for channel in range(3):
        numbers = [Fraction(value) for value in x[:, channel].tolist()]  # exact arithmetic
        assert float(found.mean[channel]) == pytest.approx(float(statistics.mean(numbers)), rel=1e-13, abs=0)
        variance = float(statistics.pvariance(numbers))
        assert float(found.variance[channel]) == pytest.approx(variance, rel=1e-12, abs=1e-29 * 100.0**magnitude)
        assert float(found.std[channel]) == pytest.approx(math.sqrt(variance), rel=1e-12, abs=1e-14 * 10.0**magnitude)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_mean_does_not_drown_a_small_deviation(dtype: torch.dtype) -> None:
    noise = torch.randn(6000, 2, dtype=torch.float64)
    x = (10_000 + 0.01 * noise).to(dtype)
    found, exact = pooled(x, [1000, 1, 2999, 2000]), x.double()
    numbers = [Fraction(value) for value in exact[:, 0].tolist()]
    variance = float(statistics.pvariance(numbers))
    assert float(found.variance[0]) == pytest.approx(variance, rel=1e-10)
    naive = float(x[:, 0].square().mean() - x[:, 0].mean().square())  # the paper's reformulation, in the dtype itself
    assert abs(naive - variance) > 1e-5 * variance
    assert found.mean.dtype == found.deviation.dtype == torch.float64


def test_the_values_are_not_changed() -> None:
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    before = x.clone()
    found = Moments.of(x, (1,))
    assert torch.equal(x, before)
    assert found.count == 20
    torch.testing.assert_close(found.variance, x.var((0, 2), correction=0), rtol=1e-13, atol=0)


@pytest.mark.parametrize("kept", [(1, 2), (2,), ()])
def test_any_dimensions_may_tell_channels_apart(kept: tuple[int, ...]) -> None:
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    others = [dim for dim in range(3) if dim not in kept]
    found = Moments.of(x, kept)
    assert found.mean.shape == tuple(x.shape[dim] for dim in kept)
    torch.testing.assert_close(found.mean, x.mean(others), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(found.std, x.std(others, correction=0), rtol=1e-13, atol=0)
