"""Bytes alive while code runs without data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from streamplan.costs.liveness import LiveBytes
from streamplan.trace.replay.known_results import META, KnownResults

CALLS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 8, bias=False),  # its result is a view, which its schema does not say
    "linear with bias": lambda: nn.Linear(8, 8),
    "convolution": lambda: nn.Conv1d(5, 5, 3, padding=1),
    "softmax": lambda: nn.Softmax(1),
    "in place": lambda: nn.ReLU(inplace=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_known_of_a_call_changes_no_count(name: str) -> None:
    module, results = CALLS[name]().to(META), KnownResults()
    counts = []
    for _ in range(3):  # in the first run, no call is like an earlier one
        x = torch.empty(4, 5, 8, device=META)
        with LiveBytes(None, [x, *module.parameters()], results) as live:
            y: Tensor = module(x)
            forward = live.current_bytes, live.peak_bytes
            loss = y.sum()
            if loss.requires_grad:
                loss.backward()
        counts.append((*forward, live.current_bytes, live.peak_bytes))
        del y, loss
        module.zero_grad()
    assert len(set(counts)) == 1, counts


def test_the_peak_is_of_what_is_alive_at_once() -> None:
    with LiveBytes() as live:
        x = torch.empty(1000, device=META)
        y = x * 2
        del x
        z = y + 1
    assert live.current_bytes == y.nbytes + z.nbytes
    assert live.peak_bytes == 2 * y.nbytes
