"""Results of common operations on tensors without data, made directly.

On the meta device torch works out an elementwise operation step by step in Python, which takes a hundred times longer
than making a tensor of its shape. A deep net has thousands of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from streamplan.frontend.meta_run import like, only_scales, scaled

_TRUTH_VALUES = ("eq", "ne", "lt", "le", "gt", "ge", "logical", "is", "bitwise", "signbit")
"""Beginnings of names of elementwise operations that give truth values."""
NO_SHORTCUT = object()
"""There is none: run the operation."""


def shortcut(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result of a call, or `NO_SHORTCUT`.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Further ones.
    """
    if only_scales(func, args):
        return scaled(args[0])
    if func is torch.ops.aten.native_batch_norm_backward.default and not args[7]:
        operands = (args[1], args[2], args[2])
        return tuple(like(x) if wanted else None for x, wanted in zip(operands, args[9], strict=True))
    if not _is_elementwise(func):
        return NO_SHORTCUT
    tensors = [x for x in args if isinstance(x, Tensor)]
    if not tensors or not all(_is_like(x, tensors[0]) for x in tensors[1:]) or not tensors[0].is_floating_point():
        return NO_SHORTCUT
    if set(kwargs) - {"out", "alpha"}:
        return NO_SHORTCUT
    if "out" in kwargs:
        out = kwargs["out"]
        return out if (out.shape, out.dtype) == (tensors[0].shape, tensors[0].dtype) else NO_SHORTCUT
    return tensors[0] if func.overloadpacket.__name__.endswith("_") else like(tensors[0])


def _is_like(x: Tensor, other: Tensor) -> bool:
    return x.shape == other.shape and x.dtype == other.dtype and x.stride() == other.stride()


@cache
def _is_elementwise(func: Any) -> bool:
    returns = func._schema.returns
    is_single = len(returns) == 1 and str(returns[0].type) == "Tensor"
    name = func.overloadpacket.__name__
    return torch.Tag.pointwise in func.tags and is_single and not name.startswith(_TRUTH_VALUES)
