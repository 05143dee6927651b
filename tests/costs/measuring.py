"""The memory of one training step on the CPU as torch records it, phase by phase."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

import streamplan
from streamplan.costs.allocations import changes
from streamplan.runtime import streaming


class _Loss(torch.autograd.Function):
    """A number whose gradient by its argument is ones, made when it is needed and held by nobody."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.like = x.shape, x.dtype
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        shape, dtype = ctx.like
        return torch.ones(shape, dtype=dtype)


@contextmanager
def named_passes() -> Iterator[None]:
    """Passes over tiles show up in profiles as `phase forward` and `phase backward`."""
    passes = streaming.forward_pass, streaming.backward_pass

    def named(run: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with record_function(f"phase {phase}"):
                return run(*args, **kwargs)

        return wrapped

    streaming.forward_pass, streaming.backward_pass = (
        named(run, phase) for run, phase in zip(passes, ("forward", "backward"), strict=True)
    )
    try:
        yield
    finally:
        streaming.forward_pass, streaming.backward_pass = passes


def measured_peaks(streamed: streamplan.StreamedModule, image: torch.Tensor) -> dict[str, int]:
    """The most above what was there before the step, by phase."""

    def step() -> None:
        outputs = [x for x in torch.utils._pytree.tree_leaves(streamed(image)) if x.requires_grad]
        torch.autograd.backward([_Loss.apply(x) for x in outputs])

    step()  # oneDNN keeps what it makes at the first call
    streamed.zero_grad()
    with named_passes(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        step()
    streamed.zero_grad()
    events = profiler.profiler.kineto_results.events()
    spans = {e.name(): (e.start_ns(), e.start_ns() + e.duration_ns()) for e in events if e.name().startswith("phase ")}
    memory = changes(profiler)
    totals = list(zip((c.start_ns for c in memory), accumulate(c.num_bytes for c in memory), strict=True))
    forward, backward = spans["phase forward"], spans["phase backward"]
    ends = {"forward": forward, "head": (forward[1], backward[0]), "backward": backward, "end": (backward[1], 2**63)}
    return {phase: max((n for at, n in totals if low <= at <= high), default=0) for phase, (low, high) in ends.items()}
