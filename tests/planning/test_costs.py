"""Costs, against counts made by hand on small nets."""

from __future__ import annotations

import pytest
import torch
import torch.utils.flop_counter
from torch import nn

from tests.planned import plan_only

H, W = 20, 12
DOUBLE = 8
"""Bytes of a float64."""


def two_convs(padding: int = 1) -> nn.Sequential:
    layers = (nn.Conv2d(3, 4, 3, padding=padding), nn.ReLU(), nn.Conv2d(4, 5, 5, padding=2 * padding))
    return nn.Sequential(*layers).double()


def conv_flops(kernel: int, channels_in: int, channels: int, positions: int) -> int:
    """A multiply-add counts two."""
    return 2 * kernel * kernel * channels_in * channels * positions


def test_the_whole_net_in_one_tile() -> None:
    costs = plan_only(two_convs(), (2, 3, H, W), max(H, W)).costs
    flops = conv_flops(3, 3, 4, 2 * H * W) + conv_flops(5, 4, 5, 2 * H * W)
    assert (costs.flops, costs.streamed_flops, costs.computed_flops) == (flops, flops, flops)
    activations = 2 * H * W * (4 + 4 + 5) * DOUBLE
    assert costs.activation_bytes == costs.streamed_activation_bytes == activations
    assert costs.tile_activation_bytes == 2 * H * W * (4 + 5) * DOUBLE  # the ReLU writes over the first convolution
    assert costs.cut_bytes == 2 * H * W * 5 * DOUBLE


def test_recomputed_halos_are_counted() -> None:
    plan = plan_only(
        two_convs(), (1, 3, H, W), (13, W), halo="recompute"
    )  # 10 rows of the cut read 13 of the image, at each end
    assert plan.boundaries == ((0, 10, 20), (0, W))
    inner = conv_flops(3, 3, 4, 12 * W) + conv_flops(5, 4, 5, 10 * W)  # 10 rows of the cut need 12 of the first conv
    assert plan.costs.computed_flops == 2 * inner
    assert plan.costs.streamed_flops == conv_flops(3, 3, 4, H * W) + conv_flops(5, 4, 5, H * W)
    assert plan.costs.tile_activation_bytes == (12 * W * 4 + 10 * W * 5) * DOUBLE


def test_shares_of_an_early_cut() -> None:
    model = nn.Sequential(two_convs(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 7)).double()
    plan = plan_only(model, (1, 3, H, W), 13, cut="0.1")
    first = conv_flops(3, 3, 4, H * W)
    second = conv_flops(5, 4, 5, H * W)
    assert plan.costs.streamed_flops == first
    assert plan.costs.flops == first + second + 2 * 5 * 7
    assert plan.costs.streamed_activation_bytes == 8 * H * W * DOUBLE
    assert plan.costs.cut_bytes == 4 * H * W * DOUBLE
    resident = 5 * H * W + 5 + 7
    assert plan.costs.activation_bytes == (8 * H * W + resident) * DOUBLE
    flops = first / (first + second + 70)
    assert f"and {100 * flops:.1f} % of the FLOPs are streamed" in str(plan)


def test_an_in_place_activation_costs_no_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)).double()
    assert plan_only(model, (1, 3, H, W), 9).costs.activation_bytes == 4 * H * W * DOUBLE


@pytest.mark.parametrize("tile_size", [7, 8, 11, 15, 20])
def test_computed_flops_are_the_sum_over_the_tiles(tile_size: int) -> None:
    model = two_convs(padding=0)
    plan = plan_only(model, (1, 3, H, W), (tile_size, W), halo="recompute")
    total = 0
    for start, stop in zip(plan.boundaries[0], plan.boundaries[0][1:], strict=False):
        x = torch.zeros(1, 3, stop - start + 6, W, dtype=torch.float64)  # what a block of an unpadded net reads
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            model(x)
        total += counter.get_total_flops()
    assert plan.costs.computed_flops == total


def test_candidates_grow_along_the_net() -> None:
    plan = plan_only(two_convs(), (1, 3, H, W), 9)
    fields = [candidate.receptive_field for candidate in plan.cuts]
    assert fields == [(3, 3), (3, 3), (7, 7)]
    assert [candidate.cut_bytes for candidate in plan.cuts] == [channels * H * W * DOUBLE for channels in (4, 4, 5)]
    assert [candidate.streamed_flops for candidate in plan.cuts] == sorted(c.streamed_flops for c in plan.cuts)
