"""What a GPU does during a step, from torch's profiler: how long it has nothing to do, and what takes its time.

A GPU is idle while no kernel runs and nothing is copied within its memory; copies to and from the host go on beside
kernels and do not count. The profiler slows the host down, so the share found is an upper bound.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

_STEP = "benchmark step"
_MAX_OPERATIONS = 20
"""Operations told, those that take most of the device's time."""
Span = tuple[float, float]
"""Start and end, in microseconds."""


def profile_step(run: Callable[[], object]) -> dict[str, Any]:
    """Run something under the profiler, to its end on the device.

    Returns:
        `device_idle_share`, `num_kernels`, and `operations`: name, calls and milliseconds of the device of those that
        take most of it. The share is None where no kernel ran, as on the CPU.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities, acc_events=True) as profiler, record_function(_STEP):
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        step, kernels = spans_of(json.loads(path.read_text())["traceEvents"])
    averages = [each for each in profiler.key_averages() if each.self_device_time_total > 0 and each.key != _STEP]
    averages.sort(key=lambda each: -each.self_device_time_total)
    return {
        "device_idle_share": idle_share(step, kernels) if kernels else None,
        "num_kernels": len(kernels),
        "step_milliseconds": (step[1] - step[0]) / 1e3,
        "operations": [
            [each.key, each.count, each.self_device_time_total / 1e3]
            for each in averages
            if each.key.startswith(("aten::", "Memcpy", "streamplan"))
        ][:_MAX_OPERATIONS],
    }


def spans_of(events: Iterable[dict[str, Any]]) -> tuple[Span, list[Span]]:
    """The step, and the kernels and copies within the device, of a trace.

    Raises:
        ValueError: The trace has no step.
    """
    step: Span | None = None
    busy = []
    for event in events:
        if "dur" not in event:
            continue
        span = (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        if event.get("cat") == "user_annotation" and event.get("name") == _STEP:
            step = span
        elif event.get("cat") == "kernel" or _is_within_device(event):
            busy.append(span)
    if step is None:
        raise ValueError("the trace has no step")
    return step, busy


def _is_within_device(event: dict[str, Any]) -> bool:
    """Whether an event copies within the device's memory or fills it."""
    category, name = event.get("cat"), str(event.get("name"))
    return category == "gpu_memset" or (category == "gpu_memcpy" and "DtoD" in name)


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
