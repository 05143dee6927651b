"""Results of calls on tensors without data, by what was asked.

On the meta device torch works out many results step by step in Python. A call whose operation, constants, and shapes,
strides and dtypes of operands are those of an earlier one has a result of the same shape, strides and dtype, so that is
made directly. A deep net repeats most of its calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from streamplan.frontend.aten_stream import BATCH_NORMS

META = torch.device("meta")
_CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


class _NoKeyError(Exception):
    """An argument cannot be compared."""


class Form(NamedTuple):
    """What can be told of a tensor without data."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: torch.Tensor) -> Form:
        """Form of a tensor."""
        return cls(tuple(x.shape), x.stride(), x.dtype)

    def make(self) -> torch.Tensor:
        """A tensor of this form."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=META)


class KnownResult(NamedTuple):
    """What a call gave."""

    forms: Form | tuple[Form, ...] | None
    """Of the tensors it made; None if it wrote to its first operand and returned that."""
    flops: int
    """Floating-point operations."""

    def again(self, args: tuple[Any, ...]) -> Any:
        """The result of another such call."""
        if self.forms is None:
            return args[0]
        return self.forms.make() if isinstance(self.forms, Form) else tuple(form.make() for form in self.forms)


class KnownResults:
    """The calls of one run."""

    def __init__(self) -> None:
        self._results: dict[Any, KnownResult] = {}

    def find(self, key: Any) -> KnownResult | None:
        """The result of an earlier call with this key; None also if `key` is."""
        return None if key is None else self._results.get(key)

    def keep(self, key: Any, args: tuple[Any, ...], out: Any, flops: int) -> None:
        """Remember what a call with a key gave, if the like of it can be made."""
        if out is args[0]:
            if Form.of(out) == key[1][0]:  # not of another shape than before
                self._results[key] = KnownResult(None, flops)
        elif isinstance(out, torch.Tensor):
            self._results[key] = KnownResult(Form.of(out), flops)
        elif isinstance(out, tuple) and all(isinstance(x, torch.Tensor) for x in out):
            self._results[key] = KnownResult(tuple(Form.of(x) for x in out), flops)


def call_key(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Equal for calls with like results; None for calls of which that cannot be told.

    Those are views, calls that write to anything but their first operand, batch norms, calls on tensors with data or of
    a kind of number that has views of its own, calls whose first argument is no tensor, and calls with arguments that
    cannot be compared.
    """
    if not args or not isinstance(args[0], torch.Tensor) or not _is_repeatable(func):
        return None
    try:
        return func, tuple(map(_token, args)), tuple((name, _token(value)) for name, value in kwargs.items())
    except _NoKeyError:
        return None


def _token(value: Any) -> Any:
    """A constant with its type, since 1 == 1.0 == True."""
    if isinstance(value, torch.Tensor):
        if value.device != META or value.layout is not torch.strided or value.is_complex() or value.is_quantized:
            raise _NoKeyError
        return Form.of(value)
    if isinstance(value, list | tuple):
        return tuple(map(_token, value))
    if isinstance(value, _CONSTANTS):
        return type(value), value
    raise _NoKeyError


@lru_cache(maxsize=2048)
def _is_repeatable(func: Any) -> bool:
    """Whether a call makes new tensors and writes nowhere, or writes to its first operand and returns that alone."""
    schema = func._schema
    aliased = [i for i, argument in enumerate(schema.arguments) if argument.alias_info is not None]
    is_fresh = not aliased and all(result.alias_info is None for result in schema.returns)
    is_in_place = aliased == [0] and schema.arguments[0].alias_info.is_write and len(schema.returns) == 1
    return (is_fresh and schema.name not in BATCH_NORMS) or is_in_place
