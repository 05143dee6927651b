"""Memory of a GPU: what placing carried samples in host memory saves, and what happens when there is none left."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import streamplan
from streamplan.errors import OutOfMemoryError, StreamPlanError
from tests.gpu.common import DEVICE
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.runtime.exhaustion import MIB, SIZE, SMALL, Net, step

pytestmark = pytest.mark.gpu
BUDGETS = {"forward": 36 * MIB, "backward": 84 * MIB, "head": 200 * MIB}
"""Above what there is after the warm-up. A map of a tile takes 20 MiB of the allocator, and there are two at once; the
head asks for 256."""


def peak_bytes(carries: str) -> tuple[int, int]:
    """How far a step's allocations grow, and what its tiles carry."""
    model = randomize_(resnet18(width=16, num_classes=3).eval(), seed=0).to(DEVICE)
    size = (1, 3, 4096, 512)
    streamed = streamplan.compile(model, size, (64, 512), carries=carries, keep_tiles=0)  # type: ignore[arg-type]
    image = torch.rand(size, device=DEVICE)
    streamed(image).square().mean().backward()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    streamed(image).square().mean().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, streamed.plan.costs.carry_bytes


def test_carried_samples_in_host_memory_leave_the_device() -> None:
    (on_device, carry_bytes), (on_host, same) = peak_bytes("device"), peak_bytes("host")
    assert carry_bytes == same
    assert carry_bytes > 8 * MIB
    assert on_host < on_device - carry_bytes // 2


@contextmanager
def limited(num_bytes: int) -> Iterator[None]:
    """Let this process take so many more bytes of the device."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + num_bytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize(
    ("phase", "said"), [("forward", {"forward"}), ("backward", {"recomputation", "backward"}), ("head", {"head"})]
)
def test_exhaustion(phase: str, said: set[str]) -> None:
    model = Net().to(DEVICE)
    model.num_repeats = 64 if phase == "head" else 0
    keep_tiles = 1 if phase == "head" else 0
    streamed = streamplan.compile(model, SIZE, (256, 1024), keep_tiles=keep_tiles)
    small, image = torch.rand(SMALL, device=DEVICE), torch.rand(SIZE, device=DEVICE)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = step(model, model, small)
    step(model, streamed, small)
    model.zero_grad()
    with limited(BUDGETS[phase]), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        before = torch.cuda.memory_allocated()
        with pytest.raises(OutOfMemoryError) as caught:
            step(model, streamed, image)
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() - before < 8 * MIB  # with the error still at hand
        error = caught.value
        assert isinstance(error, torch.OutOfMemoryError)
        assert isinstance(error, StreamPlanError)
        assert error.phase in said
        assert (error.tile is None) is (phase == "head")
        assert sum(error.projected.values()) > BUDGETS[phase]
        assert 0 < error.measured["allocated"] <= error.measured["reserved"] <= error.measured["in all"]
        assert "CUDA out of memory" in str(error)
        found = step(model, streamed, small)
    for ours, plain in zip(found, expected, strict=True):
        assert float((ours - plain).norm()) <= 1e-3 * float(plain.norm())


def test_host_memory_of_a_net_on_a_device_is_told_apart() -> None:
    """The image and the carried samples in host memory are not the device's."""
    model = Net().to(DEVICE)
    streamed = streamplan.compile(model, SIZE, (256, 1024), carries="host", keep_tiles=0)
    with limited(BUDGETS["backward"]), pytest.raises(OutOfMemoryError) as caught:
        streamed(torch.rand(SIZE)).backward()
    assert "image" not in caught.value.projected
    assert "samples carried from tile to tile" not in caught.value.projected
    assert "carried samples of one row of tiles" in caught.value.projected
