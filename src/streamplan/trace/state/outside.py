"""The outside state of a model: what its code can keep outside the model from one run to the next.

In: a model. Out: an `OutsideState`, which can be put back, since a model is run once more where it is compiled or
checked, and must not count those runs. Found from the functions that the model's classes define:

    COUNTS = {"n": 0}

    def forward(self, x, seen=[]):     what a global, a closure or a default argument holds, attributes of classes
        COUNTS["n"] += 1               and functions, and the like of the functions that are called by name
        seen.append(x.shape)

Code of torch, of numpy and of Python's own library is left out.
"""

from __future__ import annotations

import copy
import dis
import functools
import gc
import os
import random
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from operator import is_
from types import CellType, CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from streamplan.trace.fake_proxy import FakeProxy
from streamplan.trace.state.tokens import ATOMS, names_in
from streamplan.trace.switches import unswitched

_MISSING = object()
_FOREIGN = frozenset({"torch", "numpy", "streamplan", *sys.stdlib_module_names})
"""Packages whose code and objects are left out."""
_OBJECTS = (SimpleNamespace, threading.local, type(os.environ))
"""Classes of Python's own library whose objects hold what a user puts there."""
_CONTAINERS = (dict, list, set, deque)
_ITERATORS = tuple(map(type, (iter([]), iter(()), iter(range(0)), iter(""), iter({}), reversed([]))))
_ITERTOOLS = "itertools"
_CACHE = type(functools.lru_cache(len))


@dataclass(frozen=True, slots=True)
class _Name:
    """A name by which code finds a value."""

    owner: Any
    """A namespace, a class, or the cell of a closure."""
    name: str = ""

    def get(self) -> Any:
        if isinstance(self.owner, CellType):
            try:
                return self.owner.cell_contents
            except ValueError:
                return _MISSING
        return (self.owner if isinstance(self.owner, dict) else vars(self.owner)).get(self.name, _MISSING)

    def set(self, value: Any) -> None:
        if self.get() is value:
            return
        if isinstance(self.owner, CellType):
            self.owner.cell_contents = value
        elif isinstance(self.owner, dict):
            _put(self.owner, self.name, value)
        elif value is _MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, value)


@dataclass(frozen=True, eq=False)
class OutsideState:
    """See above."""

    names: tuple[tuple[_Name, Any], ...]
    """What code finds under each name."""
    contents: tuple[tuple[Any, Any], ...]
    """Mutable values, and what they hold."""

    @classmethod
    def of(cls, model: nn.Module) -> OutsideState:
        """The state it is in."""
        found = _Code.of(model)
        names = tuple((name, _own(name.get())) for name in found.names)
        return cls(names, tuple(_contents([*found.values, *(name.get() for name in found.names)])))

    def put_back(self, only: Callable[[Any], bool] = lambda held: True) -> None:
        """Bring everything into this state.

        Args:
            only: Whether to do so for a value or container that holds this now.
        """
        for value, held in self.contents:
            if only(value):
                _refill(value, held)
        for name, value in self.names:
            if only(name.get()):
                name.set(_own(value))

    def left_in(self, model: nn.Module) -> list[FakeTensor | FakeProxy]:
        """Take out the tensors without data that a run has left there since, and return them."""
        if not (self.names or self.contents):
            return []
        left = _traced(OutsideState.of(model))
        if left:
            self.put_back(_is_left)
            if _traced(OutsideState.of(model)):  # in a container that the run has made
                self.put_back()
        return left


def _is_left(value: Any) -> bool:
    return next(_traced_in(value), None) is not None


def _traced(state: OutsideState) -> list[FakeTensor | FakeProxy]:
    values = (*(value for _, value in state.names), *(value for value, _ in state.contents))
    return [tensor for value in values for tensor in _traced_in(value)]


def _traced_in(value: Any) -> Iterator[FakeTensor | FakeProxy]:
    """A tensor without data, or those that a container or object holds itself."""
    if isinstance(value, FakeTensor | FakeProxy):
        yield value
    elif not isinstance(value, torch.Tensor | type | ModuleType):
        held = [*_cached(value)] if isinstance(value, _CACHE) else [*getattr(value, "__dict__", {}).values()]
        held += value.values() if isinstance(value, dict) else ()
        held += value if isinstance(value, list | set | deque | tuple) else ()
        for item in held:
            yield from _traced_in(item) if isinstance(item, torch.Tensor | tuple) else ()


def _cached(cache: Any) -> Iterator[Any]:
    """Results that a function decorated with `lru_cache` remembers, among other things."""
    for item in gc.get_referents(cache):
        yield item
        yield from item.values() if isinstance(item, dict) else ()


@dataclass(frozen=True, eq=False)
class _Code:
    """What the code of some functions refers to."""

    names: tuple[_Name, ...]
    values: tuple[Any, ...]
    """Values that cannot be exchanged: default arguments, attributes of functions, caches."""

    @classmethod
    def of(cls, model: nn.Module) -> _Code:
        classes = dict.fromkeys(c for m in model.modules() for c in type(m).__mro__ if not _is_foreign(c))
        members = [member for c in classes for name, member in vars(c).items() if name != "__init__"]
        members += [value for module in model.modules() for value in vars(module).values() if callable(value)]
        return cls._of(tuple(classes), tuple(dict.fromkeys(f for member in members for f in _functions_in(member))))

    @classmethod
    @functools.lru_cache(maxsize=64)
    def _of(cls, classes: tuple[type, ...], functions: tuple[Any, ...]) -> _Code:
        names: dict[tuple[int, str], _Name] = {}
        values: list[Any] = []
        pending, seen = list(functions), set[Any]()
        while pending:
            function = pending.pop()
            if function in seen:
                continue
            seen.add(function)
            if isinstance(function, _CACHE):
                values.append(function)
                pending.extend(_functions_in(function.__wrapped__))
                continue
            values.extend((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), vars(function)))
            for name in _names_of(function, classes):
                names.setdefault((id(name.owner), name.name), name)
                pending.extend(_functions_in(name.get()))
        return cls(tuple(name for name in names.values() if not _is_code(name.get())), tuple(values))


def _is_code(value: Any) -> bool:
    is_object = hasattr(value, "__dict__") and not isinstance(value, type | FunctionType | ModuleType | _CACHE)
    return isinstance(value, type | ModuleType | property | classmethod | staticmethod) or (
        callable(value) and not (is_object and not _is_foreign(type(value)))
    )


def _is_foreign(value: Any) -> bool:
    return (getattr(value, "__module__", None) or "builtins").partition(".")[0] in _FOREIGN


def _functions_in(value: Any) -> Iterator[Any]:
    """The functions of the user's, and the caches of their results, that a call or a use of a value may run."""
    value = getattr(value, "fget", None) or getattr(value, "__func__", value)
    if isinstance(value, functools.partial):
        yield from _functions_in(value.func)
    elif isinstance(value, _CACHE) and not _is_foreign(value):
        yield value
    elif isinstance(value, FunctionType) and not _is_foreign(value):
        yield unswitched(value)
    elif isinstance(value, type) and not _is_foreign(value) and not issubclass(value, nn.Module):
        for name, member in vars(value).items():
            yield from _functions_in(member) if name != "__init__" else ()


def _names_of(function: FunctionType, classes: tuple[type, ...]) -> Iterator[_Name]:
    """Cells of a function, and the names it may read or write in its module, in classes and in modules.

    Args:
        function: The function.
        classes: Classes whose attributes it may find in `self`.
    """
    named, cells = names_in(function.__code__), list(map(_Name, function.__closure__ or ()))
    yield from cells
    owners: list[Any] = [*classes]
    for value in (*(cell.get() for cell in cells), *(function.__globals__.get(name) for name in named)):
        is_module = isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in _HIDDEN
        owners.extend([value] if is_module or (isinstance(value, type) and not _is_foreign(value)) else ())
    for name in sorted(named):
        yield _Name(function.__globals__, name)
        stored = name in _stored_in(function.__code__)
        yield from (
            _Name(owner, name) for owner in owners if name in vars(owner) or (stored and isinstance(owner, type))
        )


@functools.lru_cache(maxsize=1024)
def _stored_in(code: CodeType) -> frozenset[str]:
    """Attributes that a function sets."""
    return frozenset(line.argval for line in dis.get_instructions(code) if line.opname == "STORE_ATTR")


_HIDDEN = frozenset({"torch", "numpy", "streamplan", "sys", "builtins"})
"""Modules whose own names are left out."""


def _own(value: Any) -> Any:
    """A value that nobody else moves on."""
    is_iterator = isinstance(value, _ITERATORS) or type(value).__module__ == _ITERTOOLS
    if not is_iterator:
        return value
    try:
        return copy.deepcopy(value)
    except Exception:  # noqa: BLE001 - what it iterates over may fail to be copied in any way
        return value


def _contents(pending: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Mutable values among some and in what they hold, with what they hold."""
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if type(value) in ATOMS or type(value) is float or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, tuple | frozenset):
            pending.extend(value)
            continue
        held = _content(value)
        if held is not None:
            yield value, held
            pending.extend(held.values() if isinstance(held, dict) else held if isinstance(held, list) else ())
            pending.extend([vars(value)] if isinstance(value, _CONTAINERS) and hasattr(value, "__dict__") else ())


def _content(value: Any) -> Any:
    """What a mutable value holds, itself not mutable by the value's owner; None for other values."""
    if isinstance(value, dict):
        return {key: _own(item) for key, item in value.items()}
    if isinstance(value, list | set | deque):
        return list(map(_own, value))
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, _CACHE):
        return ()
    if isinstance(value, ContextVar):
        return (_value_of(value),)
    if type(value).__module__.startswith("numpy"):
        return _numpy_content(value)
    if isinstance(value, nn.Module | torch.Tensor | type | ModuleType) or not hasattr(value, "__dict__"):
        return None
    is_open = isinstance(value, _OBJECTS) or not _is_foreign(type(value))
    return {name: _own(item) for name, item in vars(value).items()} if is_open else None


def _value_of(variable: ContextVar[Any]) -> Any:
    try:
        return variable.get()
    except LookupError:
        return _MISSING


def _numpy_content(value: Any) -> Any:
    if hasattr(value, "bit_generator"):
        return value.bit_generator.state
    if hasattr(value, "get_state"):
        return value.get_state()
    is_array = isinstance(value, sys.modules["numpy"].ndarray)  # its numbers cannot be written
    return value.copy() if is_array and value.flags.writeable else None


def _put(names: dict[str, Any], name: str, value: Any) -> None:
    if value is _MISSING:
        names.pop(name, None)
    else:
        names[name] = value


def _exchange(value: Any, held: Any, add: Callable[[Any], object]) -> None:
    """Exchange what a container holds, if it is something else: other threads may be reading it."""
    now, then = (list(x.items()) if isinstance(x, dict) else list(x) for x in (value, held))
    flat_now, flat_then = ([*chain(*x)] if isinstance(value, dict) else x for x in (now, then))
    if len(flat_now) != len(flat_then) or not all(map(is_, flat_now, flat_then)):
        value.clear()
        add(held)


def _refill(value: Any, held: Any) -> None:
    """Let a mutable value hold what it held."""
    if isinstance(value, dict):
        _exchange(value, {key: _own(item) for key, item in held.items()}, value.update)
    elif isinstance(value, list | deque):
        _exchange(value, list(map(_own, held)), value.extend)
    elif isinstance(value, set):
        _exchange(value, held, value.update)
    elif isinstance(value, random.Random):
        value.setstate(held)
    elif isinstance(value, _CACHE):
        if _is_left(value):
            value.cache_clear()
    elif isinstance(value, ContextVar):
        if held[0] is not _MISSING and _value_of(value) is not held[0]:
            value.set(held[0])
    elif type(value).__module__.startswith("numpy"):
        _refill_numpy(value, held)
    else:
        _exchange(vars(value), {name: _own(item) for name, item in held.items()}, vars(value).update)


def _refill_numpy(value: Any, held: Any) -> None:
    if hasattr(value, "bit_generator"):
        value.bit_generator.state = held
    elif hasattr(value, "set_state"):
        value.set_state(held)
    else:
        value[...] = held
