"""The state of a model that a trace depends on, besides the sizes of its inputs.

In: a model. Out: a `ModelState`; two of them are equal if a trace made in one state holds in the other. Of tensors
metadata and identity count, not values; of modules their classes, with all that is defined in them, and their
attributes, as `tokens` compares values.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import FunctionType
from typing import Any

from torch import nn

from streamplan.trace.registered import TARGETS
from streamplan.trace.state.tokens import ATOMS, Same, Tokens


@dataclass(frozen=True)
class ModelState:
    """See above."""

    modules: tuple[Any, ...]
    """Path, class and attributes of every module."""
    classes: tuple[Any, ...]
    """What the classes of the modules define."""
    rules: tuple[Any, ...]
    """Registered rules."""


def model_state(model: nn.Module) -> ModelState:
    """The state a model is in."""
    tokens, classes = Tokens(), dict[type, None]()
    modules = []
    for path, module in model.named_modules():
        classes |= dict.fromkeys(type(module).__mro__[:-1])
        modules.append((path, Same(type(module)), _attributes(module, tokens)))
    rules = tuple((Same(target), Same(known)) for target, known in list(TARGETS.items()))
    return ModelState(tuple(modules), tuple((Same(cls), class_token(cls)) for cls in classes), rules)


def class_token(cls: type) -> tuple[Any, ...]:
    """What a class defines: its functions by identity and the data that they read, its attributes by value."""
    tokens = Tokens()
    return tuple((name, _member(value, tokens)) for name, value in vars(cls).items() if not _is_generated(name))


def _member(value: Any, tokens: Tokens) -> Any:
    is_torch_function = isinstance(value, FunctionType) and (value.__module__ or "").startswith("torch.")
    is_code = callable(value) or isinstance(value, property | classmethod | staticmethod)
    return Same(value) if is_torch_function or (is_code and not isinstance(value, FunctionType)) else tokens.of(value)


def _is_generated(name: str) -> bool:
    """Whether Python keeps a member for itself: what code sees of it is in the other members."""
    return name.startswith("__") and name not in ("__call__", "__getattr__", "__getattribute__", "__init__")


def _attributes(module: nn.Module, tokens: Tokens) -> tuple[Any, ...]:
    """Those that are set; torch keeps many empty tables."""
    return tuple(
        (name, tokens.of(value))
        for name, value in vars(module).items()
        if type(value) in ATOMS or not isinstance(value, dict) or value
    )
