"""What is checked at every call, so that a wrong number is never silent."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from streamplan.dtypes import in_precision, is_differentiable
from streamplan.errors import HookError, InputMismatchError
from streamplan.images import Source
from streamplan.ir import TensorSpec
from streamplan.module.requests import check_tensors
from streamplan.planning import Plan
from streamplan.planning.model import default_device, default_dtype
from streamplan.trace.containers import by_place, leaves
from streamplan.trace.leaves import is_of_torch

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{kind}" for kind in _HOOKS)
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


def check_global_hooks() -> None:
    """Refuse hooks on all modules at once; torch's own, which count, are let be.

    Raises:
        HookError: There is one.
    """
    for kind in _GLOBAL_HOOKS:
        for hook in getattr(torch.nn.modules.module, kind).values():
            if not is_of_torch(getattr(hook, "__func__", hook)):
                raise HookError(
                    "a hook on all modules would not run for those that are streamed",
                    where=f"{getattr(hook, '__module__', '')}.{getattr(hook, '__qualname__', hook)}",
                    why="the streamed program runs the operations of modules tile by tile and calls no module",
                    do="remove the hook while the streamed module runs, or use streamed.disabled()",
                )


def _remedy(hooks: Iterable[object]) -> str:
    """What to do about a hook; of those that torch itself registers, some have a successor without hooks."""
    for hook in hooks:
        if isinstance(hook, prune.BasePruningMethod):
            return f'torch.nn.utils.prune.remove(module, "{hook._tensor_name}") makes what is pruned permanent'
        family, _, name = type(hook).__module__.rpartition(".")
        if family == "torch.nn.utils" and hasattr(parametrizations, name):
            return f"use torch.nn.utils.parametrizations.{name}, which needs no hook"
    return "remove the hook, hook a layer of the resident part, or cut the net before this module"


def check_call(model: nn.Module, plan: Plan, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Compare a call's tensors with the planned ones: places among the arguments, rank, channels, dtype, device.

    Raises:
        InputMismatchError: They do not fit.
    """
    check_tensors((tuple(args), dict(kwargs)))
    planned = _tensors(_by_path(model, plan.arguments.args, plan.arguments.kwargs))
    given = _by_path(model, args, kwargs)
    tensors = _tensors(given)
    _check_places(planned, given, tensors)
    for path, tensor in tensors.items():
        spec = planned[path]
        _check_shape(path, tensor, spec)
        _check_dtype(model, path, tensor, spec)
        device = default_device(model)
        if isinstance(tensor, Source):
            continue
        is_host_image = tensor.device.type == "cpu" and tensor.dim() > 2
        if not is_host_image and tensor.device.type != device.type:
            raise InputMismatchError(
                f"input {path} is on {tensor.device}",
                why=f"the model is on {device}",
                do=f"move the input: x.to({str(device)!r})",
            )


def _by_path(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call gives, by its place among the arguments, however they are given."""
    places = by_place(inspect.signature(model.forward), args, kwargs)
    return {path: x for place, value in places.items() for path, x in leaves(value, place)}


def _tensors(values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: x for path, x in values.items() if isinstance(x, torch.Tensor | Source | TensorSpec)}


def _check_places(planned: Mapping[str, Any], given: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Compare where tensors are given with where they are planned.

    Raises:
        InputMismatchError: One is missing, or there is one more.
    """
    missing = [path for path in planned if path not in tensors]
    more = [path for path in tensors if path not in planned]
    if missing:
        path = missing[0]
        found = f"an object of type {type(given[path]).__name__}" if path in given else "none"
        others = f"; it has tensors that are not planned: {', '.join(more)}" if more else ""
        raise InputMismatchError(
            f"input {path} is missing",
            why=f"the plan has a tensor there, this call has {found}{others}",
            do=_remedy_of_missing(given.get(path)),
        )
    if more:
        raise InputMismatchError(
            f"input {more[0]} is not planned",
            why=f"the plan has {len(planned)} tensor{'' if len(planned) == 1 else 's'}: {', '.join(planned)}",
            do=_CALL,
        )


def _remedy_of_missing(value: Any) -> str:
    """What to do about something in the place of a tensor: arrays are none."""
    if not getattr(value, "shape", None) or not hasattr(value, "dtype"):
        return _CALL
    kind = type(value).__name__
    return f'pass streamplan.Source(array, layout="HWC"), or a tensor made of it, in the place of the {kind}'


def _check_shape(path: str, tensor: torch.Tensor | Source, spec: TensorSpec) -> None:
    shape = tuple(tensor.shape)
    if len(shape) != len(spec.shape):
        raise InputMismatchError(
            f"input {path} has {len(shape)} dimensions: {shape}",
            why=f"the plan is for {len(spec.shape)}: {spec.shape}",
            do=_CALL,
        )
    if len(shape) > 1 and shape[1] != spec.shape[1]:
        raise InputMismatchError(
            f"input {path} has {shape[1]} channels: {shape}",
            why=f"the plan is for {spec.shape[1]}: {spec.shape}",
            do=_CALL,
        )
    if 0 in shape:
        raise InputMismatchError(f"input {path} is empty: {shape}", why="every extent must be at least 1", do=_CALL)


def _check_dtype(model: nn.Module, path: str, tensor: torch.Tensor | Source, spec: TensorSpec) -> None:
    allowed = {spec.dtype, in_precision(spec.dtype, default_dtype(model))}
    if tensor.dtype in allowed or torch.is_autocast_enabled(default_device(model).type):
        return
    raise InputMismatchError(
        f"input {path} is {str(tensor.dtype).removeprefix('torch.')}",
        why=f"the plan is for {str(spec.dtype).removeprefix('torch.')}",
        do=f"convert the input: x.to({spec.dtype})"
        + (f", or compile with dtype={tensor.dtype}" if is_differentiable(tensor.dtype) else ""),
    )


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
