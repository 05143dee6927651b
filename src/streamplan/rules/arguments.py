"""Reading the arguments of a call: torch takes one number or one per axis, rules want one per axis."""

from __future__ import annotations

from typing import Any

from streamplan.ir import Argument, OpCall, ValueRef


def per_axis(value: Any, num_axes: int) -> tuple[int, ...]:
    """`3` and `(3,)` mean the same for every axis.

    >>> per_axis(3, 2), per_axis((1, 7), 2), per_axis((2,), 2)
    ((3, 3), (1, 7), (2, 2))
    """
    if not isinstance(value, tuple | list):
        return (int(value),) * num_axes
    if len(value) == 1:
        return (int(value[0]),) * num_axes
    return tuple(int(item) for item in value)


def map_reference(argument: Argument) -> ValueRef:
    """The argument as a reference to a value; calls whose `input` is a constant never get here."""
    assert isinstance(argument, ValueRef), argument
    return argument


def positive_dim(dim: int, rank: int) -> int:
    """A dimension counted from the front.

    >>> positive_dim(-1, 4)
    3
    """
    return dim + rank if dim < 0 else dim


def dims_argument(call: OpCall, rank: int, name: str = "dim") -> tuple[int, ...]:
    """A `dim` argument (number, tuple or None for all) as dimensions counted from the front."""
    value = call.arguments.get(name)
    if value is None:
        return tuple(range(rank))
    dims = value if isinstance(value, tuple | list) else (value,)
    return tuple(positive_dim(int(dim), rank) for dim in dims)
