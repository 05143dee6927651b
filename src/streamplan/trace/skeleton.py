"""The skeleton: a copy of the user's model that has all its structure and none of its data.

In: a model on any device, meta included. Out: a deep copy in which every parameter, buffer and other tensor is a fake
tensor (shape, dtype, device, no memory), with the path of each. The model may do anything to itself while it is
traced (cache a grid, count calls, set attributes); it does it to the skeleton, never to the user's object, and a
model too large for this machine can be traced as well.

`copying` does the copying; its memo is filled beforehand with one fake per tensor, so it meets no real tensor,
and a tensor reachable on two paths (tied weights) stays one tensor. The user's hooks are left out: they would fire on
fake tensors, into lists the user holds. Hooks of `torch.nn.utils` stay: the older weight_norm computes its weight in
one.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from streamplan.errors import TracingError
from streamplan.trace.copying import TABLES, check_apart, copy_modules
from streamplan.trace.script import OwnedRef

_ANY_MOMENTUM = 0.0
"""Of a BatchNorm that counts its batches instead, which takes data: a momentum changes neither shapes nor calls."""
_HOOK_DICTS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A model of fake tensors, and where they are."""

    root: nn.Module
    """The copy."""
    tensor_paths: dict[int, str]
    """`id` of each fake tensor to its attribute path; the first path for tied tensors."""
    tensors: dict[str, torch.Tensor]
    """Attribute path to fake tensor, for the same paths."""
    references: dict[int, OwnedRef]
    """`id` of each fake tensor to what stands for it in a script."""
    settings: dict[int, tuple[list[Any], Any]] = field(default_factory=dict)
    """`id` of modules that were called as one to what they held then, and the token of that in scripts."""


def make_skeleton(
    model: nn.Module, fake_mode: AbstractContextManager[Any], device: torch.device | None = None
) -> Skeleton:
    """Copy a model without its data.

    Args:
        model: The user's model; only read.
        fake_mode: Mode the fake tensors belong to; without one they are ordinary tensors.
        device: Device of all fake tensors; None keeps each tensor's own, with cpu instead of meta.

    Returns:
        The skeleton.

    Raises:
        TracingError: The model cannot be deep-copied, or has parameters that are not initialised yet.
    """
    return copy_with(model, make_fakes(model, fake_mode, device))


def make_fakes(
    model: nn.Module, fake_mode: AbstractContextManager[Any], device: torch.device | None = None
) -> dict[int, torch.Tensor]:
    """A fake tensor for each tensor of a model, by the `id` of the latter.

    Raises:
        TracingError: The model has parameters that are not initialised yet.
    """
    tensors = {id(tensor): (path, tensor) for path, tensor in walk_tensors(model)}
    return {key: fake_like(path, tensor, fake_mode, device) for key, (path, tensor) in tensors.items()}


def meta_skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model on the meta device: operations run on it, and no tensor has data."""
    return make_skeleton(model, nullcontext(), torch.device("meta")).root


def copy_skeleton(skeleton: Skeleton) -> Skeleton:
    """Copy a skeleton's modules; its fake tensors are shared with the copy."""
    return copy_with(skeleton.root, {id(tensor): tensor for _, tensor in walk_tensors(skeleton.root)})


def fake_like(
    path: str, tensor: torch.Tensor, fake_mode: AbstractContextManager[Any], device: torch.device | None
) -> torch.Tensor:
    """Fake tensor with the metadata of a real one, itself a parameter if the real one is.

    Nothing is read from the tensor's storage, so results of autograd and meta tensors do as well.

    Raises:
        TracingError: The tensor is an uninitialised parameter of a lazy module.
    """
    if nn.parameter.is_lazy(tensor):
        raise TracingError(
            "a lazy module has parameters without a shape",
            where=path,
            why="its parameters get their shapes in the first call",
            do="call the model once on a small input before compiling it",
        )
    target = device or (torch.device("cpu") if tensor.device.type == "meta" else tensor.device)
    with fake_mode:
        if tensor.layout is torch.strided:
            fake = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device=target)
        else:
            fake = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device=target)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(fake, requires_grad=tensor.requires_grad)
        return fake.requires_grad_() if tensor.requires_grad else fake


def walk_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors the model's modules hold, with their paths; a tied one on each of its paths."""
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None:
                yield dot + name, value
        for name, value in vars(module).items():
            if name not in TABLES:
                yield from _walk_value(dot + name, value)


def _walk_value(path: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk_value(f"{path}[{key!r}]", item)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            yield from _walk_value(f"{path}[{index}]", item)


def copy_with(model: nn.Module, replaced: Mapping[int, Any]) -> Skeleton:
    """Copy a model's modules, with other objects in the place of some.

    Args:
        model: The model, or a skeleton of it.
        replaced: What to put in the place of objects, by their `id`: all tensors at least.

    Raises:
        TracingError: The model cannot be deep-copied.
    """
    memo: dict[int, Any] = dict(replaced)
    try:
        root = copy_modules(model, memo)
    except TracingError:
        raise
    except Exception as error:
        raise _copy_error(model, replaced, error) from error
    for module in root.modules():
        _drop_user_hooks(module)
        if isinstance(module, _BatchNorm) and module.momentum is None:
            module.momentum = _ANY_MOMENTUM
    check_apart(model, root)
    tensors: dict[str, torch.Tensor] = {}
    tensor_paths: dict[int, str] = {}
    for path, tensor in walk_tensors(root):
        if id(tensor) not in tensor_paths:
            tensor_paths[id(tensor)] = path
            tensors[path] = tensor
    references = {id(x): OwnedRef(path, tuple(x.shape), x.dtype) for path, x in tensors.items()}
    return Skeleton(root, tensor_paths, tensors, references)


def _copy_error(model: nn.Module, replaced: Mapping[int, Any], error: Exception) -> TracingError:
    """Name the attribute that refuses to be copied."""
    where = type(model).__name__
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name == "_modules":
                continue
            try:
                copy.deepcopy(value, dict(replaced))
            except Exception:  # noqa: BLE001 - an object may fail to be copied in any way
                where = f"{path or 'the model itself'} ({type(module).__name__}), attribute {name}"
                break
    return TracingError(
        "the model cannot be copied",
        where=where,
        why=f"{type(error).__name__}: {error}",
        do="give the module a __deepcopy__, or set the attribute after compiling",
    )


def _drop_user_hooks(module: nn.Module) -> None:
    for name in _HOOK_DICTS:
        hooks = vars(module).get(name)
        if hooks:
            kept = {key: hook for key, hook in hooks.items() if _is_torch_hook(hook)}
            vars(module)[name] = OrderedDict(kept)


def _is_torch_hook(hook: Any) -> bool:
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return bool(module.startswith("torch.nn.utils"))
