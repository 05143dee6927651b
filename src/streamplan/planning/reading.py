"""Reads the JSON form of a plan: every value is checked against the type of the field it stands for.

    "tile_size": [64, 64]      tuple[int, ...]   ->  (64, 64)
    "tile_size": [64, null]                      ->  tile_size[1] is None, not a whole number from 0 on

What comes out has the types that its class says, with finite sizes; whether values fit each other is asked afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from streamplan.checks import shown

MAX_INTEGER = 2**63
"""Whole numbers of a plan are smaller: sizes, counts and bytes."""


class UnreadableError(Exception):
    """A value is not what its field takes.

    Args:
        place: Where it stands: `cuts[2].shapes`.
        why: What is wrong with it.
    """

    def __init__(self, place: str, why: str) -> None:
        super().__init__(f"{place}: {why}")
        self.place = place
        self.why = why


def read(kind: Any, value: Any, place: str = "") -> Any:
    """A value of JSON as an object of some type.

    Args:
        kind: `int`, `float`, `str`, `Literal[...]`, `X | None`, `tuple[X, ...]`, or a class: one with a `from_json`, or
            a dataclass.
        value: The value.
        place: Where it stands, for the message.

    Raises:
        UnreadableError: It is no such object.
    """
    if kind in _CHECKS:
        is_such, name = _CHECKS[kind]
        if not is_such(value):
            raise UnreadableError(place, f"it is {shown(value)}, not {name}")
        return value
    origin = get_origin(kind)
    if origin is Literal:
        if not (isinstance(value, str) and value in get_args(kind)):
            raise UnreadableError(place, f"it is {shown(value)}, not one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if origin in (Union, UnionType):
        (other,) = (option for option in get_args(kind) if option is not NoneType)
        return None if value is None else read(other, value, place)
    if origin is tuple:
        if not isinstance(value, list):
            raise UnreadableError(place, f"it is {shown(value)}, not a list")
        return tuple(read(get_args(kind)[0], item, f"{place}[{index}]") for index, item in enumerate(value))
    return kind.from_json(value, place) if hasattr(kind, "from_json") and place else _read_fields(kind, value, place)


def _read_fields(kind: Any, value: Any, place: str) -> Any:
    """An object of a dataclass from its fields; those with a default may be absent."""
    if not isinstance(value, dict):
        raise UnreadableError(place, f"it is {shown(value)}, not an object with fields")
    types, dot = _types(kind), f"{place}." if place else ""
    for name in value.keys() - types.keys():
        raise UnreadableError(place, f"there is no field {shown(name)}")
    for field in dataclasses.fields(kind):
        if field.name not in value and field.default is dataclasses.MISSING:
            raise UnreadableError(place, f"the field {field.name!r} is missing")
    return kind(**{name: read(types[name], item, dot + name) for name, item in value.items()})


@cache
def _types(kind: Any) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind).items() if name in kind.__dataclass_fields__}


def is_count(value: Any) -> bool:
    """Whether a value is a whole number that can be a size or a number of things."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_INTEGER


def _is_number(value: Any) -> bool:
    is_such = isinstance(value, int | float) and not isinstance(value, bool)
    return is_such and (value == math.inf or -MAX_INTEGER < value < MAX_INTEGER)


_CHECKS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (is_count, "a whole number from 0 on"),
    float: (_is_number, "a number"),
    str: (lambda value: isinstance(value, str), "a text"),
}
