"""Scripts: what a model's code did in one run, in terms that another run can be compared in.

A script lists, in order, every use of tensors that depended on an input or made a tensor: calls, and questions about
values (`x.shape`). Operands are named by where they came from, so that two runs with equal scripts computed the same:

    0  call_module    conv1   (InputRef x)                                 -> tensor
    1  read           shape   (ResultRef 0)                                -> (1, 8, 32, 32)
    2  call_function  add     (ResultRef 0, AttributeRef bias)             -> tensor
    3  output                 (ResultRef 2)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from streamplan.ir import SourceLocation
from streamplan.trace.modes import AmbientModes


class InputRef(NamedTuple):
    """A tensor that the caller gave."""

    name: str


class ResultRef(NamedTuple):
    """A tensor that an event returned."""

    event: int
    path: tuple[Any, ...]
    """Where in the event's result it is: keys from the outside in."""


class OwnedRef(NamedTuple):
    """A parameter, buffer or tensor attribute of the model, with what a call can learn of it."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class TensorTemplate(NamedTuple):
    """Stands for a tensor in the template of a result."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Ambient(NamedTuple):
    """What a model's code can learn in a run besides the sizes of its tensors."""

    modes: AmbientModes
    """Switches of torch."""
    inputs: tuple[Any, ...]
    """Memory order of each input, and whether it wants a gradient."""
    owned: tuple[Any, ...]
    """Metadata of the model's tensors."""


def input_metadata(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What code can learn of an input besides its size and dtype."""
    return "contiguous" if tensor.is_contiguous() else tensor.stride(), tensor.requires_grad


NO_ANSWER = object()
"""The answer of an event that returns tensors or writes some."""


@dataclass(frozen=True, slots=True)
class Event:
    """One use of tensors."""

    kind: str
    """`read`, `output`, or the opcode of a node."""
    target: Any
    """Name of what is read, or what is called."""
    operands: Any
    """Token of the arguments, with references in the place of tensors."""
    settings: Any = None
    """Token of the module that is called."""
    modes: AmbientModes | None = None
    """Switches of torch in the code around the call, if they differ from those that the run began with."""
    answer: Any = NO_ANSWER
    """What it returned, if that holds no tensor."""
    node: str = ""
    """Name of its node in the graph."""
    template: Any = None
    """What it returned, with templates in the place of tensors."""
    location: SourceLocation | None = None
    """Line of the user's code."""
    module: tuple[str, str] = ("", "")
    """Path and class name of the innermost module."""

    def matches(self, other: Event) -> bool:
        """Whether another run did the same here, as far as it decided it."""
        return (
            self.kind == other.kind
            and self.target == other.target
            and self.operands == other.operands
            and self.settings == other.settings
            and self.modes == other.modes
        )


def is_same_run(one: Sequence[Event], other: Sequence[Event]) -> bool:
    """Whether two scripts tell of the same computation, with the same answers."""
    return len(one) == len(other) and all(
        a.matches(b) and (a.answer is b.answer or a.answer == b.answer) for a, b in zip(one, other, strict=True)
    )


def make_template(value: Any) -> Any:
    """A result with templates in the place of tensors, in containers of the same classes."""
    return map_tensors(value, lambda tensor, path: TensorTemplate(tuple(tensor.shape), tensor.dtype), torch.Tensor)


def map_tensors(value: Any, make: Callable[[Any, tuple[Any, ...]], Any], kind: type, path: tuple[Any, ...] = ()) -> Any:
    """A result with `make(item, path)` in the place of each item of a kind, in containers of the same classes."""
    if isinstance(value, kind):
        return make(value, path)
    if isinstance(value, dict):
        return type(value)((key, map_tensors(item, make, kind, (*path, key))) for key, item in value.items())
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        items = [map_tensors(item, make, kind, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, list):
            return items
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return tuple(items) if type(value) is tuple else type(value)(items)
    return value


_FACTORIES = frozenset({"arange", "linspace", "logspace", "zeros", "ones", "full", "eye", "tensor", "as_tensor"})
"""Functions whose result depends on their arguments alone."""
_DRAWING = (
    "rand",
    "drop",
    "bernoulli",
    "normal",
    "multinomial",
    "poisson",
    "uniform",
    "exponential",
    "empty",
    "gumbel",
)
"""What the names of functions hold whose result does not."""


def constants_of(events: Sequence[Event]) -> Callable[[ResultRef | InputRef], bool]:
    """A test whether a value depends on no input, parameter, buffer or random number."""
    constant = functools.cache(lambda: _constant_events(events))  # a run that keeps no tensor never asks
    return lambda ref: isinstance(ref, ResultRef) and ref.event in constant()


def _constant_events(events: Sequence[Event]) -> set[int]:
    constant: set[int] = set()
    for index, event in enumerate(events):
        name = event.target if isinstance(event.target, str) else getattr(event.target, "__name__", "")
        operands = list(_references(event.operands))
        is_known = all(isinstance(ref, ResultRef) and ref.event in constant for ref in operands)
        is_drawn = any(word in name for word in _DRAWING)
        if event.kind != "call_module" and is_known and not is_drawn and (operands or name in _FACTORIES):
            constant.add(index)
    return constant


def _references(token: Any) -> Iterator[Any]:
    if isinstance(token, InputRef | ResultRef | OwnedRef):
        yield token
    elif isinstance(token, tuple | frozenset):
        for item in token:
            yield from _references(item)
