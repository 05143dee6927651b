"""Copies of a model's modules that hold what the modules hold, and lead to one another.

In: a model, and what stands for its tensors. Out: a copy of all its modules. Modules are made anew, and `copy.deepcopy`
copies what they hold, but for three things that it leaves to the classes, or does not copy at all:

    class Layer:  def __deepcopy__(...)         asked only for attributes that cannot be copied by themselves
    self.act = lambda x: x * self.scale         the copy's function closes over the copy
    self.parent = weakref.ref(parent)           the copy's reference refers to the copy

A copy that still leads to a module of the model would mix both, and is refused.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from streamplan.errors import TracingError
from streamplan.trace.locations import place
from streamplan.trace.state.tokens import ATOMS

TABLES = ("_parameters", "_buffers", "_modules")
"""Attributes of a module that hold its tensors and modules by name."""
_HOLDING_NOTHING = frozenset((*ATOMS, float, complex, type, ModuleType))


def copy_modules(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Copy all modules of a model.

    Args:
        model: The model, or a copy of it.
        memo: What to put in the place of objects, by their `id`; what is copied is added.

    Returns:
        The copy of the model.

    Raises:
        Exception: Whatever an attribute raises that cannot be copied.
    """
    owned = {id(module) for module in model.modules()}
    values = [value for module in model.modules() for name, value in vars(module).items() if name not in TABLES]
    functions = _open_functions(values, owned, memo)
    for module in model.modules():
        memo[id(module)] = _empty_twin(module)
    _fill(functions, owned, memo)
    for module in model.modules():
        vars(memo[id(module)]).update({name: _attribute(module, name, memo) for name in vars(module)})
    root: nn.Module = memo[id(model)]
    return root


def check_apart(model: nn.Module, root: nn.Module) -> None:
    """Refuse a copy that leads to a module of the model it was made of.

    Raises:
        TracingError: It does.
    """
    owned = {id(module) for module in model.modules()}
    for path, twin in root.named_modules():
        for name, value in vars(twin).items():
            if name not in TABLES and leads_to(value, owned):
                raise _leads_back(path, twin, name)


def copy_value(value: Any, owned: Collection[int], memo: dict[int, Any]) -> Any:
    """Copy a value, and the functions in it that close over one of some modules.

    Args:
        value: Any value.
        owned: The `id` of these modules.
        memo: What to put in the place of objects, by their `id`: of these modules at least.
    """
    functions = _open_functions([value], owned, memo)
    copied = copy.deepcopy(value, memo)
    _fill(functions, owned, memo)
    return copied


def reachable(value: Any) -> Iterator[Any]:
    """A value, and all that it leads to as far as a copy would follow it, but for what modules and tensors hold."""
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if type(item) in _HOLDING_NOTHING or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if not isinstance(item, nn.Module | torch.Tensor):
            pending.extend(held_by(item))


def leads_to(value: Any, owned: Collection[int]) -> bool:
    """Whether one of some objects, by their `id`, can be reached from a value."""
    return any(id(item) in owned for item in reachable(value))


def held_by(value: Any) -> Iterator[Any]:
    """What a container, function or object holds."""
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from value
    elif isinstance(value, MethodType):
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, FunctionType):
        yield from map(_content, value.__closure__ or ())
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
    yield from getattr(value, "__dict__", {}).values()
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        yield from (getattr(value, name, None) for name in ((slots,) if isinstance(slots, str) else slots))


def _empty_twin(module: nn.Module) -> nn.Module:
    """A module of the same class that holds nothing.

    Raises:
        TypeError: The class keeps something that is in no dict, which could not be written back.
    """
    for cls in type(module).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(module, name):
                raise TypeError(f"{cls.__name__} has {name} in __slots__")
    twin: nn.Module = object.__new__(type(module))
    return twin


def _attribute(module: nn.Module, name: str, memo: dict[int, Any]) -> Any:
    """The copy of an attribute; where it cannot be copied, what a copy that the module makes of itself has there."""
    value = vars(module)[name]
    if type(value) is weakref.ref and id(value()) in memo:
        return weakref.ref(memo[id(value())])
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        own = copy.deepcopy(module, {key: copied for key, copied in memo.items() if key != id(module)})
        if own is not module and name in vars(own):
            return vars(own)[name]
        raise


def _open_functions(
    values: Any, owned: Collection[int], memo: dict[int, Any]
) -> list[tuple[FunctionType, FunctionType]]:
    """Copies of the functions that close over one of some modules, with nothing in their cells yet."""
    cells: dict[int, CellType] = {}
    found = []
    for function in [item for item in reachable(values) if isinstance(item, FunctionType)]:
        if id(function) in memo or not leads_to(function, owned):
            continue
        closure = tuple(
            cells.setdefault(id(cell), CellType()) if leads_to(_content(cell), owned) else cell
            for cell in function.__closure__ or ()
        )
        opened = FunctionType(function.__code__, function.__globals__, function.__name__, None, closure)
        functools.update_wrapper(opened, function)
        vars(opened).pop("__wrapped__", None)
        memo[id(function)] = opened
        found.append((function, opened))
    return found


def _fill(functions: list[tuple[FunctionType, FunctionType]], owned: Collection[int], memo: dict[int, Any]) -> None:
    """Copy what functions close over into their copies."""

    def copied(value: Any) -> Any:
        return copy.deepcopy(value, memo) if leads_to(value, owned) else value

    for function, opened in functions:
        for cell, other in zip(function.__closure__ or (), opened.__closure__ or (), strict=True):
            if other is not cell:
                other.cell_contents = copied(_content(cell))
        opened.__defaults__ = None if function.__defaults__ is None else tuple(map(copied, function.__defaults__))
        keywords = function.__kwdefaults__
        opened.__kwdefaults__ = None if keywords is None else {name: copied(x) for name, x in keywords.items()}
        vars(opened).update({name: copied(value) for name, value in vars(function).items()})


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _leads_back(path: str, module: nn.Module, name: str) -> TracingError:
    return TracingError(
        "a copy of the model leads back to the model",
        where=f"{place(path, type(module).__name__, None)}, attribute {name}",
        why="forward is run on a copy without data, and would read and change the model's own state there",
        do="hold the module itself, a function or a bound method, and leave it to copy.deepcopy to copy what holds it",
    )
