"""The division of an axis, against brute force over all positions."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from streamplan.analysis.regions import StreamedPart, pull_regions
from streamplan.analysis.schedule import InfeasibleTileError, divide_axis, schedule_axis, smallest_tile_size
from streamplan.geometry import Interval
from tests.analysis.facts import part_of, seq
from tests.draws import num_examples
from tests.rules.spellings import Net
from tests.strategies import Recipe, nets


def brute_force_smallest(part: StreamedPart, axis: int) -> int:
    """The most that a single position of the coarsest cut value reads, others following in proportion."""
    coarsest = min(part.extents[name][axis] for name in part.frontier)
    most = 0
    for position in range(coarsest):
        blocks = {}
        for name in part.frontier:
            extent = part.extents[name][axis]
            blocks[name] = Interval(position * extent // coarsest, (position + 1) * extent // coarsest)
        step = pull_regions(part, axis, blocks)
        most = max(most, *(step.regions[name].size for name in part.input_maps))
    return most


@settings(max_examples=num_examples(60))
@given(nets(), st.data())
def test_a_division_keeps_its_promises(recipe: Recipe, data: st.DataObject) -> None:
    part = part_of(recipe.build(), recipe.input_size)
    if part is None:
        return  # the first window covers the whole map
    axis = data.draw(st.integers(0, recipe.ndim - 1))
    smallest = smallest_tile_size(part, axis)
    assert smallest == brute_force_smallest(part, axis)
    with pytest.raises(InfeasibleTileError):
        divide_axis(part, axis, smallest - 1)
    tile_size = data.draw(st.integers(smallest, max(smallest, recipe.extents[axis])))
    boundaries = divide_axis(part, axis, tile_size)
    schedule = schedule_axis(part, axis, boundaries)
    for name in part.frontier:
        covered = [
            position for step in schedule.steps for position in range(step.blocks[name].start, step.blocks[name].stop)
        ]
        assert covered == list(range(part.extents[name][axis]))  # disjoint, in order, complete
    for step in schedule.steps:
        assert all(step.regions[name].size <= tile_size for name in part.input_maps)
        assert all(step.regions[name].contains(step.blocks[name]) for name in part.frontier)
    assert len(boundaries) == 2 or tile_size < recipe.extents[axis]


@pytest.mark.parametrize("tile_size", [9, 10, 16, 33, 50, 99])
def test_blocks_are_as_few_as_can_be_and_even(tile_size: int) -> None:
    part = part_of(seq(nn.Conv1d(1, 1, 9), nn.AvgPool1d(1)), (1, 1, 108))  # a block of b reads b + 8, nowhere clamped
    boundaries = divide_axis(part, 0, tile_size)
    lengths = [stop - start for start, stop in pairwise(boundaries)]
    assert len(lengths) == -(-100 // (tile_size - 8))
    assert max(lengths) - min(lengths) <= 1


def test_the_whole_image_is_one_tile() -> None:
    part = part_of(seq(nn.Conv1d(1, 1, 9, padding=4)), (1, 1, 50))
    assert divide_axis(part, 0, 50) == (0, 50)
    assert divide_axis(part, 0, 10**6) == (0, 50)


def _drifting(n: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return F.avg_pool1d(x, 4), F.avg_pool1d(x, 2)[..., 100:-100]


LARGE = {
    "strided": seq(nn.Conv1d(1, 1, 7, 2, 3), nn.MaxPool1d(3, 2, 1), nn.Conv1d(1, 1, 3, 2, 1)),
    "drifting outputs": Net(_drifting),
    "resized skip": Net(lambda n, x: F.interpolate(F.max_pool1d(x, 2, ceil_mode=True), size=1001) + x),
    "linear skip": Net(lambda n, x: F.interpolate(F.avg_pool1d(x, 3), size=1001, mode="linear") + x),
    "drifting skip": Net(lambda n, x: F.interpolate(x, size=901, mode="linear") + x[..., 50:-50]),
    "drifting corners": Net(lambda n, x: F.interpolate(x[..., :500], size=1001, mode="linear", align_corners=True) + x),
    "transposed": seq(nn.ConvTranspose1d(1, 1, 5, 3, 1, 1), nn.Conv1d(1, 1, 4, 2)),
    "reflected": seq(nn.ReflectionPad1d(60), nn.Conv1d(1, 1, 9, 4)),
    "circular": seq(nn.CircularPad1d(6), nn.Conv1d(1, 1, 9, 4)),
}


@pytest.mark.parametrize("name", LARGE)
def test_the_smallest_tile_size_of_a_long_axis(name: str) -> None:
    part = part_of(LARGE[name], (1, 1, 1001))
    smallest = smallest_tile_size(part, 0)
    assert smallest == brute_force_smallest(part, 0)
    assert len(divide_axis(part, 0, smallest)) > 2 or smallest == 1001
    with pytest.raises(InfeasibleTileError):
        divide_axis(part, 0, smallest - 1)
