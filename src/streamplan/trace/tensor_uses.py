"""Uses of a tensor that are not computations: which torch functions, methods and properties only read its metadata.

x.shape, x.size(2), x.dim(), x.dtype     read, answered at once
x.T, x.data                              properties, but new tensors: computed
x.register_hook(f), x.backward()         would act on a value that exists only while tracing: refused
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import is_tensor_method_or_property

METADATA_METHODS = frozenset(
    {"size", "dim", "ndimension", "stride", "numel", "nelement", "is_contiguous", "element_size", "get_device"}
    | {"is_floating_point", "is_complex", "is_signed", "storage_offset", "is_inference", "__len__"}
)
"""Methods that return numbers or flags known without data."""

_OF_SIZES = frozenset(
    {"shape", "size", "ndim", "dim", "ndimension", "numel", "nelement", "__len__", "device", "layout"}
)
"""Those, and properties, that every run on inputs of the same sizes answers alike."""

TENSOR_PROPERTIES = frozenset({"T", "mT", "H", "mH", "real", "imag", "data", "grad"})
"""Properties that are tensors themselves."""

REFUSED_METHODS = frozenset(
    {"register_hook", "retain_grad", "register_post_accumulate_grad_hook", "backward", "detach_", "module_load"}
)
"""Methods whose effect a graph cannot express."""

VALUE_METHODS = frozenset({"numpy", "__array__", "__dlpack__", "data_ptr"})
"""Methods that hand a tensor's memory to other code."""

_MIN_SPATIAL_RANK = 3
_FIRST_SPATIAL_DIM = 2


def depends_on_sizes_alone(name: str) -> bool:
    """Whether what a read tells is the same in every run on inputs of the same sizes."""
    return name in _OF_SIZES


def is_mark(func: Any) -> bool:
    """Whether a torch function computes nothing: it marks a range for a profile, or switches gradients on or off.

    The switches are compared at each call, so that switching them is no use of a tensor.
    """
    return func is torch._C._set_grad_enabled or getattr(func, "__module__", "") == "torch._ops.profiler"


def is_tensor_method(func: Any, name: str) -> bool:
    """Whether a torch function is a method of `torch.Tensor`."""
    return bool(is_tensor_method_or_property(func)) or getattr(torch.Tensor, name, None) is func


def property_name(getter: Any) -> str:
    """Name of the property behind a `__get__` handed to a torch function mode."""
    descriptor = getter.__self__
    name = getattr(descriptor, "__name__", None) or descriptor.fget.__name__
    return str(name)


def reads_spatial_size(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int) -> bool:
    """Whether reading `shape`, or calling a metadata method, of a tensor of this rank may tell a spatial extent."""
    if rank < _MIN_SPATIAL_RANK:
        return False
    if name == "size":
        dim = args[0] if args else kwargs.get("dim")
        return not isinstance(dim, int) or dim % rank >= _FIRST_SPATIAL_DIM
    return name in ("shape", "numel", "nelement")
