"""Tensors on their way to host memory: in order, few at a time, none lost, and none looked at before it is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

import streamplan
from streamplan import Source
from streamplan.runtime import carries, fetching, seeds
from streamplan.runtime.carries import KeptCarries
from streamplan.runtime.fetching import HostWriter
from streamplan.runtime.transfers import Arrived, Transfers
from tests.nets.randomize import randomize_
from tests.nets.unet import unet_bilinear
from tests.runtime.comparison import assert_near, assert_same_results, run

CPU = torch.device("cpu")
SIZE = (1, 3, 96, 80)


class Late(Transfers):
    """Transfers whose tensors hold nothing until somebody has waited for them, `num_fetched_ahead` at a time."""

    @dataclass
    class Pending:
        owner: Late
        x: Tensor
        tensor: Tensor

        def wait(self) -> Tensor:
            self.owner.num_on_the_way -= 1
            return self.tensor.copy_(self.x)

    def __init__(self, num_fetched_ahead: int) -> None:
        self.num_fetched_ahead = num_fetched_ahead
        self.num_on_the_way = self.most_on_the_way = self.num_fetched = self.num_restored = 0

    def begin(self, host: Tensor) -> Arrived:
        return Arrived(host)

    def restore(self, fetched: Late.Pending) -> Late.Pending:
        self.num_restored += 1
        return fetched

    def fetch(self, x: Tensor) -> Late.Pending:
        self.num_fetched += 1
        self.num_on_the_way += 1
        self.most_on_the_way = max(self.most_on_the_way, self.num_on_the_way)
        return self.Pending(self, x.detach(), torch.zeros_like(x))


@pytest.fixture(params=[0, 1, 3])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Late]:
    transfers = Late(request.param)
    monkeypatch.setattr(fetching, "transfers_to", lambda device: transfers)
    monkeypatch.setattr(seeds, "transfers_to", lambda device: transfers)
    monkeypatch.setattr(carries, "transfers_to", lambda device: transfers)
    yield transfers
    assert transfers.num_on_the_way == 0


def test_order(late: Late) -> None:
    writer = HostWriter(CPU)
    taken: list[float] = []
    for number in range(6):
        writer.send(torch.tensor([float(number)]), lambda x: taken.append(float(x)))
        assert taken == [float(k) for k in range(number + 1 - late.num_fetched_ahead)]
    writer.finish()
    assert taken == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert late.most_on_the_way == late.num_fetched_ahead + 1


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_maps_into_arrays(late: Late, halo: str) -> None:
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)
    streamed = streamplan.compile(model, SIZE, 60, halo=halo)  # type: ignore[arg-type]
    x = torch.rand(SIZE, dtype=torch.float64)
    expected = model(x).detach()
    found = np.full(tuple(expected.shape), np.nan)
    streamed.predict(x, out=found)
    assert late.num_fetched > 3
    assert_near(torch.from_numpy(found), expected, "map", 1e-12)


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_gradients_into_arrays(late: Late, halo: str) -> None:
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)
    streamed = streamplan.compile(model, SIZE, 60, halo=halo)  # type: ignore[arg-type]
    image = np.random.default_rng(0).normal(size=SIZE[1:])
    gradient = np.zeros_like(image)
    x = torch.from_numpy(image)[None].requires_grad_()
    model(x).square().sum().backward()
    streamed(Source(image, gradient=gradient)).square().sum().backward()
    assert late.num_fetched == streamed._plan.num_tiles + 1  # the shares, and which blocks are zero
    assert_near(torch.from_numpy(gradient)[None], x.grad, "gradient", 1e-10)


def test_gradients_stay_right(late: Late) -> None:
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)
    streamed = streamplan.compile(model, SIZE, (24, 40))
    x = torch.rand(SIZE, dtype=torch.float64)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
    assert late.num_fetched == 1  # one answer for all tiles


@pytest.mark.parametrize("keep_tiles", [0, 1, 4])
def test_carried_samples_in_host_memory(late: Late, keep_tiles: int) -> None:
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)
    streamed = streamplan.compile(model, SIZE, (24, 40), carries="host", keep_tiles=keep_tiles)
    x = torch.rand(SIZE, dtype=torch.float64)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
    assert late.num_restored == late.num_fetched - 1 > 10
    with torch.no_grad():
        streamed(x)
    assert late.num_restored == late.num_fetched - 1  # nothing is kept


def test_carried_samples_come_back_one_tile_early(monkeypatch: pytest.MonkeyPatch) -> None:
    transfers = Late(0)
    monkeypatch.setattr(carries, "transfers_to", lambda device: transfers)
    streamed = streamplan.compile(unet_bilinear(width=4, depth=1).eval(), SIZE, (24, 80), carries="host", keep_tiles=0)
    kept: list[int] = []
    bring, waiting = KeptCarries.bring, KeptCarries.take

    def bringing(self: KeptCarries, index: tuple[int, ...] | None) -> None:
        bring(self, index)
        kept.append(len(self._returning))

    def taking(self: KeptCarries, index: tuple[int, ...]) -> dict[tuple[str, int], Tensor]:
        assert index in self._returning or index[0] in (0, streamed._plan.grid[0] - 1)
        return waiting(self, index)

    output = streamed(torch.rand(SIZE))
    monkeypatch.setattr(KeptCarries, "bring", bringing)
    monkeypatch.setattr(KeptCarries, "take", taking)
    output.sum().backward()
    assert max(kept) == 1
    assert transfers.num_restored > 0
