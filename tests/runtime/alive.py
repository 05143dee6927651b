"""Bytes of tensors that are alive at once, without the work space that kernels take, which differs by processor."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of what operations return for as long as it is there.

    Args:
        known: Tensors that were there before, and do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()
        self._num_bytes = 0
        self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor) and result.device.type == "cpu":
                self._add(result.untyped_storage())
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen or storage.data_ptr() in self._known:
            return
        self._seen.add(storage)
        self._num_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._num_bytes)
        weakref.finalize(storage, self._remove, storage.nbytes())

    def _remove(self, num_bytes: int) -> None:
        self._num_bytes -= num_bytes


def alive_bytes(model: torch.nn.Module, step: torch.nn.Module, image: Tensor) -> int:
    """How many bytes a training step, or a forward pass without autograd, adds at most to what was there before."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    with Alive([image, *model.parameters(), *model.buffers(), *gradients]) as alive:
        result = step(image)
        if result.requires_grad:
            result.backward(torch.ones_like(result))
    return alive.peak_bytes
