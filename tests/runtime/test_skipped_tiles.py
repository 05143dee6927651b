"""Tiles whose gradients are all zero are not computed again, and that changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import streamplan
from tests.nets.randomize import randomize_
from tests.runtime.comparison import assert_near

SIZE = (1, 2, 96, 20)


def net() -> nn.Module:
    layers = [nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1)]
    return randomize_(nn.Sequential(*layers).double().eval(), seed=3)


def step(call: nn.Module, model: nn.Module, mask: Tensor) -> dict[str, Tensor | None]:
    x = torch.linspace(-1, 1, 2 * 96 * 20, dtype=torch.float64).view(SIZE).requires_grad_()
    (call(x) * mask).square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return {**found, "image": x.grad}


@pytest.mark.parametrize("halo", ["recompute", "reuse"])
@pytest.mark.parametrize(("rows", "num_computed"), [((40, 44), (1, 3)), ((0, 0), (0, 0)), ((0, 96), (8, 99))])
def test_tiles_without_a_gradient_are_skipped(halo: str, rows: tuple[int, int], num_computed: tuple[int, int]) -> None:
    mask = torch.zeros(96, 1, dtype=torch.float64)
    mask[slice(*rows)] = 1.0
    model = net()
    streamed = streamplan.compile(model, SIZE, (12, 20), halo=halo, keep_tiles=0, passes=("fold_batch_norm",))
    expected = step(model, model, mask)
    calls = []
    segment = next(iter(streamed._executables.values())).segment
    tile = segment.tile
    object.__setattr__(segment, "tile", lambda *args: calls.append(torch.is_grad_enabled()) or tile(*args))
    for name, gradient in step(streamed, model, mask).items():
        assert_near(gradient, expected[name], name, 1e-12)
    least, most = num_computed
    assert least <= sum(calls) <= most
    assert len(calls) - sum(calls) == streamed._plan.num_tiles
