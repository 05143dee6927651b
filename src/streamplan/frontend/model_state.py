"""The state of a model that a trace depends on, besides the sizes of its inputs.

In: a model. Out: a `ModelState`; two of them are equal if a trace made in one state holds in the other. Of tensors
shape, dtype, device and identity count, not values; of modules their classes and settings, containers of settings
included; of other objects which they are, and their plain attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn

from streamplan.frontend.registered import TARGETS

_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, slots=True)
class Same:
    """Equal to itself only; keeps its object alive, so that no other takes its `id`."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(frozen=True)
class ModelState:
    """See above."""

    modules: tuple[Any, ...]
    """Path, class and attributes of every module."""
    registered: tuple[Any, ...]
    """Modules and functions with a registered rule: each call of one is one node."""


def model_state(model: nn.Module) -> ModelState:
    """The state a model is in."""
    tensors: dict[int, int] = {}
    modules = tuple((path, Same(type(module)), _attributes(module, tensors)) for path, module in model.named_modules())
    return ModelState(modules, tuple((Same(target), Same(known)) for target, known in TARGETS.items()))


def _attributes(module: nn.Module, tensors: dict[int, int]) -> tuple[Any, ...]:
    """Those that are set; torch keeps many empty tables."""
    return tuple(
        (name, _token(value, tensors))
        for name, value in vars(module).items()
        if type(value) in _PLAIN or not isinstance(value, dict) or value
    )


def _token(value: Any, tensors: dict[int, int]) -> Any:
    if type(value) in _PLAIN:
        return type(value), value
    if isinstance(value, torch.Tensor):
        number = tensors.setdefault(id(value), len(tensors))
        strides = value.stride() if value.layout is torch.strided else ()
        return number, type(value), tuple(value.shape), strides, value.dtype, value.device, value.requires_grad
    if isinstance(value, Mapping):
        return type(value), tuple((_token(key, tensors), _token(item, tensors)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(_token(item, tensors) for item in value)
    if isinstance(value, nn.Module | type | FunctionType):
        return Same(value)
    settings = getattr(value, "__dict__", {})
    return Same(value), tuple((name, item) for name, item in settings.items() if type(item) in _PLAIN)
