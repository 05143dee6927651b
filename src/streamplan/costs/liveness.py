"""How many bytes of tensors are alive while code runs without data.

Tensors on the meta device have shapes and storages of their own but no memory. Every operation passes through a
dispatch mode, which notes each storage when it is first seen and when it goes: autograd's saved tensors and gradients
included.

    x = torch.empty(1000, device="meta")       4,000
    y = x * 2                                  8,000
    del x                                      4,000     the peak stays 8,000
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from streamplan.trace.replay.known_results import KnownResults
from streamplan.trace.replay.meta_run import on_meta

Reserve = Callable[[Any, tuple[Any, ...]], int]
"""Bytes that a call of an operation takes besides its tensors, from the operation and its arguments."""


class LiveBytes(TorchDispatchMode):
    """Counts storages that come into being inside the `with` block; those that were there before do not count.

    What goes after the block is not noticed, and nothing is kept alive by then.
    """

    def __init__(
        self, reserve: Reserve | None = None, known: Iterable[Tensor] = (), results: KnownResults | None = None
    ) -> None:
        """Begin with nothing.

        Args:
            reserve: What operations take besides their tensors.
            known: Tensors that are there already.
            results: What calls gave in runs before; those of this one are added.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._reserve = reserve
        self._results = KnownResults() if results is None else results
        self._known = {x.untyped_storage()._cdata for x in known}
        self._held = list(known)  # else an address could be used again
        self._alive: dict[int, tuple[weakref.ref[Any], int]] = {}
        self.current_bytes = 0
        self.peak_bytes = 0
        """Of tensors alone."""
        self.peak_with_reserve = 0
        """With what operations take besides."""
        self._at_peak: tuple[Any, Any] | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out, _ = self._results.result(func, args, on_meta(func, args, kwargs or {}), _call)
        for leaf in (out,) if isinstance(out, Tensor) else pytree.tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        self.peak_bytes = max(self.peak_bytes, self.current_bytes)
        extra = self._reserve(func, args) if self._reserve is not None else 0
        if self.current_bytes + extra > self.peak_with_reserve:
            self.peak_with_reserve, self._at_peak = self.current_bytes + extra, (func, _first_shape(out))
        return out

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._alive.clear()  # a storage may outlive the block; what was held for it may in turn hold the storage
        self._held.clear()

    @property
    def peak_operation(self) -> str:
        """The operation that ran when most was alive, with the shape of what it computed."""
        if self._at_peak is None:
            return ""
        func, shape = self._at_peak
        return f"{func.overloadpacket.__name__} of {tuple(shape)}"

    def _see(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key = storage._cdata
        if key not in self._alive and key not in self._known:
            self._alive[key] = weakref.ref(storage, lambda _: self._forget(key)), storage.nbytes()
            self.current_bytes += storage.nbytes()

    def _forget(self, key: int) -> None:
        self.current_bytes -= self._alive.pop(key)[1]


def _call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int]:
    """Make a call; its result, and no floating-point operations, which are not counted."""
    return in_device_order(func, args, func(*args, **kwargs)), 0


def in_device_order(func: Any, args: tuple[Any, ...], out: Any) -> Any:
    """Results of a convolution in the memory order that they have on a device.

    Without data they are contiguous; on a device they are in channels-last order if the map or the weight is.
    """
    if func not in _CONVOLUTIONS or not any(
        isinstance(x, Tensor) and suggest_memory_format(x) in _LAST for x in args[:3]
    ):
        return out
    results = out if isinstance(out, tuple | list) else (out,)
    ordered = [_empty_last(x) if isinstance(x, Tensor) and x.dim() in (4, 5) else x for x in results]
    return type(out)(ordered) if isinstance(out, tuple | list) else ordered[0]


def _empty_last(x: Tensor) -> Tensor:
    order = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=order)


_CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)
_LAST = (torch.channels_last, torch.channels_last_3d)


def _first_shape(out: Any) -> Any:
    leaves = (out,) if isinstance(out, Tensor) else pytree.tree_leaves(out)
    return next((leaf.shape for leaf in leaves if isinstance(leaf, Tensor)), ())
