"""The small tensors that tiles read, as leaves, and the sums of what arrives at them.

Under autocast, tensors that convolutions and linear layers alone read are narrowed once per pass, rather than once per
tile by autocast itself. Gradients arrive in the narrow dtype, one per tile, and are added up in the tensor's own:

    w (float32) -> leaf (bfloat16) -> tiles          dw (float32) += gradient of a tile (bfloat16)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import Tensor


class TileWeights:
    """Small tensors, ready for the tiles of one forward pass and its backward pass."""

    def __init__(
        self, smalls: Mapping[str, Tensor], wanted: Collection[str], narrowed: Collection[str], device: torch.device
    ) -> None:
        """Make leaves.

        Args:
            smalls: Small tensors by name.
            wanted: Those that need a gradient.
            narrowed: Those that autocast narrows wherever they are read.
            device: Where tiles are computed.
        """
        is_autocast = torch.is_autocast_enabled(device.type)
        self.tensors: dict[str, Tensor] = {}
        """By name, as tiles read them."""
        self.dtypes = {name: x.dtype for name, x in smalls.items()}
        """Those of the gradients."""
        self._sums: dict[str, Tensor] = {}
        for name, x in smalls.items():
            is_narrowed = is_autocast and name in narrowed and x.dtype == torch.float32
            leaf = x.detach().to(torch.get_autocast_dtype(device.type)) if is_narrowed else x.detach()
            if name in wanted:
                leaf.requires_grad_()
                if is_narrowed:
                    leaf.register_post_accumulate_grad_hook(partial(_add, self._sums, name, x.dtype))  # type: ignore[no-untyped-call]
            self.tensors[name] = leaf

    def add(self, name: str, total: Tensor) -> None:
        """Add to the sum what arrived elsewhere; it is copied."""
        arrived, leaf = self.gradient(name), self.tensors[name]
        self._sums[name] = total.clone() if arrived is None else arrived + total
        leaf.grad = None

    def gradient(self, name: str) -> Tensor | None:
        """The sum so far, in the dtype of the tensor; None if nothing has arrived."""
        return self._sums.get(name, self.tensors[name].grad)

    def gradient_or_zeros(self, name: str, x: Tensor) -> Tensor | None:
        """The sum; zeros like `x` if nothing has arrived at a leaf that waits for something."""
        found = self.gradient(name)
        return torch.zeros_like(x) if found is None and self.tensors[name].requires_grad else found


def _add(sums: dict[str, Tensor], name: str, dtype: torch.dtype, leaf: Tensor) -> None:
    """Move a leaf's gradient to the sum; called when it has arrived."""
    gradient, leaf.grad = leaf.grad, None
    assert gradient is not None
    if name in sums:
        sums[name].add_(gradient)
    else:
        sums[name] = gradient.to(dtype)
