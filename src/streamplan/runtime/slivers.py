"""Convolutions of bfloat16 on the CPU, exact for narrow tiles.

With AMX instructions, oneDNN's kernels for bfloat16 give wrong numbers, NaN among them, or end the process where a
convolution reads or makes a map with an extent of 1, or reads one that is smaller than its kernel along an axis. A
plain net has such maps at its end at most; tiles can be that narrow anywhere. Those are computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_TRANSPOSED = frozenset({F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d})
_CONVOLUTIONS = frozenset({F.conv1d, F.conv2d, F.conv3d, *_TRANSPOSED})


def exact_slivers(device: torch.device, smalls: Mapping[str, Tensor]) -> AbstractContextManager[Any]:
    """What a tile is to be computed in: nothing special, unless the CPU may compute it in bfloat16.

    Args:
        device: Where the tile is computed.
        smalls: The small tensors it reads.
    """
    is_autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    is_narrow = is_autocast or any(x.dtype is torch.bfloat16 for x in smalls.values())
    return _WideSlivers() if device.type == "cpu" and is_narrow else nullcontext()


class _WideSlivers(TorchFunctionMode):
    """Computes convolutions of slivers in float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS or not _is_sliver(func, args, kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_widened, args), **{name: _widened(x) for name, x in kwargs.items()}).bfloat16()


def _is_sliver(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a convolution computes in bfloat16 what torch gets wrong."""
    x = args[0] if args else kwargs["input"]
    if _computed_dtype(x) is not torch.bfloat16:
        return False
    return _is_narrow(func, tuple(map(_shape, args)), tuple((name, _shape(value)) for name, value in kwargs.items()))


@lru_cache(maxsize=4096)
def _is_narrow(func: Any, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> bool:
    """Whether the maps of a convolution are too narrow for torch; its tensors are given by their shapes."""
    named = dict(kwargs)
    shape, kernel = args[0] if args else named["input"], (args[1] if len(args) > 1 else named["weight"])[2:]
    out = func(*map(_shaped, args), **{name: _shaped(value) for name, value in kwargs})
    read, made = shape[-len(kernel) :], out.shape[-len(kernel) :]
    if 1 in read or 1 in made:
        return True
    position = 7 if func in _TRANSPOSED else 5
    dilation = named.get("dilation", args[position] if len(args) > position else 1)
    dilations = (dilation,) * len(kernel) if isinstance(dilation, int) else dilation
    windows = zip(made if func in _TRANSPOSED else read, kernel, dilations, strict=True)
    return any(extent <= (size - 1) * step for extent, size, step in windows)


def _computed_dtype(x: Tensor) -> torch.dtype:
    """What torch computes a convolution of a map in; autocast leaves double precision alone."""
    is_cast = torch.is_autocast_enabled("cpu") and x.is_floating_point() and x.dtype is not torch.float64
    return torch.get_autocast_dtype("cpu") if is_cast else x.dtype


def _shape(argument: Any) -> Any:
    """The shape of a tensor; a constant as one that can be looked up."""
    if isinstance(argument, Tensor):
        return argument.shape
    return tuple(argument) if isinstance(argument, list) else argument


def _shaped(argument: Any) -> Any:
    """A tensor of that shape without data, to see what shape comes of it."""
    return torch.empty(argument, device="meta") if isinstance(argument, torch.Size) else argument


def _widened(argument: Any) -> Any:
    return argument.float() if isinstance(argument, Tensor) else argument
