"""What was received, then what is new.

Autograd would give the gradient of what is handed on the size of the whole, padded with zeros, and add the two; and the
gradient of what was received would be a view that keeps all of it alive until the tile that handed it on is reached.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamplan.geometry import Interval


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, received: Tensor, x: Tensor, dim: int, handed: Interval | None, memory_format: torch.memory_format
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.dim, ctx.num_received, ctx.handed = dim, received.shape[dim], handed
        joined = torch.cat([received, x], dim)
        ctx.like = torch.empty_like(joined, device="meta")
        if handed is None:
            return joined, None
        return joined, joined.narrow(dim, handed.start, handed.size).clone(memory_format=memory_format)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        whole, of_handed = gradients
        if of_handed is not None:
            whole = torch.zeros_like(ctx.like, device=of_handed.device) if whole is None else whole.clone()
            whole.narrow(ctx.dim, ctx.handed.start, ctx.handed.size).add_(of_handed)
        if whole is None:
            return (None,) * 5
        of_received, of_new = whole.tensor_split([ctx.num_received], ctx.dim)
        return of_received.clone(), of_new, None, None, None


def join(
    received: Tensor, x: Tensor, dim: int, handed: Interval | None, memory_format: torch.memory_format
) -> tuple[Tensor, Tensor | None]:
    """Both together, and a copy of what is handed on.

    Args:
        received: Carried samples.
        x: New samples.
        dim: Dimension along which they lie.
        handed: Positions handed on, counted in the result; None if there are none.
        memory_format: Memory order of the copy.
    """
    joined: tuple[Tensor, Tensor | None] = _Join.apply(received, x, dim, handed, memory_format)  # type: ignore[no-untyped-call]
    return joined
