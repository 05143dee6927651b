"""Containers: where in the arguments of a call its tensors are, and the same arguments with others in their place.

Taken apart are dicts, lists, deques and their subclasses, tuples, named tuples, and objects of Python classes, such as
dataclasses and mappings that hold a dict; everything else is a leaf. A path is written as Python has it:

    leaves({"ct": x, "size": [3, y]}, "batch")  ->  ("batch['ct']", x), ("batch['size'][0]", 3), ("batch['size'][1]", y)
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from streamplan.images import Source
from streamplan.ir import TensorSpec

_LEAVES = (torch.Tensor, Source, TensorSpec, nn.Module, type)
_IS_HEAP_TYPE = 1 << 9
"""Flag of the classes that Python code defines, as opposed to those written in C."""


@dataclasses.dataclass(frozen=True)
class Opened:
    """A container, taken apart by one level."""

    names: tuple[str, ...]
    """Each item's place, as it is written behind the container."""
    items: tuple[Any, ...]
    rebuild: Callable[[Sequence[Any]], Any]
    """From other items to a container of the same class."""


def opened(value: Any) -> Opened | None:
    """A value taken apart by one level; None for a leaf."""
    if isinstance(value, _LEAVES):
        return None
    if isinstance(value, MappingProxyType):
        return _opened_in_place(value, dict(value), MappingProxyType)
    if isinstance(value, dict | list | deque):
        return _opened_in_place(value, value)
    if type(value) is tuple or (isinstance(value, tuple) and hasattr(value, "_fields")):
        fields = getattr(value, "_fields", ())
        names = tuple(f".{name}" for name in fields) or tuple(f"[{index}]" for index in range(len(value)))
        make: Callable[[Sequence[Any]], Any] = getattr(type(value), "_make", tuple)
        return Opened(names, tuple(value), make)
    return _opened_in_place(value, value) if _is_object(value) else None


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves with their paths, depth first.

    Args:
        value: The container.
        path: What it is called.
    """
    yield from _leaves(value, path, ())


def mapped(function: Callable[[str, Any], Any], value: Any, path: str = "") -> Any:
    """A value with `function(path, leaf)` in the place of each leaf; a container in which none changes is kept itself.

    Args:
        function: What is applied.
        value: The container, which is left as it is.
        path: What it is called.
    """
    return _mapped(function, value, path, ())


def by_place(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call, however they are given: by number, or by name where they cannot be counted.

    Raises:
        TypeError: They do not fit the signature.
    """
    bound = signature.bind(*args, **kwargs).arguments
    found: dict[str, Any] = {}
    for number, (name, parameter) in enumerate(signature.parameters.items()):
        if name not in bound:
            continue
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= bound[name]
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            found |= {str(number + index): value for index, value in enumerate(bound[name])}
        else:
            found[name if parameter.kind is inspect.Parameter.KEYWORD_ONLY else str(number)] = bound[name]
    return found


def _leaves(value: Any, path: str, around: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    parts = None if id(value) in around else opened(value)
    if parts is None:
        yield path, value
        return
    for name, item in zip(parts.names, parts.items, strict=True):
        yield from _leaves(item, path + name, (*around, id(value)))


def _mapped(function: Callable[[str, Any], Any], value: Any, path: str, around: tuple[int, ...]) -> Any:
    parts = None if id(value) in around else opened(value)
    if parts is None:
        return function(path, value)
    inside = (*around, id(value))
    items = [_mapped(function, item, path + name, inside) for name, item in zip(parts.names, parts.items, strict=True)]
    is_same = all(new is old for new, old in zip(items, parts.items, strict=True))
    return value if is_same else parts.rebuild(items)


def _is_object(value: Any) -> bool:
    """Whether all that a value holds is in its attributes: none of its classes keeps anything of its own in C."""
    has_attributes = hasattr(value, "__dict__") or dataclasses.is_dataclass(value)
    is_python = all(cls.__flags__ & _IS_HEAP_TYPE for cls in type(value).__mro__[:-1])
    return has_attributes and (is_python or type(value) is SimpleNamespace)


def _opened_in_place(value: Any, holder: Any, finish: Callable[[Any], Any] = lambda new: new) -> Opened:
    """The items of a dict, a list or neither, and the attributes beside them.

    Args:
        value: What is taken apart.
        holder: What has its items.
        finish: From a copy of `holder` with other items to what `value` is.
    """
    if isinstance(holder, dict):
        keys: list[Any] = list(holder)
    else:
        keys = list(range(len(holder))) if isinstance(holder, list | deque) else []
    attributes = _attributes(value)
    names = (*(f"[{key!r}]" for key in keys), *(f".{name}" for name in attributes))

    def rebuild(items: Sequence[Any]) -> Any:
        new = copy.copy(holder)
        for key, item in zip(keys, items, strict=False):
            new[key] = item
        for name, item in zip(attributes, items[len(keys) :], strict=True):
            object.__setattr__(new, name, item)
        return finish(new)

    return Opened(names, (*(holder[key] for key in keys), *attributes.values()), rebuild)


def _attributes(value: Any) -> dict[str, Any]:
    """What an object holds by name, fields of dataclasses with slots included."""
    fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    slots = {name: getattr(value, name) for name in fields if hasattr(value, name)}
    return slots | getattr(value, "__dict__", {})
