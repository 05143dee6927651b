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

from streamplan.trace.aten_stream import AtenStream
from streamplan.trace.replay.known_results import META, KnownResults


class MetaStream(AtenStream):  # type: ignore[no-untyped-call]
    """Counts what calls on meta tensors do; tensors that would be made on another device are meta as well."""

    def __init__(self) -> None:
        super().__init__(keeps_calls=False)
        self._known = KnownResults()

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int]:
        return self._known.result(func, args, on_meta(func, args, kwargs), super()._call)


def on_meta(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments with which a call makes its tensors on the meta device."""
    if kwargs.get("device") or (not _has_tensor(args) and _takes_device(func)):
        return {**kwargs, "device": META}
    return kwargs


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
