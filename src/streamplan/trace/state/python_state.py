"""Python's random numbers, what code keeps outside the model, and torch's seeds, around a run of a model's code.

A model may draw from `random` and `numpy.random` in forward, and count in a global; each call then does so once, as in
the plain net, and what compiling does is undone. It may not seed torch there: a program draws its numbers in another
order than the model.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from streamplan.errors import TracingError
from streamplan.trace.leaves import is_code_of_torch
from streamplan.trace.state.outside import OutsideState
from streamplan.trace.state.type_tests import type_test_error

_SEEDING = frozenset({"manual_seed", "seed", "set_state", "graphsafe_set_state", "set_offset"})
"""Methods of `torch.Generator` that change what it draws next, without drawing."""


@dataclass(frozen=True, eq=False)
class PythonState:
    """State of the generators of `random` and `numpy.random`, and of what a model's code keeps outside the model."""

    of_random: Any
    of_numpy: Any
    """None if nothing has imported numpy."""
    outside: OutsideState

    @classmethod
    def current(cls, model: nn.Module) -> PythonState:
        """The state they are in."""
        numpy = sys.modules.get("numpy.random")
        return cls(random.getstate(), numpy.get_state() if numpy else None, OutsideState.of(model))

    def set(self) -> None:
        """Put them into this state."""
        random.setstate(self.of_random)
        numpy = sys.modules.get("numpy.random")
        if numpy and self.of_numpy is not None:
            numpy.set_state(self.of_numpy)
        self.outside.put_back()

    @contextmanager
    def again(self, model: nn.Module) -> Iterator[None]:
        """Inside the `with` block, a model goes on from this state; afterwards all is as it was before the block."""
        after = PythonState.current(model)
        self.set()
        try:
            yield
        finally:
            after.set()


@contextmanager
def watched() -> Iterator[None]:
    """Refuse, when the `with` block is left, what code inside it did that no tracer sees.

    That torch's generators were seeded, and that a tensor was tested for its very class. Both are found by this
    thread's profiler: a seed may be set to what it was, and a test leaves nothing behind.

    Raises:
        TracingError: Code did so.
    """
    found: list[TracingError] = []
    codes: set[CodeType] = set()
    before: Any = sys.getprofile()

    def watch(frame: FrameType, event: Any, argument: Any) -> None:
        if event == "call":
            codes.add(frame.f_code)
        if event == "c_call" and argument.__name__ in _SEEDING:
            owner = getattr(argument, "__self__", None)
            if isinstance(owner, torch.Generator) and not found:
                found.append(_seeding(frame))
        if callable(before):
            before(frame, event, argument)

    with _paused(before):
        sys.setprofile(watch)
        try:
            yield
        finally:
            sys.setprofile(before if callable(before) else None)
    found += filter(None, map(type_test_error, codes))
    if found:
        raise found[0]


@contextmanager
def _paused(profiler: Any) -> Iterator[None]:
    """Inside the `with` block, a profiler written in C, as `cProfile.Profile` is in Python 3.11, does not run.

    Raises:
        TracingError: It cannot be stopped and started.
    """
    if profiler is None or callable(profiler):
        yield
        return
    if not (hasattr(profiler, "disable") and hasattr(profiler, "enable")):
        raise TracingError(
            f"a profiler of class {type(profiler).__name__} is running",
            why="forward is traced under a profiler that finds calls which no tracer sees, and a thread has only one",
            do="profile with cProfile, with torch.profiler, or from another process",
        )
    profiler.disable()
    try:
        yield
    finally:
        profiler.enable()


def _seeding(frame: FrameType) -> TracingError:
    while frame.f_back is not None and is_code_of_torch(frame.f_code):
        frame = frame.f_back
    return seeded_error(f"{frame.f_code.co_filename}:{frame.f_lineno}")


def seeded_error(where: str) -> TracingError:
    """The error that a model seeds torch."""
    return TracingError(
        "forward seeds torch's random numbers",
        where=where,
        why="the program draws its random numbers in another order than the model, so they would not be the same",
        do="seed before the call, or draw from random or numpy.random and pass the numbers on",
    )
