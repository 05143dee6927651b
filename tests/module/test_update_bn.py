"""BatchNorm that averages its statistics over all batches (`momentum=None`), as `swa_utils.update_bn` sets it."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import streamplan

SIZE = (2, 3, 21, 18)


def net(momentum: float | None) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.BatchNorm2d(4, momentum=momentum),
        nn.Conv2d(4, 2, 3),
        nn.BatchNorm2d(2, momentum=momentum),
    ).double()


def test_a_mean_over_all_batches_is_that_of_the_plain_net() -> None:
    model = net(None).train()
    streamed = streamplan.compile(model, SIZE, 8, batch_norm="resident")
    assert streamed.plan.forecast is not None
    assert "momentum" not in str(streamed.plan)
    plain = copy.deepcopy(model)
    for _ in range(3):
        x = torch.randn(SIZE, dtype=torch.float64)
        torch.testing.assert_close(streamed(x), plain(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-10)


def test_update_bn_gives_the_buffers_of_the_plain_net() -> None:
    model = net(0.1)
    plain = copy.deepcopy(model)
    batches = [torch.randn(SIZE, dtype=torch.float64) for _ in range(3)]
    streamed = streamplan.compile(model, SIZE, 8, batch_norm="resident")
    update_bn(batches, streamed)
    update_bn(batches, plain)
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-10)
    assert model[2].momentum == 0.1


def test_the_momentum_of_the_model_stays_none() -> None:
    model = net(None).train()
    streamplan.verify(model, SIZE, 8, batch_norm="resident")
    assert model[2].momentum is None
