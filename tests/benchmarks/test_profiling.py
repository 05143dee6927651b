from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch.autograd import DeviceType

from benchmarks.profiling import busy_spans, idle_share, profile_step


@pytest.mark.parametrize(
    ("busy", "share"),
    [
        ([], 1.0),
        ([(0.0, 10.0)], 0.0),
        ([(-5.0, 5.0)], 0.5),
        ([(2.0, 4.0), (2.0, 4.0)], 0.8),
        ([(6.0, 8.0), (1.0, 3.0), (2.0, 7.0)], 0.3),
        ([(1.0, 9.0), (2.0, 3.0)], 0.2),
        ([(20.0, 30.0)], 1.0),
    ],
)
def test_share(busy: list[tuple[float, float]], share: float) -> None:
    assert idle_share((0.0, 10.0), busy) == pytest.approx(share)


@dataclass
class Event:
    """As the profiler gives them."""

    text: str
    start: int
    duration: int
    where: DeviceType = DeviceType.CUDA

    def name(self) -> str:
        return self.text

    def device_type(self) -> DeviceType:
        return self.where

    def start_ns(self) -> int:
        return self.start

    def duration_ns(self) -> int:
        return self.duration


def test_copies_to_and_from_the_host_do_not_count() -> None:
    events = [
        Event("conv", 7, 3),
        Event("Memcpy HtoD (Pinned -> Device)", 10, 9),
        Event("Memcpy DtoH (Device -> Pinned)", 10, 9),
        Event("Memcpy DtoD (Device -> Device)", 20, 1),
        Event("Memset (Device)", 22, 1),
        Event("aten::conv2d", 5, 1, DeviceType.CPU),
    ]
    assert [(round(start * 1e9), round(stop * 1e9)) for start, stop in busy_spans(events)] == [
        (7, 10),
        (20, 21),
        (22, 23),
    ]


def test_on_the_cpu_no_share_is_told() -> None:
    calls: list[int] = []
    found = profile_step(lambda: calls.append(int(torch.ones(3).sum())))
    assert set(calls) == {3}
    if not torch.cuda.is_available():
        assert found == {"device_idle_share": None, "device_seconds": None, "num_kernels": 0, "operations": []}
