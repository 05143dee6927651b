"""Kinds of steps: alike in the middle, different where anything is."""

from __future__ import annotations

import pytest
import torch

import streamplan
from streamplan.runtime.kinds import step_kinds
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet_bilinear


def kinds(net: torch.nn.Module, extent: int, tile: int, **options: object) -> tuple[int, ...]:
    streamed = streamplan.compile(net.eval(), (1, 3, extent, 32), (tile, 32), **options)  # type: ignore[arg-type]
    (executable,) = streamed._executables.values()
    return step_kinds(executable.segment.schedules[0])


def test_the_middle_is_of_one_kind() -> None:
    found = kinds(resnet18(width=2), 2048, 64)
    assert len(found) >= 32
    middle = found[10:-10]
    assert len(set(middle)) == 1
    assert len({*found[:2], *found[-2:], middle[0]}) == 5


def test_steps_whose_strides_do_not_fit_are_told_apart() -> None:
    """In steps of 48 samples every other one begins between two positions of a map of stride 32."""
    found = kinds(resnet18(width=2), 1920, 48)
    assert len(set(found[12:-12])) == 2


@pytest.mark.parametrize("tile", [(16, 24), (40, 16), (13, 9)])
def test_every_geometry_is_found_once_and_fits(tile: tuple[int, int]) -> None:
    """Many tiles of few kinds, and what is remembered of one fits all others."""
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)
    size = (1, 3, 128, 112)
    streamed = streamplan.compile(model, size, tile)
    x = torch.rand(size, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(streamed(x), model(x), rtol=1e-10, atol=1e-10)
    (executable,) = streamed._executables.values()
    segment = executable.segment
    num_kinds = len({segment.kind(index) for index in segment.tile_indices()})
    assert num_kinds <= segment.num_tiles
    assert len(segment.by_kind) <= num_kinds * 3 * len(segment.part.edges)
