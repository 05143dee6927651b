"""What the tracer remembers of each node while it works: the fake value, and the memory behind it.

A `StorageTable` numbers storages in the order they appear, so the numbers are the same in every run. An `Extent` says
which part of a storage a tensor covers; two tensors with equal extents are the same tensor in all but name, and a write
to one is a write to the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from streamplan.ir import SourceLocation
from streamplan.trace.facts import NodeFact, specify, tensors_in


class Extent(NamedTuple):
    """The part of a storage a tensor covers."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


class StorageTable:
    """Numbers the storages of the tensors that nodes evaluated to. Those stay alive, so addresses stay unique."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor's storage has a number."""
        return tensor.untyped_storage()._cdata in self._numbers

    def number(self, tensor: torch.Tensor) -> int:
        """Number of the tensor's storage; a new one if it has none."""
        return self._numbers.setdefault(tensor.untyped_storage()._cdata, len(self._numbers))

    def extent(self, tensor: torch.Tensor) -> Extent:
        """Part of its storage that the tensor covers."""
        return Extent(
            self.number(tensor), int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride(), tensor.dtype
        )


@dataclass(slots=True)
class CallRecord:
    """What one node did."""

    value: Any
    """Fake value of the node."""
    location: SourceLocation | None
    """Line of the user's code."""
    module_path: str
    """Innermost module."""
    module_type: str
    """Its class name."""
    written: list[Extent] = field(default_factory=list)
    """Tensors alive before the call that it writes."""
    extents: list[Extent] = field(default_factory=list)
    """Extents of the tensors in `value`."""
    storages: tuple[int, ...] = ()
    """Storages of the tensors in `value`."""
    is_view: bool = False
    """Whether all of them existed before the call."""
    activation_bytes: int = 0
    """Bytes of those that did not."""
    flops: int = 0
    """Floating-point operations."""
    is_activation: bool = False
    """Whether the value depends on an input of the model."""
    carries_gradient: bool = False
    """Whether a gradient may flow from the value to an input or parameter."""
    unsafe_write: str = ""
    """Why the value must not be streamed."""

    def note_storages(self, table: StorageTable, *, is_call: bool) -> None:
        """Number the value's storages; those a call made count as allocated by it."""
        tensors = [tensor for tensor in tensors_in(self.value) if tensor.layout is torch.strided]
        fresh = {tensor.untyped_storage()._cdata: tensor for tensor in tensors if not table.knows(tensor)}
        self.extents = [table.extent(tensor) for tensor in tensors]
        self.storages = tuple(dict.fromkeys(extent.storage for extent in self.extents))
        if is_call:
            self.is_view = bool(tensors) and not fresh
            self.activation_bytes = sum(tensor.untyped_storage().nbytes() for tensor in fresh.values())

    def freeze(self) -> NodeFact:
        """The record without its tensors."""
        return NodeFact(
            output=specify(self.value),
            storages=self.storages,
            is_view=self.is_view,
            mutates=tuple(dict.fromkeys(extent.storage for extent in self.written)),
            location=self.location,
            module_path=self.module_path,
            module_type=self.module_type,
            flops=self.flops,
            activation_bytes=self.activation_bytes,
            unsafe_write=self.unsafe_write,
        )
