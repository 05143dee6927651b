"""Canonical arguments: what spellings of one operation still disagree on after their names agree.

x.transpose(1, -1)          permute(dims=(0, 3, 2, 1))
a, b = x.chunk(2, 1)        slice(index=((0, n, 1), (0, c/2, 1), ...)), slice(...)
x[:, :3]                    slice(index=((0, n, 1), (0, 3, 1), ...))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streamplan.ir import AttributeRef, TensorSpec, ValueRef, references

SpecOf = Callable[[ValueRef | AttributeRef], TensorSpec]
"""Shape and dtype behind a reference."""


class NoCanonicalFormError(Exception):
    """The call has no canonical form; the message says why, or is empty if it is simply not known."""


@dataclass(frozen=True)
class Canonical:
    """An operation with its canonical arguments."""

    op: str
    arguments: dict[str, Any]


def canonicalize(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    """Bring bound arguments into the form rules rely on.

    Raises:
        NoCanonicalFormError: The call uses a feature that no rule describes.
    """
    arguments = {name: value for name, value in arguments.items() if name not in ("inplace", "_stacklevel")}
    for name, value in arguments.items():
        if name not in _TENSORS and next(references(value), None) is not None:
            raise NoCanonicalFormError(f"its argument {name} is a tensor, and a rule takes it as a number")
    if op in ("view", "expand"):  # the shape of the result says all: -1, start_dim and the like are resolved
        return Canonical(op, {"input": arguments["input"]})
    special = _SPECIAL.get(op)
    if special is not None:
        return special(op, arguments, spec_of)
    if op in _IDENTITIES:
        return Canonical("identity", {"input": arguments["input"]})
    return Canonical(op, arguments)


_IDENTITIES = ("identity",)
_TENSORS = frozenset(
    "input other weight bias tensors mask condition end tensor1 tensor2 running_mean running_var index min max value "
    "grid key attn_mask".split()
)
"""Arguments that may be tensors."""


def _convolution(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    mode = arguments.pop("padding_mode", "zeros")
    if mode != "zeros":
        raise NoCanonicalFormError(f"no rule for padding_mode={mode!r}; F.pad before an unpadded convolution has one")
    if not isinstance(arguments["weight"], ValueRef | AttributeRef):
        raise NoCanonicalFormError("its weight is not a tensor of the model")
    arguments["kernel_size"] = spec_of(arguments["weight"]).shape[2:]
    arguments["num_axes"] = len(arguments["kernel_size"])
    return Canonical(op, arguments)


def _reduction(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    if arguments.get("dim") == ():
        arguments["dim"] = None
    return Canonical(op, arguments)


def _variance(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    unbiased, correction = arguments.pop("unbiased"), arguments.pop("correction")
    if isinstance(arguments["dim"], bool):  # x.var(False): the old order of arguments
        unbiased, arguments["dim"] = arguments["dim"], None
    default = 1 if unbiased is None else int(unbiased)
    return _reduction(op, {**arguments, "correction": default if correction is None else correction}, spec_of)


def _division(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    if arguments.pop("rounding_mode", None) is not None:
        raise NoCanonicalFormError("no rule for division with a rounding mode")
    return Canonical(op, arguments)


def _interpolate(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    defaults = {"recompute_scale_factor": None, "antialias": False}
    return Canonical(op, {**defaults, **arguments})


def _transpose(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    rank = _rank(arguments["input"], spec_of)
    order = list(range(rank))
    first, second = (arguments[name] % rank for name in ("dim0", "dim1"))
    order[first], order[second] = order[second], order[first]
    return Canonical("permute", {"input": arguments["input"], "dims": tuple(order)})


def _movedim(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    rank = _rank(arguments["input"], spec_of)
    source, destination = ([d % rank for d in _tuple(arguments[name])] for name in ("source", "destination"))
    order = [dim for dim in range(rank) if dim not in source]
    for target, origin in sorted(zip(destination, source, strict=True)):
        order.insert(target, origin)
    return Canonical("permute", {"input": arguments["input"], "dims": tuple(order)})


def _narrow(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    shape = spec_of(arguments["input"]).shape
    dim, start = arguments["dim"] % len(shape), arguments["start"]
    start = start + shape[dim] if start < 0 else start
    return _slice_of(arguments["input"], shape, dim, (start, start + arguments["length"], 1))


def _select(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    shape = spec_of(arguments["input"]).shape
    dim = arguments["dim"] % len(shape)
    return _slice_of(arguments["input"], shape, dim, arguments["index"] % shape[dim])


def _getitem(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    shape = spec_of(arguments["input"]).shape
    index = arguments["index"]
    entries = list(index) if isinstance(index, tuple) else [index]
    if entries.count(Ellipsis) > 1 or not all(_is_basic(entry) for entry in entries):
        raise NoCanonicalFormError("it indexes with more than slices and integers")
    if Ellipsis in entries:
        place = entries.index(Ellipsis)
        entries[place : place + 1] = [slice(None)] * (len(shape) - len(entries) + 1)
    entries += [slice(None)] * (len(shape) - len(entries))
    resolved = tuple(_entry(entry, extent) for entry, extent in zip(entries, shape, strict=True))
    return Canonical("slice", {"input": arguments["input"], "index": resolved})


def _is_basic(entry: Any) -> bool:
    if isinstance(entry, slice):
        return all(part is None or isinstance(part, int) for part in (entry.start, entry.stop, entry.step))
    return entry is Ellipsis or (isinstance(entry, int) and not isinstance(entry, bool))


def _entry(entry: Any, extent: int) -> Any:
    """A slice as (start, stop, step) inside the extent; an integer counted from the front."""
    if isinstance(entry, int):
        return entry % extent
    start, stop, step = entry.indices(extent)
    return (start, max(start, stop), step)


def multi_output_slices(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> tuple[Canonical, ...]:
    """The tensors that chunk, split or unbind return, each as a slice of its input."""
    shape = spec_of(arguments["input"]).shape
    dim = arguments["dim"] % len(shape)
    extent = shape[dim]
    if op == "unbind":
        return tuple(_slice_of(arguments["input"], shape, dim, index) for index in range(extent))
    if op == "chunk":
        size: Any = -(-extent // arguments["chunks"])
    else:
        size = arguments["split_size_or_sections"]
    sizes = size if isinstance(size, tuple) else [min(size, extent - start) for start in range(0, extent, size)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    pieces = zip(starts, sizes, strict=True)
    return tuple(_slice_of(arguments["input"], shape, dim, (start, start + size, 1)) for start, size in pieces)


def _slice_of(source: Any, shape: tuple[int, ...], dim: int, entry: Any) -> Canonical:
    index: list[Any] = [(0, extent, 1) for extent in shape]
    index[dim] = entry
    return Canonical("slice", {"input": source, "index": tuple(index)})


def _repeat(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    given = _tuple(arguments["repeats" if op == "repeat" else "dims"])
    rank = _rank(arguments["input"], spec_of)  # only tile takes fewer numbers than there are dimensions
    return Canonical("repeat", {"input": arguments["input"], "repeats": (1,) * (rank - len(given)) + given})


def _repeat_interleave(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    if not isinstance(arguments["repeats"], int):
        raise NoCanonicalFormError("a tensor says how often each entry is repeated")
    if arguments["dim"] is None:
        raise NoCanonicalFormError("without `dim` it flattens the map")
    return Canonical(op, {name: arguments[name] for name in ("input", "repeats", "dim")})


def _as_tensor(op: str, arguments: dict[str, Any], spec_of: SpecOf) -> Canonical:
    if arguments["dtype"] is not None or arguments["device"] is not None:
        raise NoCanonicalFormError("no rule for it with a dtype or a device; `x.to(...)` has one")
    return Canonical("identity", {"input": arguments["input"]})


def _rank(reference: Any, spec_of: SpecOf) -> int:
    return len(spec_of(reference).shape)


def _tuple(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


_SPECIAL: dict[str, Callable[[str, dict[str, Any], SpecOf], Canonical]] = {
    "conv": _convolution,
    "conv_transpose": _convolution,
    "sum": _reduction,
    "mean": _reduction,
    "amax": _reduction,
    "amin": _reduction,
    "var": _variance,
    "std": _variance,
    "div": _division,
    "interpolate": _interpolate,
    "transpose": _transpose,
    "movedim": _movedim,
    "narrow": _narrow,
    "select": _select,
    "getitem": _getitem,
    "repeat": _repeat,
    "tile": _repeat,
    "repeat_interleave": _repeat_interleave,
    "as_tensor": _as_tensor,
}
"""Operations whose arguments need more than their names."""
