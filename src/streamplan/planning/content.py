"""Content: when two arguments are the same to every model, in the form of a key that can be compared and hashed.

    content_key({"ct": TensorSpec((1, 3), float32), "scale": 1})  !=  the same with 1.0, or with the keys in other order

Numbers, strings and containers count by type and value; functions, classes and modules by identity; other objects, such
as arrays, by what pickle would store of them, and by identity if it can store nothing. A key keeps alive what counts by
identity, so that nothing else is ever taken for it.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Hashable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

from streamplan.errors import InputMismatchError
from streamplan.frontend.containers import opened
from streamplan.images import Source
from streamplan.ir import TensorSpec

_BY_VALUE = (bool, int, str, bytes, type(None), TensorSpec, torch.dtype)
_BY_IDENTITY = (type, FunctionType, BuiltinFunctionType, ModuleType, nn.Module)
_OF_CONTAINERS = ("default_factory", "maxlen")
"""What containers hold besides items and attributes."""


def content_key(value: Any) -> Hashable:
    """What values of the same content, and they alone, have in common.

    Raises:
        InputMismatchError: A tensor is in an object that cannot be taken apart.
    """
    return _key(value, ())


def _key(value: Any, around: tuple[int, ...]) -> Hashable:
    if type(value) in _BY_VALUE:
        return type(value), value
    if type(value) in (float, complex):
        return type(value), repr(value)  # NaN is equal to itself, and 0.0 is not -0.0
    if id(value) in around:
        return "around", len(around) - around.index(id(value))
    parts = opened(value)
    if parts is None:
        return _key_of_leaf(value)
    inside = (*around, id(value))
    kept = (getattr(value, name, None) for name in _OF_CONTAINERS)
    keys = (_key(key, inside) for key in value) if isinstance(value, dict) else ()
    items = (_key(item, inside) for item in parts.items)
    return type(value), parts.names, (*keys,), (*(_key(item, inside) for item in kept),), (*items,)


class _Same:
    """An object that is equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


def _key_of_leaf(value: Any) -> Hashable:
    if isinstance(value, _BY_IDENTITY):
        return _Same(value)
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    try:
        pickler.dump(value)
    except InputMismatchError:
        raise
    except Exception:  # noqa: BLE001 - what an object says to being stored is its own business
        return _Same(value)
    return type(value), hashlib.sha256(stream.getvalue()).digest(), tuple(pickler.same)


class _Pickler(pickle.Pickler):
    """Stores everything but what counts by identity, which it collects."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.same: list[_Same] = []

    def persistent_id(self, value: Any) -> int | None:
        if isinstance(value, torch.Tensor | Source):
            raise InputMismatchError(
                "a tensor is given inside an object that cannot be taken apart",
                why="tensors are found in tuples, lists, dicts, named tuples, dataclasses and other objects of Python "
                "classes, not in objects that keep it elsewhere",
                do="give the tensor in one of these, or as an argument of its own",
            )
        if not isinstance(value, _BY_IDENTITY):
            return None
        self.same.append(_Same(value))
        return len(self.same)
