"""A frozen, canonical graph: one `OpCall` per operation the traced model performs.

The front end writes it, every later stage reads it, none changes it; what a stage finds out is a new mapping keyed by
call name. `nn.ReLU()(x)`, `F.relu(x)`, `torch.relu(x)` and `x.relu_()` are one call here:

    OpCall(name="relu", op="relu", arguments={"input": ValueRef("bn1")}, ...)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

INPUT = "input"
"""The `op` of a call that stands for an argument of the model's `forward`."""

Argument = Any
"""A `ValueRef`, an `AttributeRef`, a constant, or a tuple, dict or slice of those."""


@dataclass(frozen=True, slots=True)
class ValueRef:
    """The result of another call of the same graph."""

    name: str
    """Name of the producing call."""


@dataclass(frozen=True, slots=True)
class AttributeRef:
    """A tensor the model owns: parameter, buffer, or anything its attribute path evaluates to."""

    path: str
    """Dotted attribute path from the model, such as `layer1.0.conv1.weight`."""


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """The line of the user's code that caused a call."""

    file: str
    """Path of the source file."""
    line: int
    """Line number, from 1."""
    text: str
    """The line itself, stripped."""

    def __str__(self) -> str:
        name = self.file.replace("\\", "/").rsplit("/", 1)[-1]
        return f"{name}:{self.line}: {self.text}" if self.text else f"{name}:{self.line}"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor that need not exist."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of a dense tensor of this shape and dtype, in bytes."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count * self.dtype.itemsize


@dataclass(frozen=True)
class OpCall:
    """One operation, in canonical form."""

    name: str
    """Unique name of the call and of the value it produces."""
    op: str
    """Canonical operation (`conv`, `relu`, `add`), `input`, or the spelled target if it has no canonical form."""
    arguments: Mapping[str, Argument]
    """Canonical argument names to arguments, defaults filled in."""
    output: TensorSpec | None
    """What it produces; None if that is not one tensor."""
    target: str = ""
    """The callable as the user spelled it, such as `torch.nn.Conv2d`."""
    module_path: str = ""
    """Dotted path of the innermost module the call was made in; "" for the model itself."""
    module_type: str = ""
    """Class name of that module."""
    location: SourceLocation | None = None
    """Line of the user's code."""
    flops: int = 0
    """Floating-point operations of one forward call at full size (a multiply-add counts two)."""
    activation_bytes: int = 0
    """Bytes of the storages the call allocates for its results at full size; 0 for views and in-place calls."""
    remark: str = ""
    """Why the call has no canonical form, if that is known better than 'no rule'."""
    depends_on_sizes: bool = True
    """Whether its canonical form may be another one for maps of other sizes; not so if no shape was looked at."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))

    def resized(self, output: TensorSpec | None, flops: int, activation_bytes: int) -> OpCall:
        """The same call on maps of other sizes; what is known of its references is kept."""
        call = copy(self)
        vars(call).update(output=output, flops=flops, activation_bytes=activation_bytes)
        return call

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values it reads, in argument order, each once."""
        return tuple(dict.fromkeys(r.name for r in references(self.arguments) if isinstance(r, ValueRef)))

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Paths of the model attributes it reads, in argument order, each once."""
        return tuple(dict.fromkeys(r.path for r in references(self.arguments) if isinstance(r, AttributeRef)))

    @property
    def where(self) -> str:
        """Place for error messages: `layer1.0.conv1 (Conv2d), resnet.py:41: out = self.conv1(x)`."""
        place = f"{self.module_path or self.name} ({self.module_type or self.target})"
        return f"{place}, {self.location}" if self.location else place


def references(argument: Argument) -> Iterator[ValueRef | AttributeRef]:
    """All value and attribute references in an argument, depth first."""
    if isinstance(argument, ValueRef | AttributeRef):
        yield argument
    elif isinstance(argument, tuple | list):
        for item in argument:
            yield from references(item)
    elif isinstance(argument, Mapping):
        for item in argument.values():
            yield from references(item)
    elif isinstance(argument, slice):
        yield from references((argument.start, argument.stop, argument.step))


@dataclass(frozen=True)
class Graph:
    """Op calls in an order in which every call follows the calls it reads."""

    calls: tuple[OpCall, ...]
    """All calls, the model's inputs first."""
    outputs: tuple[str, ...]
    """Names of the values the model returns, each once."""
    module_outputs: Mapping[str, str] = field(default_factory=dict)
    """Module path to the name of the value its last call returned."""
    attributes: Mapping[str, TensorSpec] = field(default_factory=dict)
    """Shape and dtype of every model attribute that a call reads, by path."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "module_outputs", MappingProxyType(dict(self.module_outputs)))
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))
        seen: set[str] = set()
        for call in self.calls:
            if call.name in seen:
                raise ValueError(f"two calls are named {call.name}")
            missing = set(call.inputs) - seen
            if missing:
                raise ValueError(f"{call.name} reads {sorted(missing)} before they are computed")
            seen.add(call.name)

    @cached_property
    def by_name(self) -> Mapping[str, OpCall]:
        """Calls by name."""
        return MappingProxyType({call.name: call for call in self.calls})

    def __getitem__(self, name: str) -> OpCall:
        return self.by_name[name]

    @cached_property
    def consumers(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the calls that read each value, in order."""
        table: dict[str, list[str]] = {call.name: [] for call in self.calls}
        for call in self.calls:
            for name in call.inputs:
                table[name].append(call.name)
        return MappingProxyType({name: tuple(readers) for name, readers in table.items()})

    @property
    def inputs(self) -> tuple[OpCall, ...]:
        """Calls that stand for the model's arguments."""
        return tuple(call for call in self.calls if call.op == INPUT)
