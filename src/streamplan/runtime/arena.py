"""Memory for what tiles carry: many small tensors that live long, packed into a few large blocks.

Samples that wait for the backward pass are made between the short-lived activations of tiles. Each in an allocation of
its own, they would pin the holes that those leave: with glibc's allocator a process grew to several times the sum of
its tensors. A block is freed when the last tensor in it is; the backward pass takes them in the reverse order, so
blocks are freed one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_LARGEST_BLOCK = 2**26
"""64 MiB, which the allocator takes from the system and gives back whole."""
_SMALLEST_BLOCK = 2**14
_ALIGNMENT = 64


class Arena:
    """Copies tensors into blocks of one device.

    Args:
        num_bytes: Bytes to expect in all; more find place too.
    """

    def __init__(self, num_bytes: int) -> None:
        self._block: Tensor | None = None
        self._used = 0
        self._expected = num_bytes

    def copy(self, x: Tensor, memory_format: torch.memory_format) -> Tensor:
        """A copy of part of a tensor, without gaps."""
        if x.numel() == 0:
            return x.detach().clone(memory_format=memory_format)
        nbytes = x.numel() * x.element_size()
        if self._block is None or self._used + nbytes > self._block.nbytes:
            size = _block_size(self._expected, nbytes)
            self._block, self._used = torch.empty(size, dtype=torch.uint8, device=x.device), 0
        copy = torch.empty(0, dtype=x.dtype, device=x.device)
        strides = _dense_strides(x.shape, memory_format)
        copy.set_(self._block.untyped_storage(), self._used // x.element_size(), x.shape, strides)
        self._used += _aligned(nbytes)
        self._expected -= nbytes
        return copy.copy_(x.detach())


def blocks_for(sizes: Sequence[int], expected: int) -> int:
    """Bytes of the blocks that an arena takes for tensors of these sizes.

    >>> blocks_for([100, 60000, 300], 60400)
    76784
    """
    total = used = block = 0
    for nbytes in sizes:
        if used + nbytes > block or not block:
            block, used = _block_size(expected, nbytes), 0
            total += block
        used += _aligned(nbytes)
        expected -= nbytes
    return total


def _block_size(expected: int, nbytes: int) -> int:
    return max(min(expected, _LARGEST_BLOCK), _SMALLEST_BLOCK, nbytes)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNMENT) * _ALIGNMENT


def _dense_strides(shape: Sequence[int], memory_format: torch.memory_format) -> list[int]:
    """Strides of a tensor without gaps.

    >>> _dense_strides((1, 3, 5, 7), torch.channels_last)
    [105, 1, 21, 3]
    """
    order = [*range(len(shape))]
    if memory_format != torch.contiguous_format:
        order = [0, *order[2:], 1]
    strides, stride = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = stride
        stride *= shape[dim]
    return strides
