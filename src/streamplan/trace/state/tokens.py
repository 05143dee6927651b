"""Tokens: what a value is, in a form that can be compared later, whatever becomes of the value meanwhile.

In: any Python value. Out: nested tuples; two of them are equal if the code of a model could not tell the values apart.
Plain values count by type and value (1, 1.0 and True differ), arrays by their contents, containers and objects by what
they hold, functions by their code and by the plain data they close over or read from their module. What has no contents
that could be read (a lock, an iterator) counts by identity.

    token_of({"scale": np.ones(3)})    (dict, (((str, 'scale'), (ndarray, '<f8', (3,), b'...')),))
"""

from __future__ import annotations

import enum
import functools
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from streamplan.trace.switches import unswitched

ATOMS = (
    *(bool, int, str, bytes, type(None), type(...), type(NotImplemented), range, torch.Size),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Types whose values never change, and are equal where they look equal."""
_BY_IDENTITY = (type, ModuleType, BuiltinFunctionType, enum.Enum, torch.Generator)
_COMPILER = "torch._dynamo."
"""Objects of these modules remember what they have compiled."""


class Same:
    """Equal to itself only; keeps its object alive, so that no other takes its `id`."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        return f"Same({self.value!r})"


def tensor_metadata(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What code can learn of a tensor without its values."""
    strides = tensor.stride() if tensor.layout is torch.strided else tensor.layout
    return type(tensor), tuple(tensor.shape), strides, tensor.dtype, tensor.device, tensor.requires_grad


class Tokens:
    """Makes tokens of the values of one model or call.

    Args:
        of_tensor: Token of a tensor; None counts its metadata, and which tensor it is among those met.
        of_module: Token of a module; None counts which one it is.
    """

    def __init__(
        self,
        of_tensor: Callable[[torch.Tensor], Any] | None = None,
        of_module: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        self._of_tensor = of_tensor or self._numbered
        self._of_module = of_module or Same
        self._numbers: dict[int, int] = {}
        self._open: dict[int, int] = {}
        """Values whose token is being made, by `id`, since a container may hold itself."""

    def of(self, value: Any) -> Any:
        """The token of a value."""
        kind = type(value)
        if kind in ATOMS:
            return kind, value
        if kind is float:
            return kind, value.hex()
        if kind is complex:
            return kind, repr(value)
        if isinstance(value, torch.Tensor):
            return self._of_tensor(value)
        if isinstance(value, _BY_IDENTITY) or kind.__module__.startswith(_COMPILER):
            return Same(value)
        if id(value) in self._open:
            return "an outer value", self._open[id(value)]
        self._open[id(value)] = len(self._open)
        try:
            return self._of_contents(value)
        finally:
            del self._open[id(value)]

    def _numbered(self, tensor: torch.Tensor) -> Any:
        return self._numbers.setdefault(id(tensor), len(self._numbers)), tensor_metadata(tensor)

    def _all(self, values: Any) -> tuple[Any, ...]:
        return tuple(map(self.of, values))

    def _of_contents(self, value: Any) -> Any:
        kind = type(value)
        if isinstance(value, nn.Module):
            return self._of_module(value)
        if isinstance(value, slice):
            return kind, self._all((value.start, value.stop, value.step))
        if isinstance(value, Mapping):
            return kind, tuple((self.of(key), self.of(item)) for key, item in value.items()), self._attributes(value)
        if isinstance(value, list | tuple | deque):
            return kind, self._all(value), self._attributes(value)
        if isinstance(value, set | frozenset):
            return kind, frozenset(self._all(value))
        if isinstance(value, FunctionType):
            return self._of_function(value)
        if isinstance(value, MethodType):
            return kind, self.of(value.__func__), self.of(value.__self__)
        if isinstance(value, functools.partial):
            return kind, self.of(value.func), self._all(value.args), self.of(value.keywords)
        if hasattr(value, "__array_interface__"):
            return self._of_array(value)
        return self._of_object(value)

    def _of_array(self, value: Any) -> Any:
        import numpy as np  # noqa: PLC0415 - numpy need not be installed for a model without arrays

        array = np.asarray(value)
        if array.dtype.hasobject:
            return type(value), array.shape, self._all(array.ravel().tolist())
        digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
        return type(value), array.dtype.str, array.shape, digest

    def _of_object(self, value: Any) -> Any:
        attributes = self._attributes(value)
        slots = [name for cls in type(value).__mro__ for name in _slots(cls) if hasattr(value, name)]
        if not attributes and not slots:
            return Same(value)
        return Same(type(value)), attributes, tuple((name, self.of(getattr(value, name))) for name in slots)

    def _attributes(self, value: Any) -> tuple[Any, ...]:
        """What a value holds by name, and what its class, written in C, holds besides items."""
        hidden = "default_factory" if isinstance(value, defaultdict) else "maxlen" if isinstance(value, deque) else None
        named = {**getattr(value, "__dict__", {}), **({hidden: getattr(value, hidden)} if hidden else {})}
        return tuple((name, self.of(item)) for name, item in named.items())

    def _of_function(self, function: FunctionType) -> Any:
        """Code, defaults, what it closes over, and the plain data of its module that it names."""
        if (
            compiled := vars(function).get("_torchdynamo_orig_callable")
        ) is not None:  # it leads to all of the compiler
            return Same(function), self.of(compiled)
        code = unswitched(function).__code__
        cells = tuple(self._of_cell(cell) for cell in function.__closure__ or ())
        named = {name: function.__globals__[name] for name in names_in(code) & function.__globals__.keys()}
        data = tuple((name, self.of(item)) for name, item in sorted(named.items()) if _is_data(item))
        defaults = self.of(function.__defaults__), self.of(function.__kwdefaults__)
        return Same(code), defaults, cells, data

    def _of_cell(self, cell: Any) -> Any:
        try:
            return self.of(cell.cell_contents)
        except ValueError:
            return "empty"


@functools.lru_cache(maxsize=1024)
def names_in(code: CodeType) -> frozenset[str]:
    """Names that a function, or one defined inside it, may read from its module.

    Not those that no source can spell, such as pytest's for what a rewritten `assert` calls: from there, its whole
    session would be reached.
    """
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return frozenset(filter(str.isidentifier, code.co_names)).union(*map(names_in, inner))


def _is_data(value: Any) -> bool:
    """Whether something that a function reads from its module is data, rather than code or a module."""
    return not (callable(value) or isinstance(value, ModuleType))


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def token_of(value: Any) -> Any:
    """The token of a value by itself."""
    return Tokens().of(value)
