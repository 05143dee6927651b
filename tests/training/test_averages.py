"""Averages of weights: torch's AveragedModel around a streamed module, and by hand over `state_dict`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import streamplan
from tests.module.small_nets import Classifier
from tests.nets.randomize import randomize_

SIZE = (2, 3, 29, 23)
TILE = (13, 11)
DECAY = 0.8
NUM_STEPS = 4


def make_plain() -> nn.Module:
    return randomize_(Classifier().double().eval(), 1)


def image(seed: int) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def train(net: nn.Module, after_step: Callable[[], None]) -> None:
    """Some steps; buffers change as well, as they do where BatchNorm is in training mode."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        net(image(step)).square().mean().backward()
        optimizer.step()
        net.get_buffer("norm.running_mean").add_(0.1)
        after_step()


AVERAGES: dict[str, dict[str, Any]] = {
    "equal weights": {},
    "exponential": {"multi_avg_fn": get_ema_multi_avg_fn(DECAY)},
    "exponential, with buffers": {"multi_avg_fn": get_ema_multi_avg_fn(DECAY), "use_buffers": True},
}


@pytest.mark.parametrize("average", AVERAGES)
def test_averaged_model(average: str) -> None:
    plain, net = make_plain(), make_plain()
    streamed = streamplan.compile(net, SIZE, TILE)
    averages = []
    for module in (plain, streamed):
        averaged = AveragedModel(module, **AVERAGES[average])
        train(module, lambda a=averaged, m=module: a.update_parameters(m))
        averages.append(averaged)
    expected, found = averages
    assert list(found.state_dict()) == list(expected.state_dict())
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=name)
    assert not torch.equal(found.module.stem[0].weight, net.stem[0].weight), "an average is not the last weight"
    assert found.module.is_streamed
    assert found.module.plan == streamed.plan
    assert not {id(p) for p in found.parameters()} & {id(p) for p in net.parameters()}
    outputs = [module(image(9)) for module in averages]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-9, atol=1e-11)


def test_an_average_is_loaded_into_a_plain_net() -> None:
    streamed = streamplan.compile(make_plain(), SIZE, TILE)
    averaged = AveragedModel(streamed, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    train(streamed, lambda: averaged.update_parameters(streamed))
    plain = make_plain()
    plain.load_state_dict(averaged.module.state_dict())
    torch.testing.assert_close(plain(image(9)), averaged(image(9)), rtol=1e-10, atol=1e-12)


def test_exponential_average_by_hand() -> None:
    """Over `state_dict`, into a copy of the streamed module that is loaded after every step."""
    results = []
    for make in (make_plain, lambda: streamplan.compile(make_plain(), SIZE, TILE)):
        net = make()
        shadow, state = copy.deepcopy(net), {name: value.clone() for name, value in net.state_dict().items()}
        outputs: list[Tensor] = []

        def update(net: nn.Module = net, shadow: nn.Module = shadow, state: dict[str, Tensor] = state) -> None:
            for name, value in net.state_dict().items():
                if value.is_floating_point():
                    state[name].lerp_(value, 1 - DECAY)
            shadow.load_state_dict(state)
            outputs.append(shadow(image(9)).detach())  # noqa: B023 - called before the next net is made

        train(net, update)
        results.append((state, outputs))
    (expected, expected_outputs), (found, found_outputs) = results
    assert list(expected) == list(found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)
    for one, other in zip(expected_outputs, found_outputs, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-11)
    assert (expected_outputs[0] - expected_outputs[-1]).abs().max() > 1e-3


def test_weights_swapped_for_evaluation_and_back() -> None:
    """As callbacks do it: the averaged weights are copied in, then the trained ones again."""
    plain, streamed = make_plain(), streamplan.compile(make_plain(), SIZE, TILE)
    other = {name: value * 1.1 if value.is_floating_point() else value for name, value in plain.state_dict().items()}
    trained = copy.deepcopy(streamed.state_dict())
    outputs = []
    for net in (plain, streamed):
        first = net(image(1))
        net.load_state_dict(other)
        swapped = net(image(1))
        net.load_state_dict(trained)
        outputs.append((first, swapped, net(image(1))))
    for one, two in zip(*outputs, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-12)
    assert (outputs[0][0] - outputs[0][1]).abs().max() > 1e-3
    assert torch.equal(outputs[1][0], outputs[1][2])
