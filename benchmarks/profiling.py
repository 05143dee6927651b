"""What a GPU does during a step, from torch's profiler: how long it has nothing to do, and what takes its time.

A GPU is idle while no kernel runs and nothing is copied within its memory; copies to and from the host go on beside
kernels and do not count. The step counts from the first kernel to the end of the last. The idle share is taken in a
step of which only the device's side is recorded, which slows the host down little; it is an upper bound all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_MAX_OPERATIONS = 20
"""Operations told, those that take most of the device's time."""
_MAX_KERNELS = 20_000
"""With more than these, operations are not told: it would take longer than all else."""
Span = tuple[float, float]
"""Start and end, in seconds."""


class Event(Protocol):
    """An event of the profiler's."""

    def name(self) -> str:
        """Of a kernel, or `Memcpy DtoD (Device -> Device)`."""

    def device_type(self) -> DeviceType:
        """Where it happened."""

    def start_ns(self) -> int:
        """When it began."""

    def duration_ns(self) -> int:
        """How long it took."""


def profile_step(run: Callable[[], object]) -> dict[str, Any]:
    """Run something under the profiler, to its end on the device.

    Returns:
        `device_idle_share`, `device_seconds` from the first kernel to the last, `num_kernels`, and `operations`: name,
        calls and milliseconds of the device of those that take most of it. The share is None where no kernel ran, as
        on the CPU.
    """
    has_gpu = torch.cuda.is_available()
    busy = busy_spans(_events(run, [ProfilerActivity.CUDA if has_gpu else ProfilerActivity.CPU]))
    step = (min(start for start, _ in busy), max(stop for _, stop in busy)) if busy else None
    return {
        "device_idle_share": idle_share(step, busy) if step else None,
        "device_seconds": step[1] - step[0] if step else None,
        "num_kernels": len(busy),
        "operations": _operations(run) if 0 < len(busy) <= _MAX_KERNELS else [],
    }


def _events(run: Callable[[], object], activities: list[ProfilerActivity]) -> list[Event]:
    with profile(activities=activities, acc_events=True) as profiler:
        run()
        _synchronize()
    events: list[Event] = profiler.profiler.kineto_results.events()
    return events


def _operations(run: Callable[[], object]) -> list[list[Any]]:
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
        run()
        _synchronize()
    averages = [each for each in profiler.key_averages() if each.self_device_time_total > 0]
    averages.sort(key=lambda each: -each.self_device_time_total)
    return [[each.key, each.count, each.self_device_time_total / 1e3] for each in averages[:_MAX_OPERATIONS]]


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def busy_spans(events: Iterable[Event]) -> list[Span]:
    """When kernels ran, and when something was copied or filled within the device's memory."""
    spans = []
    for event in events:
        is_transfer = event.name().startswith("Memcpy") and "DtoD" not in event.name()
        if event.device_type() == DeviceType.CUDA and not is_transfer:
            spans.append((event.start_ns() / 1e9, (event.start_ns() + event.duration_ns()) / 1e9))
    return spans


def idle_share(step: Span, busy: Iterable[Span]) -> float:
    """The share of a span that no other one covers.

    >>> idle_share((0.0, 10.0), [(1.0, 3.0), (2.0, 4.0), (9.0, 12.0)])
    0.6
    """
    start, stop = step
    covered, reached = 0.0, start
    for begin, end in sorted(busy):
        first, last = max(begin, reached), min(end, stop)
        if last > first:
            covered, reached = covered + last - first, last
    return 1.0 - covered / (stop - start)
