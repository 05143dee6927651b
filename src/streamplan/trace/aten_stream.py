"""Streams of aten calls: the evidence that a traced graph computes what the model computes.

A tracer can be fooled: `isinstance`, `type`, a flag, and a model takes another path while it is traced, dropping a
skip connection without an error. So the model runs twice on fake tensors, once node by node while the graph is built,
once as it is, and `AtenStream` writes down every call that reaches aten both times. A call is its operator, its
constants, and for every tensor shape, dtype and label:

    aten.relu    ((3, 0):float32(1,8,4,4))     tensor 0 of call 3
    aten.add     ((4, 0):..., 'input x':...)   a dropped or swapped operand changes the labels

Equal streams and equally labelled results mean equal computations. The same mode counts what a node does on its way:
floating-point operations, and the tensors it writes in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from streamplan.trace.facts import tensors_in

_LABEL = "_streamplan_label"
_BATCH_NORMS = ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm")
"""Operators that may write their running statistics without saying so in their schema."""
_SILENT = ("prim", "profiler")
"""Namespaces of operators that compute nothing: reads of metadata, such as the device, and ranges of profiles."""
_RUNNING_STATISTICS = slice(3, 5)
_TRAINING_FLAG = 5


class TensorKey(NamedTuple):
    """A tensor as an operand: where it came from, not where it lies."""

    label: Any
    """(call, index) for a result; a name for an input, parameter or buffer."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        source = f"%{self.label[0]}.{self.label[1]}" if isinstance(self.label, tuple) else str(self.label)
        return f"{source}:{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


class AtenCall(NamedTuple):
    """One call that reached aten."""

    op: str
    args: Any
    """Operands and constants, tensors as `TensorKey`."""
    grad_mode: bool

    def __str__(self) -> str:
        return f"{self.op}{_render(self.args)}{'' if self.grad_mode else ' without gradient'}"


class AtenStream(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records aten calls on fake tensors.

    Args:
        keeps_calls: Whether to write them down, or only to count what they do.

    Attributes:
        calls: All calls, in order.
        flops: Floating-point operations since `begin`.
        written: Tensors written in place since `begin`.
    """

    def __init__(self, *, keeps_calls: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._keeps_calls = keeps_calls
        self.calls: list[AtenCall] = []
        self.flops = 0
        self.written: list[torch.Tensor] = []

    def begin(self) -> None:
        """Start counting for another node."""
        self.flops = 0
        self.written = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace in _SILENT:
            return func(*args, **kwargs)
        if self._keeps_calls:
            self.calls.append(AtenCall(str(func), describe((args, kwargs)), torch.is_grad_enabled()))
        out, flops = self._call(func, args, kwargs)
        written = _written_tensors(func, args, kwargs)
        self.written += written
        self.flops += flops
        if self._keeps_calls:
            self._label(written, out)
        return out

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int]:
        """Make a call; its result and its floating-point operations."""
        out = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        return out, int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0

    def _label(self, written: list[torch.Tensor], out: Any) -> None:
        """Name what the last call wrote and made."""
        index = len(self.calls) - 1
        for position, tensor in enumerate(written):
            label(tensor, (index, f"write {position}"))
        for position, tensor in enumerate(tensors_in(out)):
            label(tensor, (index, position))


def label(tensor: torch.Tensor, name: Any) -> None:
    """Name a tensor as an operand of the calls to come."""
    setattr(tensor, _LABEL, name)


def label_of(tensor: torch.Tensor) -> Any:
    """The name a tensor has now; that of the fake tensor it stands for, if it is a proxy."""
    return getattr(vars(tensor).get("fake", tensor), _LABEL, None)


def label_all(tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Label parameters, buffers or inputs by name, as they are at the start of a run."""
    for name, tensor in tensors:
        label(tensor, name)


def describe(value: Any) -> Any:
    """A comparable description of a value: tensors by label, shape and dtype, everything else as it is."""
    if isinstance(value, torch.Tensor):
        return TensorKey(getattr(value, _LABEL, "an unknown tensor"), tuple(value.shape), value.dtype)
    if isinstance(value, tuple | list):
        return tuple([describe(item) for item in value])
    if isinstance(value, dict):
        return tuple([(key, describe(item)) for key, item in value.items()])
    if isinstance(value, torch.ScriptObject):  # equal to none, not even to itself
        return str(value._type())
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return value


def first_difference(left: list[AtenCall], right: list[AtenCall]) -> int | None:
    """Index of the first call in which two streams differ; None if they are equal."""
    if left == right:
        return None
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right))


def writes_statistics(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call is a batch norm that writes its running statistics."""
    return func._schema.name in _BATCH_NORMS and bool(args[_TRAINING_FLAG])


def _written_tensors(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    positions, names = _written_arguments(func)
    written = [tensor for i in positions if i < len(args) for tensor in tensors_in(args[i])]
    written += [tensor for name in names for tensor in tensors_in(kwargs.get(name))]
    if writes_statistics(func, args):
        written += tensors_in(list(args[_RUNNING_STATISTICS]))
    return written


@lru_cache(maxsize=2048)
def _written_arguments(func: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Positions and names of the arguments an operator writes."""
    arguments = func._schema.arguments
    written = [(i, a) for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
    return tuple(i for i, a in written), tuple(a.name for _, a in written)


def _render(value: Any) -> str:
    if isinstance(value, TensorKey):
        return str(value)
    if isinstance(value, tuple):
        return "(" + ", ".join(_render(item) for item in value) + ")"
    return repr(value)
