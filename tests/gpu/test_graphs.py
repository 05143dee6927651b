"""CUDA graphs: the gradients of passes without them, while images, weights and settings change."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamplan
from tests.gpu.common import DEVICE, assert_same, plain_step, step
from tests.nets.densenet import densenet121
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18, resnet50
from tests.nets.unet import unet
from tests.runtime.comparison import assert_near

pytestmark = pytest.mark.gpu
SIZE = (1, 3, 320, 128)
NETS = {
    "resnet": lambda: resnet18(width=4, num_classes=3),
    "densenet": lambda: densenet121(4, 2),
    "unet": lambda: unet(width=4, depth=2),
}


def build(name: str) -> nn.Module:
    return randomize_(NETS[name]().double().eval(), seed=1).to(DEVICE)


def draw(seed: int) -> Tensor:
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def num_replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each graph that is replayed."""
    replays: list[int] = []
    replay = torch.cuda.CUDAGraph.replay

    def counting(graph: torch.cuda.CUDAGraph) -> None:
        replays.append(1)
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", counting)
    return replays


@pytest.mark.parametrize("carries", ["device", "host"])
@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("keep_tiles", [0, 2])
@pytest.mark.parametrize("name", NETS)
def test_steps(name: str, keep_tiles: int, place: str, carries: str, num_replays: list[int]) -> None:
    model = build(name)
    options: dict[str, Any] = {"keep_tiles": keep_tiles, "carries": carries, "cuda_graphs": True}
    streamed = streamplan.compile(model, SIZE, (32, 64), **options)
    for number in range(3):
        x = draw(number).to(DEVICE if place == "device" else "cpu").requires_grad_(number == 1)
        assert_same(step(streamed, model, x), plain_step(model, x), f"{name}, step {number}")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
    assert len(num_replays) > 6


def test_under_autocast(num_replays: list[int]) -> None:
    model = randomize_(resnet50(width=16).eval(), seed=1).to(DEVICE, memory_format=torch.channels_last)
    exact_model = copy.deepcopy(model).double()
    x = draw(0).to(DEVICE)
    exact = step(exact_model, exact_model, x)
    results = []
    for cuda_graphs in (False, True):
        streamed = streamplan.compile(model, SIZE, (32, 128), keep_tiles=0, cuda_graphs=cuda_graphs)
        for _ in range(3):
            model.zero_grad()
            with torch.autocast("cuda", torch.bfloat16):
                output = streamed(x.float())
            weights = torch.rand(output.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
            (output.double().square() * weights.to(DEVICE)).sum().backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(num_replays) > 6
    without, found = results
    for name, value in exact.items():
        if name in found and value is not None:
            norm = value.norm()
            own, usual = ((each[name].double() - value).norm() / norm for each in (found, without))
            assert own <= 1.2 * usual + 1e-3, f"{name}: {own:.3g} with graphs, {usual:.3g} without"


def test_maps_into_arrays(num_replays: list[int]) -> None:
    model = build("unet")
    streamed = streamplan.compile(model, SIZE, (32, 64), cuda_graphs=True)
    for number in range(3):
        image = draw(number)
        expected = model(image.to(DEVICE)).detach().cpu()
        out = np.zeros(tuple(expected.shape))
        streamed.predict(image, out=out)
        assert_near(torch.from_numpy(out), expected, f"image {number}", 1e-10)
    assert len(num_replays) > 6


def test_passes_on_streams_in_turn(num_replays: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is done with one pass long before the device is; the next, on another stream, must not write over it."""
    replay = torch.cuda.CUDAGraph.replay

    def late(graph: torch.cuda.CUDAGraph) -> None:
        torch.cuda._sleep(3_000_000)  # between the inputs' arrival in fixed memory and their use
        replay(graph)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", late)
    model = build("resnet").requires_grad_(False)
    streamed = streamplan.compile(model, SIZE, (32, 64), cuda_graphs=True)
    images = [draw(number).to(DEVICE) for number in range(6)]
    expected = [model(x) for x in images]
    for x in images[:3]:
        streamed(x)
    torch.cuda.synchronize()
    streams, found = [torch.cuda.Stream(), torch.cuda.Stream()], []
    for number, x in enumerate(images):
        with torch.cuda.stream(streams[number % 2]):
            found.append(streamed(x))
    torch.cuda.synchronize()
    for number, (ours, plain) in enumerate(zip(found, expected, strict=True)):
        assert_near(ours.cpu(), plain.cpu(), f"image {number}", 1e-10)
    assert len(num_replays) > 6


def test_memory_is_given_back() -> None:
    """But for work space that libraries keep for the stream of the recordings, once."""
    model = build("resnet")
    plain_step(model, draw(0))
    left = []
    for _ in range(3):
        streamed = streamplan.compile(model, SIZE, (32, 64), keep_tiles=0, cuda_graphs=True)
        for _ in range(3):
            streamed(draw(0).to(DEVICE)).sum().backward()
        model.zero_grad()
        del streamed
        torch.cuda.synchronize()
        left.append(torch.cuda.memory_allocated())
    assert max(left[1:]) - left[0] < 2**20
