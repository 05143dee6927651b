"""Meta tensors in the place of fake ones: the cheaper of the two ways to execute a graph without data.

A meta tensor knows shape, strides and dtype and nothing of a device, so a call on it costs a tenth of one on a fake
tensor. Whether it tells the same must be found out for each graph (`replay` compares a run of the traced size).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from streamplan.frontend.aten_stream import AtenStream
from streamplan.frontend.known_results import META, KnownResults, call_key

_BATCH_NORM = torch.ops.aten.native_batch_norm.default
_RUNNING_MEAN, _TRAINING = 3, 5


class MetaStream(AtenStream):  # type: ignore[no-untyped-call]
    """Counts what calls on meta tensors do; tensors that would be made on another device are meta as well."""

    def __init__(self) -> None:
        super().__init__(keeps_calls=False)
        self._known = KnownResults()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if only_scales(func, args):
            return scaled(args[0])
        kwargs = on_meta(func, args, kwargs)
        key = call_key(func, args, kwargs)
        known = self._known.find(key)
        if known is not None:
            self.count(func, args, kwargs, known.flops)
            return known.again(args)
        flops = self.flops
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if key is not None:
            self._known.keep(key, args, out, self.flops - flops)
        return out


def on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> dict[str, Any]:
    """Keyword arguments with which a call makes its tensors on the meta device."""
    if (kwargs and kwargs.get("device")) or (not _has_tensor(args) and _takes_device(func)):
        return {**(kwargs or {}), "device": META}
    return kwargs or {}


def scaled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What such a batch norm returns: the map, and no statistics."""
    none = torch.empty(0, dtype=x.dtype, device=x.device)
    return like(x), none, none.clone()


def like(x: torch.Tensor) -> torch.Tensor:
    """A tensor like a meta tensor: what `torch.empty_like` gives, at a thirtieth of its time."""
    return x.clone()


def only_scales(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a call is a batch norm that scales each channel; torch works those out in Python, at length."""
    if func is not _BATCH_NORM:
        return False
    x, mean = args[0], args[_RUNNING_MEAN]
    return not args[_TRAINING] and mean is not None and mean.dtype is x.dtype and mean.shape == x.shape[1:2]


def _has_tensor(args: tuple[Any, ...]) -> bool:
    return any(isinstance(arg, torch.Tensor) for arg in args)


@lru_cache(maxsize=2048)
def _takes_device(func: Any) -> bool:
    return any(argument.name == "device" for argument in func._schema.arguments)


@contextmanager
def tensors_on_meta(root: nn.Module) -> Iterator[None]:
    """Put a meta tensor in the place of each tensor that the modules of a skeleton hold, and undo it.

    They are new ones each time, since calls may write to them and leave a record for gradients.
    """
    twins: dict[int, torch.Tensor] = {}
    changed: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    try:
        for module in root.modules():
            namespaces: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, vars(module))
            for namespace in namespaces:
                for name, value in namespace.items():
                    if isinstance(value, torch.Tensor):
                        changed.append((namespace, name, value))
        for namespace, name, value in changed:
            if id(value) not in twins:
                twins[id(value)] = _on_meta(value)
            namespace[name] = twins[id(value)]
        yield
    finally:
        for namespace, name, value in changed:
            namespace[name] = value


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    twin = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device=META)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin.requires_grad_(tensor.requires_grad)
