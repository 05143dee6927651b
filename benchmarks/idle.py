"""How long a GPU has nothing to do during a step: the share of the step's time without a running kernel.

From torch's profiler, which slows the host down, so that the share found is an upper bound; copies between host and
device do not count as kernels.
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
Span = tuple[float, float]
"""Start and end, in microseconds."""


def measure_idle(run: Callable[[], object]) -> dict[str, Any]:
    """Run something under the profiler, to its end on the device.

    Returns:
        `device_idle_share` and `num_kernels`; the share is None where no kernel ran, as on the CPU.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as profiler, record_function(_STEP):
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        step, kernels = spans_of(json.loads(path.read_text())["traceEvents"])
    return {"device_idle_share": idle_share(step, kernels) if kernels else None, "num_kernels": len(kernels)}


def spans_of(events: Iterable[dict[str, Any]]) -> tuple[Span, list[Span]]:
    """The step, and the kernels, of a trace.

    Raises:
        ValueError: The trace has no step.
    """
    step: Span | None = None
    kernels = []
    for event in events:
        if "dur" not in event:
            continue
        span = (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        if event.get("cat") == "user_annotation" and event.get("name") == _STEP:
            step = span
        elif event.get("cat") == "kernel":
            kernels.append(span)
    if step is None:
        raise ValueError("the trace has no step")
    return step, kernels


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
