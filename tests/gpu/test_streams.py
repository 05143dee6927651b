"""Streams: nothing is read before it is there, nothing written before it was read, and the host does not wait.

The device is kept busy while the host goes on, so that what is not ordered properly comes out wrong.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import streamplan
from streamplan.runtime.transfers import CudaTransfers, _side_stream, numbers_on
from tests.gpu.common import DEVICE, NETS, SIZE, Results, assert_same, draw, plain_step, step, unet

pytestmark = pytest.mark.gpu
CYCLES = 50_000_000
"""Some tens of milliseconds."""


@contextmanager
def without_synchronisation() -> Iterator[None]:
    """Raise if torch knows that the host waits for the device; waiting for an event is not counted."""
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")  # that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def num_waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the host waited for an event since this was last asked."""
    waited: list[int] = []
    wait = torch.cuda.Event.synchronize

    def counting(event: torch.cuda.Event) -> None:
        waited.append(1)
        wait(event)

    def count() -> int:
        number = len(waited)
        waited.clear()
        return number

    monkeypatch.setattr(torch.cuda.Event, "synchronize", counting)
    return count


@pytest.mark.parametrize("carries", ["device", "host"])
@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("keep_tiles", [0, 1])
@pytest.mark.parametrize("name", NETS)
def test_the_host_waits_once_per_step(
    name: str, keep_tiles: int, place: str, carries: str, num_waits: Callable[[], int]
) -> None:
    """For the answer which blocks of the cut's gradient are zero, and for nothing else."""
    model = NETS[name]()
    streamed = streamplan.compile(model, SIZE, (32, 64), carries=carries, keep_tiles=keep_tiles)  # type: ignore[arg-type]
    x = draw().to(DEVICE if place == "device" else "cpu")
    streamed(x).square().mean().backward()
    num_waits()
    with without_synchronisation():
        streamed(x).square().mean().backward()
    assert num_waits() == 1


def test_without_carried_samples_too(num_waits: Callable[[], int]) -> None:
    model = unet()
    streamed = streamplan.compile(model, SIZE, 88, halo="recompute")
    streamed(draw()).square().mean().backward()
    num_waits()
    with without_synchronisation():
        streamed(draw()).square().mean().backward()
    assert num_waits() == 1


def test_results_in_host_memory_are_waited_for_once_per_tile(num_waits: Callable[[], int]) -> None:
    model = unet()
    streamed = streamplan.compile(model, SIZE, 88)
    out = np.zeros(tuple(streamed.predict(draw()).shape[1:]))
    num_waits()
    with without_synchronisation():
        streamed.predict(draw(), out=out)
    assert 1 < num_waits() <= streamed.plan.num_tiles
    host = draw().requires_grad_()
    loss = streamed(host).square().mean()
    num_waits()
    with without_synchronisation():
        loss.backward()
    assert num_waits() == streamed.plan.num_tiles + 1


def test_synchronisation_would_be_noticed() -> None:
    x = torch.ones(3, device=DEVICE)
    with without_synchronisation(), pytest.raises(RuntimeError, match="synchronizing"):
        bool(x.any())


@pytest.mark.parametrize("carries", ["device", "host"])
@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("name", NETS)
def test_a_stream_of_the_users_own(name: str, place: str, carries: str) -> None:
    model = NETS[name]()
    streamed = streamplan.compile(model, SIZE, (32, 64), carries=carries)  # type: ignore[arg-type]
    image = draw()
    expected = plain_step(model, image.requires_grad_())
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    for _ in range(3):
        with torch.cuda.stream(stream):
            torch.cuda._sleep(CYCLES)
            x = (image.detach().to(DEVICE) if place == "device" else image.detach()).requires_grad_()
            found = step(streamed, model, x)
        stream.synchronize()
        assert_same(found, expected, f"{name} {place}")


def test_two_models_on_two_streams() -> None:
    models = [NETS[name]() for name in NETS]
    nets = [streamplan.compile(model, SIZE, (32, 64), carries="host") for model in models]
    images = [draw(seed) for seed in range(len(models))]
    expected = [plain_step(model, image) for model, image in zip(models, images, strict=True)]
    torch.cuda.synchronize()
    found: dict[int, list[Results]] = {0: [], 1: []}

    def work(number: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(4):
                found[number].append(step(nets[number], models[number], images[number]))
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(number,)) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, results in found.items():
        assert len(results) == 4
        for result in results:
            assert_same(result, expected[number], f"model {number}")


def test_pinned_memory_is_not_used_again_too_early() -> None:
    transfers = CudaTransfers(DEVICE)
    with torch.cuda.stream(_side_stream(0, "inward")):
        torch.cuda._sleep(CYCLES)
    sent = [transfers.begin(torch.full((1000, 100), float(number))) for number in range(40)]
    totals = torch.stack([pending.wait().sum() for pending in sent]).tolist()
    assert totals == [number * 100_000.0 for number in range(40)]


def test_device_memory_is_not_used_again_too_early() -> None:
    """A region is freed by the host long before the device has read it; the next one must not lie there."""
    transfers, sums = CudaTransfers(DEVICE), []
    for number in range(40):
        region = transfers.begin(torch.full((1000, 100), float(number))).wait()
        if number == 0:
            torch.cuda._sleep(CYCLES)
        sums.append(region.sum())
        del region
    assert torch.stack(sums).tolist() == [number * 100_000.0 for number in range(40)]


def test_what_is_fetched_may_be_freed_at_once() -> None:
    transfers = CudaTransfers(DEVICE)
    torch.cuda._sleep(CYCLES)
    fetched = [transfers.fetch(torch.full((1000, 100), float(number), device=DEVICE)) for number in range(40)]
    for number, pending in enumerate(fetched):
        assert bool((pending.wait() == number).all())


def test_a_region_is_pinned_without_the_rest_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    empty_like = torch.empty_like

    def recording(*args: object, **kwargs: object) -> torch.Tensor:
        made = empty_like(*args, **kwargs)  # type: ignore[call-overload]
        sizes.append(made.untyped_storage().nbytes())
        return made

    monkeypatch.setattr(torch, "empty_like", recording)
    image = torch.rand(1, 3, 2048, 2048)
    region = image[..., 100:164, 200:264]
    sent = CudaTransfers(DEVICE).begin(region).wait()
    assert sizes == [region.numel() * 4]
    assert sent.untyped_storage().nbytes() == region.numel() * 4
    assert torch.equal(sent.cpu(), region)


def test_passes_share_their_streams() -> None:
    assert CudaTransfers(DEVICE)._inward is CudaTransfers(DEVICE)._inward
    assert CudaTransfers(DEVICE)._inward != CudaTransfers(DEVICE)._outward


def test_numbers() -> None:
    torch.cuda._sleep(CYCLES)
    with without_synchronisation():
        vectors = [numbers_on(DEVICE, [k, 2 * k], torch.float64) for k in range(20)]
    assert torch.stack(vectors).tolist() == [[k, 2 * k] for k in range(20)]
