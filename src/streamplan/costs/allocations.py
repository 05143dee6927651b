"""How many bytes torch's allocators hand out at most while something runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

Result = TypeVar("Result")


def peak_of(run: Callable[[], Result], device: torch.device) -> tuple[int, Result]:
    """The most bytes at once above those that were there before, and what `run` returns.

    On a GPU `torch.cuda.max_memory_allocated`; on the CPU the profiler's allocation events, which see what torch
    allocates and nothing else.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        result = run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before, result
    with _quietly(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = run()
    return max((0, *accumulate(change.num_bytes for change in changes(profiler)))), result


@dataclass(frozen=True)
class Change:
    """Memory taken, or given back."""

    start_ns: int
    num_bytes: int
    """Negative where it is given back."""


def changes(profiler: profile) -> list[Change]:
    """What was taken while torch's profiler ran on the CPU, and when it was given back, in the order of time.

    The profiler also tells of some tensors that were there before: it knows sizes by address, from any earlier profile
    of the process, and an address may have been handed out again since. Those are left out.
    """
    found, there = [], set()
    for event in sorted(_allocations(profiler), key=lambda event: event.start_time_ns):
        address, count = event.extra_fields.ptr, event.extra_fields.alloc_size
        if count > 0:
            there.add(address)
        elif address not in there:
            continue
        else:
            there.remove(address)
        found.append(Change(event.start_time_ns, count))
    return found


def _allocations(profiler: profile) -> Iterator[Any]:
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    waiting = [*profiler.profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == _EventType.Allocation:
            yield event


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep lines off standard error that torch's profiler may write there whenever it starts and stops."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
