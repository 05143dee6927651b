"""The criterion itself: it tells a computation that rounds coarser from one that rounds alike."""

from __future__ import annotations

import pytest
import torch

from tests.rounding import assert_rounds_as_finely, error_ratios


def noisy(exact: dict[str, torch.Tensor], size: float, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: value + size * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        for name, value in exact.items()
    }


@pytest.mark.parametrize("size", [0.001, 0.01])
def test_rounding_alike_passes(size: float) -> None:
    exact = {"output": torch.ones(10).double(), "weight": torch.ones(50).double()}
    assert_rounds_as_finely(lambda seed: error_ratios(noisy(exact, size, seed), noisy(exact, 0.01, 1000 + seed), exact))


@pytest.mark.parametrize("coarse", ["output", "weight"])
def test_rounding_coarser_fails(coarse: str) -> None:
    exact = {"output": torch.ones(50).double(), "weight": torch.ones(50).double()}

    def draw(seed: int) -> dict[str, float]:
        fine = noisy(exact, 0.01, seed)
        return error_ratios(fine | {coarse: noisy(exact, 0.02, seed)[coarse]}, noisy(exact, 0.01, 1000 + seed), exact)

    with pytest.raises(AssertionError, match="fewer than 6 of 40"):
        assert_rounds_as_finely(draw)


def test_no_number_is_no_error() -> None:
    with pytest.raises(AssertionError, match="fewer than 6 of 40"):
        assert_rounds_as_finely(lambda seed: {"outputs": float("nan")})
