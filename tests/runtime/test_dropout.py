"""The mask of elementwise dropout as random numbers: rate, independence, no repetition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from streamplan.runtime.dropout import keep_mask

SHAPE = (2, 8, 96, 80)
_SIGMAS = 5


def mask(
    seed: int = 0, p: float = 0.5, shape: tuple[int, ...] = SHAPE, starts: tuple[int, ...] | None = None
) -> Tensor:
    return keep_mask(torch.empty(SHAPE), torch.tensor(seed), p, shape, starts or (0,) * len(shape))


@pytest.mark.parametrize("p", [1e-3, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", [0, 1, -(2**63), 2**63 - 1])
def test_rate(p: float, seed: int) -> None:
    dropped = (~mask(seed, p)).double()
    sigma = math.sqrt(p * (1 - p) / dropped.numel())
    assert abs(dropped.mean() - p) < _SIGMAS * sigma


@pytest.mark.parametrize("dim", range(4))
@pytest.mark.parametrize("distance", [1, 2, 3])
def test_neighbours_are_independent(dim: int, distance: int) -> None:
    signs = mask().double() * 2 - 1
    shifted = signs.roll(distance, dim)
    if distance % SHAPE[dim]:
        assert abs((signs * shifted).mean()) < _SIGMAS / math.sqrt(signs.numel())


def test_rectangles_are_independent() -> None:
    """Sums of indices coincide at opposite corners of rectangles; a hash that is linear would show it."""
    signs = mask().double() * 2 - 1
    corners = signs * signs.roll(5, 2) * signs.roll(7, 3) * signs.roll((5, 7), (2, 3))
    assert abs(corners.mean()) < _SIGMAS / math.sqrt(signs.numel())


@pytest.mark.parametrize("other", [1, 2, 2**32, -1])
def test_seeds_are_independent(other: int) -> None:
    product = (mask(0).double() * 2 - 1) * (mask(other).double() * 2 - 1)
    assert abs(product.mean()) < _SIGMAS / math.sqrt(product.numel())


def test_positions_need_64_bits() -> None:
    wide = (1, 1, 2**17, 2**17)
    here = keep_mask(torch.empty(1, 1, 64, 64), torch.tensor(0), 0.5, wide, (0, 0, 0, 0))
    for row in (2**15, 2**16, 2**16 + 2**15):  # index 2**32, 2**33, 2**33 + 2**32
        there = keep_mask(torch.empty(1, 1, 64, 64), torch.tensor(0), 0.5, wide, (0, 0, row, 0))
        agreement = (here == there).double().mean()
        assert abs(agreement - 0.5) < _SIGMAS * 0.5 / 64


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_regions_are_parts_of_the_whole(order: torch.memory_format) -> None:
    whole = mask()
    x = torch.empty(2, 8, 31, 17).contiguous(memory_format=order)
    part = keep_mask(x, torch.tensor(0), 0.5, SHAPE, (0, 0, 40, 50))
    assert torch.equal(part, whole[:, :, 40:71, 50:67])
    assert part.stride() == x.stride()


def test_more_elements_than_are_mixed_at_once() -> None:
    shape = (1, 3, 500, 700)
    whole = keep_mask(torch.empty(shape), torch.tensor(4), 0.3, shape, (0, 0, 0, 0))
    row = keep_mask(torch.empty(1, 3, 1, 700), torch.tensor(4), 0.3, shape, (0, 0, 321, 0))
    assert torch.equal(row, whole[:, :, 321:322])
