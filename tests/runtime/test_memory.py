"""What a training step allocates, by torch's own record of allocations."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import nn

import streamplan
from streamplan.costs.allocations import changes
from tests.nets.randomize import randomize_


def net() -> nn.Module:
    return randomize_(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 4, 5, padding=2),
        ),
        seed=0,
    )


def peak_bytes(step: torch.nn.Module, image: torch.Tensor) -> int:
    """How far allocations grow over one training step, or over a forward pass without autograd."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        result = step(image)
        if result.requires_grad:
            result.backward(torch.ones_like(result))
    return max(accumulate(change.num_bytes for change in changes(profiler)))


def above_what_grows(num_rows: int, halo: str) -> int:
    """The peak less the cut map, its gradient and the carries."""
    model = net()
    streamed = streamplan.compile(model, (1, 3, num_rows, 96), (64, 96), halo=halo)
    image = torch.randn(1, 3, num_rows, 96, generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    costs = streamed._plan.costs
    return peak_bytes(streamed, image) - 2 * costs.cut_bytes - costs.carry_bytes


def test_the_rest_does_not_grow_with_the_image() -> None:
    for halo in ("reuse", "recompute"):
        small = above_what_grows(512, halo)
        large = above_what_grows(2048, halo)
        one_more_tile = 64 * 96 * 8 * 4
        assert small > one_more_tile, halo
        assert abs(large - small) < one_more_tile // 4, (halo, small, large)
