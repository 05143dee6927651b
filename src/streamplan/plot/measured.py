"""Memory while a training step runs, on the CPU, as torch's profiler sees it.

    call ─ preparation ─┬─ forward ─┬─ head ─┬─ backward ─┬─ end ─
                  first tile   last tile  seeds arrive  last tile

The phases are those of the projection. Their ends are told by the autograd function that runs the tiles, whose forward
and backward passes the profiler lists by name, so nothing is put in their way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils import _pytree as pytree

from streamplan.costs.allocations import Change, changes
from streamplan.module.streamed_module import StreamedModule
from streamplan.plot.refusals import NotDrawableError

_FORWARD, _BACKWARD = "_StreamedSegment", "_StreamedSegmentBackward"
"""The profiler's names for the two passes over the tiles: those of the autograd function in `runtime.streaming`."""
_NANO = 1e-9


@dataclass(frozen=True)
class MeasuredPhase:
    """When a phase ran."""

    phase: str
    """`preparation`, `forward`, `head`, `backward` or `end`."""
    start_seconds: float
    stop_seconds: float


@dataclass(frozen=True)
class MeasuredMemory:
    """Memory over one training step. What was there before, parameters and image among it, counts as 0."""

    seconds: tuple[float, ...]
    """When memory was taken or given back, from the first such time on."""
    num_bytes: tuple[int, ...]
    """Bytes from then on, above those at the start; what torch takes, and nothing else."""
    phases: tuple[MeasuredPhase, ...]
    """In the order they ran."""

    @property
    def peak_bytes(self) -> int:
        """The most at once."""
        return max(self.num_bytes)

    def peak_of(self, phase: str) -> int:
        """The most at once in a phase.

        Raises:
            KeyError: There is no such phase.
        """
        for span in self.phases:
            if span.phase == phase:
                return max(self._during(span))
        raise KeyError(f"no phase is named {phase!r}")

    def _during(self, span: MeasuredPhase) -> Iterator[int]:
        """What was there when a phase began, and after every change in it."""
        before = 0
        for second, count in zip(self.seconds, self.num_bytes, strict=True):
            if span.start_seconds <= second <= span.stop_seconds:
                yield count
            elif second < span.start_seconds:
                before = count
        yield before


def measure_memory(streamed: StreamedModule, *inputs: Any) -> MeasuredMemory:
    """Run one training step on the CPU and tell what memory it took when.

    Forward pass, a loss whose gradient is 1 at every position of all that is returned, backward pass: once to warm up,
    and once measured. Gradients begin as `zero_grad()` leaves them; afterwards those of the parameters are what they
    were before. Running statistics of resident BatchNorm in training mode move, as in any call.

    Args:
        streamed: A streamed module on the CPU.
        *inputs: What it takes.

    Raises:
        NotDrawableError: The module is elsewhere, or no gradient goes through its streamed part.
    """
    places = {x.device.type for x in pytree.tree_leaves(list(streamed.parameters()) + list(inputs)) if _is_tensor(x)}
    if places != {"cpu"}:
        raise NotDrawableError(
            "memory over time is measured on the CPU",
            why=f"the model and its inputs are on {', '.join(sorted(places))}",
            do="move them: streamed.cpu()",
        )
    with _without_gradients(streamed):
        _step(streamed, inputs)  # kernels keep what they make at the first call
    with (
        _without_gradients(streamed),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler,
    ):
        _step(streamed, inputs)
    return _read(changes(profiler), profiler.profiler.kineto_results.events())


def _is_tensor(x: object) -> bool:
    return isinstance(x, Tensor)


def _step(streamed: StreamedModule, inputs: Sequence[Any]) -> None:
    """Forward and backward pass; what they return is let go."""
    found = [x for x in pytree.tree_leaves(streamed(*inputs)) if isinstance(x, Tensor) and x.requires_grad]
    if found:
        torch.autograd.backward(found, [torch.ones_like(x) for x in found])


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Inside the `with` block parameters have no gradients; afterwards those they had."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _read(found: Sequence[Change], events: Sequence[Any]) -> MeasuredMemory:
    """Times and bytes, from changes in the order of time and the profiler's events."""
    spans = {event.name(): event for event in events if event.name() in {_FORWARD, _BACKWARD}}
    if len(spans) < 2:
        raise NotDrawableError(
            "no gradient goes through the streamed part",
            why="the step had no backward pass over the tiles",
            do="let a parameter of the streamed part require a gradient, and measure outside torch.no_grad()",
        )
    start, stop = found[0].start_ns, found[-1].start_ns
    forward, backward = spans[_FORWARD], spans[_BACKWARD]
    ends = [start, *_ends(forward), *_ends(backward), stop]
    names = ("preparation", "forward", "head", "backward", "end")
    at = [(end - start) * _NANO for end in ends]
    return MeasuredMemory(
        seconds=tuple((change.start_ns - start) * _NANO for change in found),
        num_bytes=tuple(accumulate(change.num_bytes for change in found)),
        phases=tuple(MeasuredPhase(*phase) for phase in zip(names, at, at[1:], strict=False)),
    )


def _ends(event: Any) -> tuple[int, int]:
    return event.start_ns(), event.start_ns() + event.duration_ns()
