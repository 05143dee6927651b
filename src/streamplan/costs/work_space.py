"""What single operations take on a device besides their tensors: each is run alone.

Convolutions and matrix products take work space: oneDNN brings weights into an order of its own, cuDNN chooses among
algorithms. Nothing tells beforehand how much. A large operation is run on fewer rows, twice, and continued in a
straight line:

    rows      work space
      64      1.2 MiB
     128      1.4 MiB
    1024      4.2 MiB    projected
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from streamplan.costs.allocations import peak_of
from streamplan.dtypes import is_differentiable

_NEEDS = re.compile(
    r"aten\.(convolution|addmm|mm|bmm|baddbmm|_?(adaptive_)?(max|avg)_pool|native_(layer|group|batch)_norm|upsample_)"
)
"""Operations that take work space, or copy what is not in the order they want."""
_MAX_BYTES = 64 * 2**20
"""Of the tensors of an operation that is run whole."""
_SMALL_MAP = 20480
"""Elements of a map up to which torch unrolls windows instead of calling oneDNN."""
_ROWS = 2
"""The dimension that is shortened, of (batch, channels, rows, ...)."""


@cache
def needs_work_space(func: Any) -> bool:
    """Whether an operation takes more than its tensors."""
    return _NEEDS.match(str(func)) is not None


def signature(func: Any, args: Sequence[Any]) -> str:
    """A call by its shapes, strides, dtypes and settings."""
    return f"{func}({', '.join(_describe(arg) for arg in args)})"


def _describe(arg: Any) -> str:
    if isinstance(arg, Tensor):
        return f"{str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}{list(arg.stride())}"
    return str(list(arg)) if isinstance(arg, list | tuple) else repr(arg)


def guess_work_space(func: Any, args: Sequence[Any]) -> int:
    """A cautious guess where nothing was measured, in bytes.

    The largest operand; of a convolution the weight twice too, and where oneDNN has no kernel for it all windows of the
    map side by side. Pools and norms copy what has gaps or is not in their order.
    """
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    guess = max(map(_num_bytes, tensors), default=0)
    if "convolution" in str(func):
        position = _input_position(func)
        x, weight = args[position], args[position + 1]
        windows = _num_bytes(x) * (weight.numel() // (weight.shape[0] * weight.shape[1]))
        is_unrolled = x.dtype == torch.float64 or x.numel() <= _SMALL_MAP
        return guess + 2 * _num_bytes(weight) + (2 * windows if is_unrolled else 0)
    is_copied = "mm" in str(func) or any(x.dim() > 2 and not x.is_contiguous() for x in tensors)
    return guess if is_copied else 0


def measure_work_space(func: Any, args: Sequence[Any], device: torch.device) -> int:
    """Run an operation alone on random numbers, and count what it allocates besides its results, in bytes."""
    rows = _affordable_rows(func, args)
    if rows is None:
        return _run(func, args, device)
    whole = int(args[_input_position(func)].shape[_ROWS])
    some, more = (_run(func, _shortened(func, args, count), device) for count in (rows // 2, rows))
    slope = max(0.0, (more - some) / (rows - rows // 2))
    return round(more + slope * (whole - rows))


def _num_bytes(x: Tensor) -> int:
    return int(x.numel()) * int(x.element_size())


def _input_position(func: Any) -> int:
    return 1 if "convolution_backward" in str(func) else 0


def _affordable_rows(func: Any, args: Sequence[Any]) -> int | None:
    """Rows to run a large convolution on; None to run it whole."""
    total = sum(_num_bytes(x) for x in args if isinstance(x, Tensor))
    position = _input_position(func)
    if total <= _MAX_BYTES or "convolution" not in str(func) or args[position + 6]:
        return None  # small, or a transposed one
    x = args[position]
    if x.dim() < 4:
        return None
    kernel = args[position + 1].shape[_ROWS]
    rows = int(x.shape[_ROWS] * _MAX_BYTES / total) // 16 * 16
    return max(32, rows, 4 * kernel) if x.shape[_ROWS] > max(64, 8 * kernel) else None


def _shortened(func: Any, args: Sequence[Any], rows: int) -> list[Any]:
    """The call on fewer rows."""
    position = _input_position(func)
    shortened = list(args)
    shortened[position] = _with_rows(args[position], rows)
    if position == 1:
        stride, padding, dilation = args[4:7]
        reach = dilation[0] * (args[2].shape[_ROWS] - 1) + 1
        shortened[0] = _with_rows(args[0], (rows + 2 * padding[0] - reach) // stride[0] + 1)
    return shortened


def _with_rows(x: Tensor, rows: int) -> Tensor:
    """A map like another one with other rows, in the same memory order."""
    shape = list(x.shape)
    shape[_ROWS] = rows
    is_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if is_last else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)


def _run(func: Any, args: Sequence[Any], device: torch.device) -> int:
    real = [_real(arg, device) for arg in args]
    with torch.no_grad():
        func(*real)
        peak, result = peak_of(lambda: func(*real), device)
    outputs = result if isinstance(result, tuple | list) else (result,)
    return max(0, peak - sum(x.untyped_storage().nbytes() for x in outputs if isinstance(x, Tensor)))


def _real(arg: Any, device: torch.device) -> Any:
    if not isinstance(arg, Tensor):
        return arg
    x = torch.empty_strided(arg.shape, arg.stride(), dtype=arg.dtype, device=device)
    return x.normal_() if is_differentiable(x.dtype) else x.zero_()
