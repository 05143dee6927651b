"""The call a plan is made for: tensors by shape and dtype, everything else as it is."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch

from streamplan.checks import shown
from streamplan.dtypes import in_precision
from streamplan.errors import InputMismatchError, InputSizeError, OptionError
from streamplan.images import Source
from streamplan.ir import TensorSpec
from streamplan.planning.reading import UnreadableError, is_count
from streamplan.trace.containers import leaves, mapped
from streamplan.trace.state.tokens import Tokens

_MAX_NUMEL = 2**63
_CONSTANTS = (bool, int, float, str, type(None))


@dataclass(frozen=True, eq=False)
class CallArguments:
    """Arguments of `forward`, with a `TensorSpec` in the place of every tensor.

    Two are equal if no model can tell them apart: containers of the same classes with the same keys in the same order,
    tensors of the same shapes and dtypes, and everything else of the same type and content.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    key: Hashable = field(init=False, repr=False)
    """What equal arguments, and they alone, have in common; as they were when this was made."""

    def __post_init__(self) -> None:
        """Take down the content of the arguments, which may change.

        Raises:
            InputMismatchError: A tensor is in an object that cannot be taken apart.
        """
        object.__setattr__(self, "key", Tokens(of_tensor=_refuse_hidden).of((self.args, dict(self.kwargs))))

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, CallArguments) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)

    def specs(self) -> Iterator[TensorSpec]:
        """All tensors, positional arguments first."""
        for _, value in leaves((self.args, dict(self.kwargs))):
            if isinstance(value, TensorSpec):
                yield value

    @property
    def image(self) -> TensorSpec:
        """The first tensor of at least three dimensions.

        Raises:
            InputSizeError: There is none.
        """
        for spec in self.specs():
            if len(spec.shape) >= 3:
                return spec
        raise InputSizeError(
            "no input has the rank of an image",
            why="streaming divides the axes of an input (batch, channels, axis 0, ...)",
            do="give the size of the whole input, batch and channels included: (1, 3, 8192, 8192)",
        )

    def with_float_dtype(self, dtype: torch.dtype) -> CallArguments:
        """The same call with floating-point tensors of another dtype, and complex ones of its precision."""
        return self._with_specs(lambda x: TensorSpec(x.shape, in_precision(x.dtype, dtype)))

    def without_sizes(self) -> CallArguments:
        """The same call with tensors of their rank and dtype alone."""
        return self._with_specs(lambda x: TensorSpec((0,) * len(x.shape), x.dtype))

    def _with_specs(self, change: Callable[[TensorSpec], TensorSpec]) -> CallArguments:
        def changed(_: str, value: Any) -> Any:
            return change(value) if isinstance(value, TensorSpec) else value

        return CallArguments(mapped(changed, self.args), mapped(changed, dict(self.kwargs)))

    @classmethod
    def of_tensors(cls, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> CallArguments:
        """From real arguments."""

        def specified(_: str, value: Any) -> Any:
            is_tensor = isinstance(value, torch.Tensor | Source)
            return TensorSpec(tuple(value.shape), value.dtype) if is_tensor else value

        return cls(mapped(specified, tuple(args)), mapped(specified, dict(kwargs or {})))

    @classmethod
    def of_size(cls, input_size: Any, dtype: torch.dtype) -> CallArguments:
        """From one size, or a sequence of sizes for several inputs.

        Raises:
            InputSizeError: A size is malformed.
        """
        if isinstance(input_size, list | tuple) and input_size and isinstance(input_size[0], list | tuple):
            return cls(tuple(TensorSpec(check_size(size), dtype) for size in input_size))
        return cls((TensorSpec(check_size(input_size), dtype),))

    def to_json(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {"args": _encode(self.args), "kwargs": _encode(dict(self.kwargs))}

    @classmethod
    def from_json(cls, data: Any, place: str) -> CallArguments:
        """The inverse of `to_json`.

        Args:
            data: The data.
            place: Where it stands, for the message.

        Raises:
            UnreadableError: It is not what `to_json` makes.
        """
        is_call = isinstance(data, dict) and data.keys() == {"args", "kwargs"}
        args, kwargs = (_decode(data[name], place) if is_call else None for name in ("args", "kwargs"))
        if not isinstance(args, tuple) or not isinstance(kwargs, dict):
            raise UnreadableError(place, "it is no tuple and dict of arguments")
        arguments = cls(args, kwargs)
        if not all(isinstance(name, str) for name in arguments.kwargs):
            raise UnreadableError(place, "the name of a keyword is no text")
        if all(len(spec.shape) < 3 for spec in arguments.specs()):
            raise UnreadableError(place, "there is no image among them")
        return arguments


def _refuse_hidden(tensor: torch.Tensor) -> NoReturn:
    """Refuse a tensor that is no leaf of the arguments.

    Raises:
        InputMismatchError: Always.
    """
    raise InputMismatchError(
        f"a tensor of {tuple(tensor.shape)} is given inside an object that cannot be taken apart",
        why="tensors are found in tuples, lists, dicts, named tuples, dataclasses and other objects of Python classes, "
        "not in sets or objects that keep it elsewhere",
        do="give the tensor in one of these, or as an argument of its own",
    )


def check_size(size: Any) -> tuple[int, ...]:
    """A size as a tuple of positive integers.

    Raises:
        InputSizeError: It is not one, or has fewer than three dimensions.
    """
    if isinstance(size, list | tuple):
        size = tuple(as_integer(extent) for extent in size)
    if not isinstance(size, tuple) or not all(is_integer(extent) for extent in size):
        raise InputSizeError(
            f"input_size={shown(size)} is not a sequence of integers",
            why="a size has one positive integer for each dimension of the input",
            do="give the size of the whole input, batch and channels included: (1, 3, 8192, 8192)",
        )
    if len(size) < 3:
        raise InputSizeError(
            f"input_size={shown(size)} has {len(size)} dimensions",
            why="an image has at least 3: batch, channels and one axis",
            do="give the size of the whole input, batch and channels included: (1, 3, 8192, 8192)",
        )
    if math.prod(size) >= _MAX_NUMEL:
        raise InputSizeError(
            f"input_size={shown(size)} has too many positions",
            why="no tensor has as many as 2 to the power of 63",
            do="give the size of the whole input, batch and channels included: (1, 3, 8192, 8192)",
        )
    if any(extent < 1 for extent in size):
        bad = [extent for extent in size if extent < 1]
        raise InputSizeError(
            f"input_size={shown(size)} has an extent of {shown(bad[0])}",
            why="every extent must be at least 1",
            do="give the size of the whole input, batch and channels included: (1, 3, 8192, 8192)",
        )
    return size


def as_integer(value: Any) -> Any:
    """A number of any integer type, numpy's included, as an `int`; other values, bools among them, as they are."""
    if isinstance(value, bool | str):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return value


def is_integer(value: Any) -> bool:
    """Whether a value is an `int` and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _encode(value: Any) -> Any:
    if isinstance(value, TensorSpec):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if type(value) is dict and all(type(key) is str for key in value):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if type(value) is dict and all(type(key) in _CONSTANTS for key in value):
        return {"pairs": [[key, _encode(item)] for key, item in value.items()]}
    if type(value) in (tuple, list):
        return {type(value).__name__: [_encode(item) for item in value]}
    if type(value) not in _CONSTANTS:
        raise OptionError(
            f"an example input of type {type(value).__name__} cannot be stored in a plan",
            why="a plan is plain data: tensors, numbers, strings, None, and tuples, lists and dicts of them",
            do="make the plan without it, or give it a default value in forward",
        )
    return value


def _decode(value: Any, place: str) -> Any:
    if not isinstance(value, dict | list):
        return value
    if isinstance(value, dict) and value.keys() == {"tensor", "dtype"}:
        return _decode_spec(value, place)
    kind, content = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
    if kind == "dict" and isinstance(content, dict):
        return {key: _decode(item, place) for key, item in content.items()}
    if kind == "pairs" and isinstance(content, list) and all(map(_is_pair, content)):
        return {key: _decode(item, place) for key, item in content}
    if kind in ("tuple", "list") and isinstance(content, list):
        items = [_decode(item, place) for item in content]
        return tuple(items) if kind == "tuple" else items
    raise UnreadableError(place, f"{shown(value)} stands for no argument")


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], _CONSTANTS)


def _decode_spec(value: dict[str, Any], place: str) -> TensorSpec:
    shape, name = value["tensor"], value["dtype"]
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise UnreadableError(place, f"{shown(name)} is no dtype")
    if not isinstance(shape, list) or not all(map(is_count, shape)) or math.prod(shape) >= _MAX_NUMEL:
        raise UnreadableError(place, f"{shown(shape)} is no shape")
    return TensorSpec(tuple(shape), dtype)
