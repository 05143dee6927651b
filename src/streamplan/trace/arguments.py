"""Arguments and results: between values as the model holds them and values as a graph holds them.

In a graph tensors are nodes and containers are plain; to the model a result must look as it does in a plain run, named
fields of `torch.max(x, dim=1)` included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from streamplan.trace.facts import map_structure, tensors_in


def lower_argument(value: Any, node_of: Callable[[torch.Tensor], fx.Node]) -> Any:
    """A value as a node argument, with `node_of(tensor)` in place of each tensor."""
    if isinstance(value, torch.Tensor):
        return node_of(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()  # a numpy scalar prints as a call, which generated code could not read
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[lower_argument(item, node_of) for item in value])
    return map_structure(lambda item: lower_argument(item, node_of), value)


def rebuild(value: Any, wrap_item: Callable[[Any, Any], Any]) -> Any:
    """A container of the same class, with `wrap_item(key, item)` in place of each item that holds a tensor."""
    if isinstance(value, dict):
        return type(value)((key, _wrapped(key, item, wrap_item)) for key, item in value.items())
    if not isinstance(value, tuple | list) or isinstance(value, torch.Size):
        return value
    items = [_wrapped(index, item, wrap_item) for index, item in enumerate(value)]
    if isinstance(value, list):
        return items
    if hasattr(value, "_fields"):
        return type(value)(*items)
    return tuple(items) if type(value) is tuple else type(value)(items)


def _wrapped(key: Any, item: Any, wrap_item: Callable[[Any, Any], Any]) -> Any:
    return wrap_item(key, item) if tensors_in(item) else item
