"""What follows a convolution, in one pass over its result: bias, sum and ReLU.

    out = relu(y + b + z)         dy = dz = dout * (out > 0)         db = sum of dy over batch and positions

torch's own operations take a pass for each of them, and on a GPU the one for the bias is several times slower than the
memory. `epilogue_kernels` does all of it at once there, for channels-last maps in two dimensions; elsewhere, and where
Triton is not installed, torch's operations do.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from torch import Tensor

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def rectify_into(out: Tensor, y: Tensor, bias: Tensor | None, addend: Tensor | None) -> None:
    """Write `relu(y + bias + addend)`; NaN stays NaN, as in torch's ReLU.

    Args:
        out: Where to, in the dtype of the sum; may be `y` itself or part of a larger map.
        y: (batch, channels, axis 0, ...).
        bias: One number per channel, or None.
        addend: As large as `y`, or None.
    """
    kernels = _kernels_for(out, y, *([] if addend is None else [addend]))
    if kernels is not None:
        kernels.rectify(out, y, bias, addend)
        return
    if bias is not None:
        y = torch.add(y, bias.view(-1, *(1,) * (y.dim() - 2)), out=out)
    if addend is not None:
        y = torch.add(y, addend, out=out)
    torch.clamp_min(y, 0, out=out)


def rectified_gradient(gradient: Tensor, out: Tensor, *, wants_sum: bool) -> tuple[Tensor, Tensor | None]:
    """What arrives at the sum, and its own sum per channel if that is wanted.

    Args:
        gradient: Of the result.
        out: The result.
        wants_sum: Whether there is a bias that needs a gradient.
    """
    kernels = _kernels_for(gradient, out)
    if kernels is not None:
        masked, total = kernels.mask(gradient, out, wants_sum=wants_sum)
        return masked, total
    masked = torch.ops.aten.threshold_backward(gradient, out, 0)
    return masked, channel_sum(masked) if wants_sum else None


def channel_sum(x: Tensor) -> Tensor:
    """The sum per channel, added up in float32 at least."""
    dims = [dim for dim in range(x.dim()) if dim != 1]
    return x.sum(dims, dtype=torch.promote_types(x.dtype, torch.float32))


def _kernels_for(*maps: Tensor) -> ModuleType | None:
    """The module of kernels, if they can be run on these maps."""
    first = maps[0]
    if first.device.type != "cuda" or first.numel() == 0:
        return None
    has_channels_last = all(
        x.dim() == 4 and x.dtype in _DTYPES and x.stride(1) == 1 and x.stride(3) == x.shape[1] for x in maps
    )
    return _kernels() if has_channels_last else None


@cache
def _kernels() -> ModuleType | None:
    try:
        import triton  # noqa: F401, PLC0415 - comes with torch for CUDA on Linux, and with nothing else
    except ImportError:
        return None
    from streamplan.runtime.cuda import epilogue_kernels  # noqa: PLC0415

    return epilogue_kernels
