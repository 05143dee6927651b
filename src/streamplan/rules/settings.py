"""What the rules of users are told about a module or a call: settings of a window, and constants.

    WindowSettings(kernel=lambda m: m.size, stride=2).resolve(module)  ->  (3, 2, 0, 1, 0.0)

A setting is a value, or a callable that takes the module (of a function: the arguments of the call) and returns it. It
is read once, when a plan is made, and is a constant of the program from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from streamplan.geometry import AffineWindow
from streamplan.ir import Argument
from streamplan.rules.arguments import per_axis
from streamplan.rules.base import RuleContext

Setting = Any
"""A value, or a callable that returns it."""

WINDOW = "rule.window"
"""Argument in which a rule keeps the settings of its window; no parameter can have such a name."""
FOLDS = ("reflect", "replicate", "circular")
"""Borders that continue the map."""


@dataclass(frozen=True)
class WindowSettings:
    """The window of a rule: numbers, one per axis or one for all, or callables that return them."""

    kernel: Setting
    stride: Setting = 1
    padding: Setting = 0
    """Samples that stand before each axis; how many stand after it follows from the size of the result."""
    dilation: Setting = 1
    border: Setting = 0.0
    """What the border is made of: a number, or the `padding_mode` of torch."""

    def resolve(self, subject: Any) -> tuple[Any, ...]:
        """The settings for one module or call, as plain values.

        Raises:
            ValueError: A setting is not what it must be.
        """
        values = []
        for name, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            value = plain(_resolve(getattr(self, name), subject))
            items = value if isinstance(value, tuple) else (value,)
            if not items or not all(type(item) is int and item >= least for item in items):
                raise ValueError(f"{name} is {value!r}; it must be one integer or one per axis, each at least {least}")
            values.append(value)
        return (*values, _border(_resolve(self.border, subject)))


def windows_of(ctx: RuleContext) -> tuple[AffineWindow, ...]:
    """The window of a call along each image axis."""
    kernel, stride, padding, dilation = (per_axis(v, ctx.num_axes) for v in ctx.call.arguments[WINDOW][:-1])
    return tuple(
        AffineWindow.sliding(kernel=k, stride=s, padding=p, dilation=d)
        for k, s, p, d in zip(kernel, stride, padding, dilation, strict=True)
    )


def describe_settings(ctx: RuleContext) -> str:
    """The window as `k3 s2 p1 reflect`, without what is 1, 0 or zeros."""
    *settings, border = ctx.call.arguments[WINDOW]
    texts = []
    for letter, value, default in zip("kspd", settings, (None, 1, 0, 1), strict=True):
        values = per_axis(value, ctx.num_axes)
        if any(item != default for item in values):
            texts.append(letter + ("x".join(map(str, values)) if len(set(values)) > 1 else str(values[0])))
    return " ".join([*texts, *([] if border == 0.0 else [str(border)])])


def _resolve(setting: Setting, subject: Any) -> Any:
    return setting(subject) if callable(setting) else setting


def _border(value: Any) -> float | str:
    if value in ("zeros", "constant"):
        return 0.0
    if value in FOLDS:
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"border is {value!r}; it must be a number, 'zeros', 'reflect', 'replicate' or 'circular'")


def is_plain(value: Any) -> bool:
    """Whether a value has a source text in a program."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | torch.dtype)


def plain(value: Any) -> Argument:
    """A value as a constant of the program; lists become tuples.

    Raises:
        TypeError: It is a tensor, or an object that has no source text.
    """
    if isinstance(value, torch.Tensor):
        raise TypeError("a callable returns a tensor; name the attribute instead, and compute in `run`")
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    if not is_plain(value):
        raise TypeError(f"{value!r} is neither a tensor nor a plain value (number, string, None, tuple of those)")
    return value
