"""What a model returns: its leaves in a row, and the form that puts others in their place.

    {"map": y, "scores": [s, 0.5]}  ->  (y, s, 0.5)  and  {"map": 0, "scores": [1, 2]}

Containers are those of `containers`: tuples, lists and dicts with their subclasses, dataclasses and other objects that
hold all they have in attributes. Each result gets containers of its own, as in the plain net.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch

from streamplan.errors import TracingError
from streamplan.trace.containers import leaves, opened

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.Size, Enum)
_WRITTEN = (bool, int, float, str, type(None))
_TORCH_CONSTANTS = (torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True, eq=False)
class ResultForm:
    """The containers of a result; two are equal if they have the same classes and keys."""

    template: Any
    """The result, with its number in the place of each leaf."""
    constants: Mapping[int, Any]
    """The leaves that are not tensors, by number."""
    num_leaves: int
    key: Any
    """Classes and names of the items of all containers."""

    def fill(self, result: Any) -> Any:
        """Other leaves in containers like those of the template.

        Args:
            result: Any containers with the same leaves in the same order; those that are constants are not looked at.
        """
        values = {**dict(enumerate(leaf for _, leaf in leaves(result))), **self.constants}
        return _filled(self.template, values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultForm) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return str(_filled(self.template, dict.fromkeys(range(self.num_leaves), _Star())))


class _Star(str):
    """A leaf in a text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "*"


def flatten_result(value: Any, where: str) -> tuple[list[Any], ResultForm]:
    """The leaves of what a model returned, and its form.

    Args:
        value: The result.
        where: The model, for messages.

    Raises:
        TracingError: It has something that is neither a tensor, a plain value nor a container.
    """
    found: list[Any] = []
    template, key = _numbered(value, found, where, ())
    constants = {number: leaf for number, leaf in enumerate(found) if not isinstance(leaf, torch.Tensor)}
    return found, ResultForm(template, constants, len(found), key)


def plain_containers(value: Any) -> Any:
    """A result in tuples, lists and dicts, with leaves in the same order; None for those without a source text."""
    parts = opened(value)
    if parts is None:
        return value if isinstance(value, torch.Tensor) or type(value) in _WRITTEN else None
    items = [plain_containers(item) for item in parts.items]
    if type(value) is dict and all(type(key) is str for key in value):
        return dict(zip(value, items, strict=True))
    return items if type(value) is list else tuple(items)


def _numbered(value: Any, found: list[Any], where: str, around: tuple[int, ...]) -> tuple[Any, Any]:
    """A result with numbers for leaves, which are added to `found`, and its classes and names."""
    parts = None if id(value) in around else opened(value)
    if parts is not None:
        items = [_numbered(item, found, where, (*around, id(value))) for item in parts.items]
        return parts.rebuild([item for item, _ in items]), (type(value), parts.names, tuple(key for _, key in items))
    if not isinstance(value, (torch.Tensor, *_CONSTANTS, *_TORCH_CONSTANTS)):
        raise TracingError(
            f"the model returns an object of type {type(value).__name__}",
            where=where,
            why="a result is made of tensors, plain values, and containers of them, in which the tensors can be found",
            do="return tensors, or a tuple, dict or dataclass of them",
        )
    found.append(value)
    return len(found) - 1, None


def _filled(template: Any, values: Mapping[int, Any]) -> Any:
    parts = opened(template)
    if parts is None:
        return values[template]
    return parts.rebuild([_filled(item, values) for item in parts.items])
