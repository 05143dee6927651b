"""Convolutions of bfloat16 on the CPU, exact for tiles one position wide.

With AMX instructions, oneDNN's kernels for bfloat16 give wrong numbers, NaN among them, where a convolution reads or
makes a map with an extent of 1: forward if the result is one column wide, and in one or the other gradient. A plain net
has such maps at its end at most; tiles can be that narrow anywhere. Those are computed in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = frozenset({F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d})


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
        out = func(*args, **kwargs)
        if func not in _CONVOLUTIONS or out.dtype is not torch.bfloat16:
            return out
        if 1 not in args[0].shape[2:] and 1 not in out.shape[2:]:
            return out
        with torch.autocast("cpu", enabled=False):
            return func(*map(_widened, args), **{name: _widened(x) for name, x in kwargs.items()}).to(out.dtype)


def _widened(argument: Any) -> Any:
    return argument.float() if isinstance(argument, Tensor) else argument
