"""A source as one tensor, for the plain net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamplan.images.source import Source


def whole_tensor(source: Source, device: torch.device) -> Tensor:
    """All of an image, whose gradient goes where the source's does.

    Args:
        source: The image.
        device: Where the tensor is to be.
    """
    x = source.read(()).to(device)
    return x if source.anchor is None else _WithGradient.apply(x, source.anchor, source)  # type: ignore[no-untyped-call]


class _WithGradient(torch.autograd.Function):
    """The identity on an image, whose gradient goes where its source's does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor, source: Source) -> Tensor:
        ctx.source = source
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        ctx.source.add_gradient((), *gradients)
        return None, None, None
