"""What is checked at every call, so that a wrong number is never silent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from streamplan.api.executable import tensors_in_order
from streamplan.errors import HookError, InputMismatchError
from streamplan.images import Source
from streamplan.ir import TensorSpec
from streamplan.planning import Plan
from streamplan.planning.model import default_device, default_dtype

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CALL = "call the streamed module with inputs like those it was compiled for"


def check_hooks(model: nn.Module, resident_modules: frozenset[str], streamed_modules: frozenset[str]) -> None:
    """Refuse hooks on modules that the streamed module never calls.

    Args:
        model: The model.
        resident_modules: Paths of the layers that the resident part calls; what is inside them is run by them.
        streamed_modules: Paths of the modules that are streamed, and of those around them.

    Raises:
        HookError: A module that is streamed, or whose calls were traced into, carries a hook.
    """
    inside = tuple(f"{path}." for path in resident_modules)
    for path, module in model.named_modules():
        if path in resident_modules or path.startswith(inside):
            continue
        kinds = [kind for kind in _HOOKS if getattr(module, kind)]
        if kinds:
            kind = kinds[0].strip("_").replace("_", " ").removesuffix("s")
            raise HookError(
                f"a {kind} would never run",
                where=f"{path or 'the model itself'} ({type(module).__name__})",
                why="this module's calls are part of the streamed program, which runs its operations tile by tile"
                if path in streamed_modules
                else "the resident part calls the layers inside this module, not the module",
                do=_remedy(getattr(module, kinds[0]).values()),
            )


def _remedy(hooks: Iterable[object]) -> str:
    """What to do about a hook; torch's own weight_norm and spectral_norm of old have a successor without hooks."""
    for hook in hooks:
        family, _, name = type(hook).__module__.rpartition(".")
        if family == "torch.nn.utils":
            return f"use torch.nn.utils.parametrizations.{name}, which needs no hook"
    return "remove the hook, hook a layer of the resident part, or cut the net before this module"


def check_call(model: nn.Module, plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Compare a call's tensors with the planned ones: number, rank, channels, dtype, device.

    Raises:
        InputMismatchError: They do not fit.
    """
    tensors = tensors_in_order(args, kwargs)
    planned = list(plan.arguments.specs())
    if len(tensors) != len(planned):
        raise InputMismatchError(
            f"{len(tensors)} tensors are given",
            why=f"the plan is for {len(planned)}",
            do=_remedy_of_number(args, kwargs),
        )
    for index, (tensor, spec) in enumerate(zip(tensors, planned, strict=True)):
        _check_shape(index, tensor, spec)
        _check_dtype(model, index, tensor, spec)
        device = default_device(model)
        if isinstance(tensor, Source):
            continue
        is_host_image = tensor.device.type == "cpu" and tensor.dim() > 2
        if not is_host_image and tensor.device.type != device.type:
            raise InputMismatchError(
                f"input {index} is on {tensor.device}",
                why=f"the model is on {device}",
                do=f"move the input: x.to({str(device)!r})",
            )


def _remedy_of_number(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What to do about another number of tensors: arrays are none."""
    leaves = pytree.tree_leaves((tuple(args), dict(kwargs)))
    arrays = [
        x
        for x in leaves
        if not isinstance(x, torch.Tensor | Source) and getattr(x, "shape", None) and hasattr(x, "dtype")
    ]
    if not arrays:
        return _CALL
    kind = type(arrays[0]).__name__
    return f'pass streamplan.Source(array, layout="HWC"), or a tensor made of it, in the place of the {kind}'


def _check_shape(index: int, tensor: torch.Tensor | Source, spec: TensorSpec) -> None:
    shape = tuple(tensor.shape)
    if len(shape) != len(spec.shape):
        raise InputMismatchError(
            f"input {index} has {len(shape)} dimensions: {shape}",
            why=f"the plan is for {len(spec.shape)}: {spec.shape}",
            do=_CALL,
        )
    if len(shape) > 1 and shape[1] != spec.shape[1]:
        raise InputMismatchError(
            f"input {index} has {shape[1]} channels: {shape}",
            why=f"the plan is for {spec.shape[1]}: {spec.shape}",
            do=_CALL,
        )
    if 0 in shape:
        raise InputMismatchError(f"input {index} is empty: {shape}", why="every extent must be at least 1", do=_CALL)


def _check_dtype(model: nn.Module, index: int, tensor: torch.Tensor | Source, spec: TensorSpec) -> None:
    allowed = {spec.dtype, default_dtype(model)} if spec.dtype.is_floating_point else {spec.dtype}
    if tensor.dtype in allowed or torch.is_autocast_enabled(default_device(model).type):
        return
    raise InputMismatchError(
        f"input {index} is {str(tensor.dtype).removeprefix('torch.')}",
        why=f"the plan is for {str(spec.dtype).removeprefix('torch.')}",
        do=f"convert the input: x.to({spec.dtype})"
        + (f", or compile with dtype={tensor.dtype}" if tensor.dtype.is_floating_point else ""),
    )


def settings_digest(model: nn.Module) -> str:
    """Hash of the classes and the plain attributes of all modules: what a trace takes as constants."""
    digest = hashlib.sha256()
    for path, module in model.named_modules():
        settings = {name: value for name, value in vars(module).items() if _is_plain(value)}
        digest.update(f"{path} {type(module).__qualname__} {settings!r}\n".encode())
    return digest.hexdigest()


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


@contextmanager
def in_modes(model: nn.Module, modes: Mapping[str, bool]) -> Iterator[None]:
    """Put some modules, and them alone, into training or eval mode; restore their flags afterwards.

    Args:
        model: The model.
        modes: Whether a module is to be in training mode, by path; others may be gone.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    modules = [(named[path], is_training) for path, is_training in modes.items() if path in named]
    changed = [(module, is_training) for module, is_training in modules if module.training != is_training]
    for module, is_training in changed:
        module.training = is_training
    try:
        yield
    finally:
        for module, is_training in changed:
            module.training = not is_training
