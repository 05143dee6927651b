"""When the device is asked whether a gradient is zero. A meta tensor stands for one of a GPU: it cannot be asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan.runtime.seeds import BlockFlags, Seeds

INDEX = (1, 0)
NONZERO = BlockFlags(frozenset({INDEX}), frozenset())
ZERO = BlockFlags(frozenset(), frozenset())
EMPTY = BlockFlags(frozenset(), frozenset({INDEX}))


def are_zero(flags: BlockFlags, *handed: Tensor) -> bool:
    return Seeds(INDEX, {}, {("map", axis): x for axis, x in enumerate(handed)}).are_zero(flags)


def test_a_device_is_asked_about_tiles_alone_whose_own_blocks_are_zero() -> None:
    on_device = torch.zeros(3, device="meta")
    assert not are_zero(NONZERO, on_device)
    assert not are_zero(EMPTY, on_device)
    assert are_zero(ZERO)
    with pytest.raises(RuntimeError):
        are_zero(ZERO, on_device)


def test_on_the_cpu_every_doubt_is_settled() -> None:
    zero, one = torch.zeros(3), torch.tensor([0.0, 1.0])
    for flags in (ZERO, EMPTY):
        assert are_zero(flags, zero, zero)
        assert not are_zero(flags, zero, one)
        assert not are_zero(flags, torch.tensor([float("nan")]))
    assert not are_zero(NONZERO, zero)


def test_flags_of_a_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, stride=2, padding=1))
    streamed = streamplan.compile(net, (1, 1, 32, 8), (4, 8))
    (executable,) = streamed._executables.values()
    segment = executable.segment
    (name,) = segment.outputs
    gradient = torch.zeros(segment.outputs[name].shape)
    gradient[..., 7, :] = -1.0
    flags = BlockFlags.find(segment, {name: gradient}, torch.device("cpu"))
    rows = {i: step.blocks[name] for i, step in enumerate(segment.schedules[0].steps)}
    assert flags.nonzero == {(i, 0) for i, block in rows.items() if block.start <= 7 < block.stop}
    assert flags.empty == {(i, 0) for i, block in rows.items() if block.is_empty}
    assert len(flags.nonzero) == 1
    assert not BlockFlags.find(segment, {}, torch.device("cpu")).nonzero
