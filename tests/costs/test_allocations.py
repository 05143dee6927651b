"""What torch's profiler says of memory, and what of it counts."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from streamplan.costs.allocations import changes, peak_of


def _profiled() -> profile:
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)


def _let_tensors_go() -> tuple[int, list[int], int]:
    """Make a tensor while others go, some where a profile has seen others: events told, changes, its bytes."""
    with _profiled():
        seen = [torch.empty(256) for _ in range(50)]
    del seen
    before = [torch.empty(64) for _ in range(200)] + [torch.empty(256) for _ in range(200)]
    with _profiled() as profiler:
        after = torch.empty(100)
        before.clear()
    told = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    return len(told), [change.num_bytes for change in changes(profiler)], after.nbytes


def test_what_was_there_before_does_not_count() -> None:
    """A tensor whose address an earlier profile has seen is told of when it goes, and is left out.

    Whether an address is used again is up to the C library: it is tried until one was.
    """
    for _ in range(100):
        num_told, found, num_bytes = _let_tensors_go()
        assert found == [num_bytes]
        if num_told > 1:
            return
    raise AssertionError("no tensor that went was told of")


def test_peak() -> None:
    def run() -> str:
        kept = torch.empty(1000, dtype=torch.uint8)
        for _ in range(3):
            torch.empty(500, dtype=torch.uint8)
        return f"{kept.numel()}"

    assert peak_of(run, torch.device("cpu")) == (1500, "1000")
