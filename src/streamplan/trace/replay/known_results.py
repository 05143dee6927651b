"""Results of calls on tensors without data, by what was asked.

On the meta device torch works out many results step by step in Python, a hundred times longer than it takes to make a
tensor. Three kinds of calls need not be made:

    elementwise    operands of one shape, strides and dtype: the result has them too
    batch norm     with given statistics, one scale per channel: the result is like the map
    known          operation, constants, and shapes, strides and dtypes of operands are those of an earlier call, so the
                   result has those of the earlier result; a deep net repeats most of its calls
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from streamplan.trace.aten_stream import writes_statistics

META = torch.device("meta")
_TRUTH_VALUES = re.compile("(eq|ne|lt|le|gt|ge|logical_[a-z]+|is[a-z]+|signbit)_?")
"""Elementwise operations that give truth values."""
_RUNNING_MEAN, _TRAINING = 3, 5
"""Arguments of a batch norm."""
NO_RESULT = object()
"""It is not known: make the call."""
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


Call = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[Any, int]]
"""Makes a call of an operation; gives its result and its floating-point operations."""


class KnownResult(NamedTuple):
    """What a call gave."""

    forms: Form | tuple[Form | None, ...] | None
    """Of the tensors it made, None for one that was not asked for; None if it wrote to its first operand and returned
    that."""
    flops: int
    """Floating-point operations."""

    @classmethod
    def of(cls, args: tuple[Any, ...], form: Form, out: Any, flops: int) -> KnownResult | None:
        """Of a call; None if its result cannot be made from this.

        Args:
            args: Its arguments.
            form: Form of the first one before the call.
            out: Its result.
            flops: Floating-point operations.
        """
        if out is args[0]:
            return cls(None, flops) if Form.of(out) == form else None
        made = out if isinstance(out, tuple) else (out,)
        if not all(x is None or isinstance(x, torch.Tensor) for x in made) or _shares_memory(made, args):
            return None
        forms = tuple(None if x is None else Form.of(x) for x in made)
        return cls(forms if isinstance(out, tuple) else forms[0], flops)

    def again(self, first: torch.Tensor) -> Any:
        """The result of another such call, of its first operand."""
        if self.forms is None:
            return first
        if isinstance(self.forms, Form):
            return self.forms.make()
        return tuple(None if form is None else form.make() for form in self.forms)


class KnownResults:
    """What the calls of some runs gave."""

    def __init__(self) -> None:
        self._results: dict[Any, KnownResult] = {}

    def result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], call: Call) -> tuple[Any, int]:
        """The result of a call, which is made if it is not known, and its floating-point operations.

        Args:
            func: The operation.
            args: Its arguments.
            kwargs: Further ones.
            call: Makes the call.
        """
        out = elementwise_result(func, args, kwargs)
        if out is NO_RESULT:
            out = batch_norm_result(func, args)
        if out is not NO_RESULT:
            return out, 0
        key = call_key(func, args, kwargs)
        if key is None:
            return call(func, args, kwargs)
        known = self._results.get(key)
        if known is not None:
            return known.again(args[0]), known.flops
        out, flops = call(func, args, kwargs)
        known = KnownResult.of(args, key[1][0], out, flops)
        if known is not None:
            self._results[key] = known
        return out, flops


def elementwise_result(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result of an elementwise call on floating-point tensors without data that are alike; else `NO_RESULT`."""
    if not _is_elementwise(func) or kwargs.keys() - {"out", "alpha"}:
        return NO_RESULT
    first = next((x for x in args if isinstance(x, torch.Tensor)), None)
    if first is None or first.device != META or not first.is_floating_point():
        return NO_RESULT
    if any(_promotes(x, first) for x in args):
        return NO_RESULT
    if "out" in kwargs:
        out = kwargs["out"]
        return out if (out.shape, out.dtype) == (first.shape, first.dtype) else NO_RESULT
    return first if _is_in_place(func) else _like(first)


def batch_norm_result(func: Any, args: tuple[Any, ...]) -> Any:
    """The result of a batch norm that scales each channel: the map, and no statistics; else `NO_RESULT`."""
    if func is not torch.ops.aten.native_batch_norm.default:
        return NO_RESULT
    x, mean, is_training = args[0], args[_RUNNING_MEAN], args[_TRAINING]
    if is_training or x.device != META or mean is None or mean.dtype is not x.dtype or mean.shape != x.shape[1:2]:
        return NO_RESULT
    none = torch.empty(0, dtype=x.dtype, device=x.device)
    return _like(x), none, none.clone()


def _like(x: torch.Tensor) -> torch.Tensor:
    """A tensor like one without data: what `torch.empty_like` gives, at a thirtieth of its time."""
    return x.clone()


def _shares_memory(made: tuple[torch.Tensor | None, ...], args: tuple[Any, ...]) -> bool:
    """Whether a result is a view of an operand; `_unsafe_view` does not say so."""
    storages = {x.untyped_storage()._cdata for x in args if isinstance(x, torch.Tensor)}
    return any(x is not None and x.untyped_storage()._cdata in storages for x in made)


def _promotes(value: Any, first: torch.Tensor) -> bool:
    """Whether an argument may give a result of another form than that of the first tensor."""
    if isinstance(value, torch.Tensor):
        return value is not first and Form.of(value) != Form.of(first)
    return isinstance(value, complex)


def call_key(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Equal for calls with like results; None for calls of which that cannot be told.

    Those are views, calls that write to anything but their first operand, batch norms that write their statistics,
    calls on tensors with data or of a kind of number that has views of its own, calls whose first argument is no
    tensor, and calls with arguments that cannot be compared.
    """
    if not args or not isinstance(args[0], torch.Tensor) or not _is_repeatable(func) or writes_statistics(func, args):
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
def _is_elementwise(func: Any) -> bool:
    """Whether a call gives one number per position, of the operands' dtype, in a tensor it makes or writes."""
    returns = func._schema.returns
    if torch.Tag.pointwise not in func.tags or len(returns) != 1 or str(returns[0].type) != "Tensor":
        return False
    is_view = returns[0].alias_info is not None and not returns[0].alias_info.is_write
    return not is_view and not _TRUTH_VALUES.fullmatch(func.overloadpacket.__name__)


@lru_cache(maxsize=2048)
def _is_in_place(func: Any) -> bool:
    """Whether a call writes to its first operand, and to no other, and returns that alone."""
    arguments, returns = func._schema.arguments, func._schema.returns
    written = [i for i, argument in enumerate(arguments) if argument.alias_info is not None]
    return written == [0] and arguments[0].alias_info.is_write and len(returns) == 1


@lru_cache(maxsize=2048)
def _is_repeatable(func: Any) -> bool:
    """Whether a call makes new tensors and writes nowhere, or writes to its first operand and returns that alone."""
    schema = func._schema
    is_fresh = all(value.alias_info is None for value in (*schema.arguments, *schema.returns))
    return is_fresh or _is_in_place(func)
