"""From what the user passes to what planning takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from streamplan.checks import check_instance, shown
from streamplan.errors import InputMismatchError, InputSizeError, ModelTypeError, OptionError, StreamPlanError
from streamplan.images import Source
from streamplan.module.streamed import Streamed
from streamplan.options import ImagePlacement
from streamplan.planning import Plan
from streamplan.planning.arguments import CallArguments
from streamplan.planning.model import default_device, default_dtype
from streamplan.trace.containers import leaves
from streamplan.trace.leaves import is_compiled

_CONV_RANKS = {
    rank: tuple(getattr(nn, f"{name}{rank - 2}d") for name in ("Conv", "ConvTranspose", "BatchNorm", "InstanceNorm"))
    for rank in (3, 4, 5)
}
"""Dimensions of the input, batch included, to the layers that take such inputs."""


def check_model(model: object) -> nn.Module:
    """The model, if it is one.

    Raises:
        ModelTypeError: It is not an `nn.Module`, or is one that cannot be taken apart.
    """
    if isinstance(model, Streamed):
        raise ModelTypeError(
            "the model is streamed already",
            why="a StreamedModule runs its model tile by tile; .plan is its plan",
            do="pass the plain model; plan_for(size) plans another image size",
        )
    if isinstance(model, nn.Module) and not is_compiled(model):
        _check_kinds(model)
        return model
    if isinstance(model, nn.Module):
        raise ModelTypeError(
            "the model is compiled by torch.compile as a whole",
            why="that made one program of it, which computes whole maps",
            do="pass the plain model, and compile what stays resident: model.head = torch.compile(model.head)",
        )
    is_class = isinstance(model, type) and issubclass(model, nn.Module)
    raise ModelTypeError(
        f"cannot stream {'the class ' if is_class else 'an object of type '}"
        f"{model.__name__ if isinstance(model, type) else type(model).__name__}",
        why="streamplan compiles instances of torch.nn.Module",
        do="pass an instance: Model()" if is_class else "wrap the computation in an nn.Module",
    )


def _check_kinds(model: nn.Module) -> None:
    """Refuse modules whose code cannot be followed, or whose parameters are not tensors of numbers.

    Raises:
        ModelTypeError: There is one.
    """
    for path, module in model.named_modules():
        known = _kind_of(module)
        if known is not None:
            what, why, do = known
            raise ModelTypeError(
                f"{'a layer of ' if path else ''}the model is {what}",
                where=f"{path or 'the model itself'} ({type(module).__name__})",
                why=why,
                do=do,
            )


def _kind_of(module: nn.Module) -> tuple[str, str, str] | None:
    """What a module is that cannot be streamed, why not, and what to do; None if it can."""
    if isinstance(module, nn.DataParallel):
        return (
            "wrapped in DataParallel",
            "it copies the model to several devices in each call, and a plan is for one",
            "take what it wraps in its place: its attribute .module",
        )
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return (
            "wrapped in DistributedDataParallel",
            "it calls the model it wraps, and what is streamed is the model",
            "compile model.module, and wrap what streamplan.compile returns",
        )
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "a TorchScript program",
            "torch.jit.trace or torch.jit.script made it, and its operations cannot be seen",
            "pass the module it was made from",
        )
    if ".quantized." in f"{type(module).__module__}." and type(module).__module__.startswith("torch.ao."):
        return (
            "quantised",
            "its weights are packed integers, which are not computed by tiles and have no gradients",
            "stream the floating-point model, and quantise what is trained",
        )
    return None


def check_plan(plan: object) -> None:
    """Refuse what is not a plan.

    Raises:
        OptionError: It is something else, such as the text of one.
    """
    do = "Plan.from_json(text)" if isinstance(plan, str | bytes | dict) else "pass what streamplan.plan(...) returned"
    check_instance("plan", plan, Plan, do)


def resolve_device(model: nn.Module, device: Any) -> torch.device:
    """The device to plan for; that of the model if it is None.

    Raises:
        OptionError: It is not a device, or none that torch can compute on here.
    """
    try:
        chosen = default_device(model) if device is None else torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise OptionError(
            f"device={shown(device)} is not a device",
            why="torch does not know it",
            do='pass "cpu", "cuda" or a torch.device',
        ) from error
    if chosen.type == "meta":
        return torch.device("cpu")
    _check_is_there(chosen)
    return chosen


def _check_is_there(device: torch.device) -> None:
    """Refuse what torch cannot compute on here: some of its kernels would end the process."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return  # tracing tells what to do
    try:
        torch.empty(0, device=device)
    except Exception as error:
        first = str(error).strip().splitlines()
        raise OptionError(
            f"device={str(device)!r} is not there",
            why=f"torch says: {first[0] if first else type(error).__name__}",
            do='pass "cpu", or a device of this machine',
        ) from error


def check_tensors(value: Any, kind: type[StreamPlanError] = InputMismatchError) -> None:
    """Refuse tensors that are not an array of numbers in memory.

    Args:
        value: Arguments of a call, in any containers.
        kind: Error to raise.
    """
    for path, item in leaves(value):
        problem = _tensor_problem(item) if isinstance(item, torch.Tensor) else ""
        if problem:
            raise kind(
                f"a tensor is {problem}",
                where=f"argument {path}" if path else "",
                why="tiles are regions of an array that has a number at each position",
                do="convert it: x.to_dense(), x.dequantize(), or x.to_padded_tensor(0)",
            )


def _tensor_problem(tensor: torch.Tensor) -> str:
    """What a tensor is besides an array of numbers; "" if nothing."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return f"of layout {tensor.layout}"
    return f"quantised ({tensor.dtype})" if tensor.is_quantized else ""


def resolve_arguments(
    model: nn.Module, input_size: Any, example_inputs: Any, dtype: torch.dtype | None
) -> CallArguments:
    """The call to plan for, from a size or from example inputs.

    Raises:
        InputSizeError: Neither or both are given, or the size is malformed or of the wrong rank.
    """
    if dtype is not None:
        check_instance("dtype", dtype, torch.dtype, "pass torch.float32, say")
    if (input_size is None) == (example_inputs is None):
        raise InputSizeError(
            "no input size is given" if input_size is None else "both input_size and example_inputs are given",
            why="a plan is made for one size of the image",
            do="pass input_size=(1, 3, 8192, 8192), or example_inputs=(tensor, ...)",
        )
    if example_inputs is not None:
        arguments = _of_examples(model, example_inputs)
    else:
        arguments = CallArguments.of_size(input_size, dtype or default_dtype(model))
    _check_rank(model, arguments)
    return arguments


def bind_call(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a call in the order of `forward`'s signature.

    Raises:
        InputMismatchError: They do not fit the signature.
    """
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputMismatchError(
            f"{type(model).__name__} cannot be called like this",
            why=f"forward{signature}: {error}",
            do="give the arguments that the plain model takes",
        ) from error
    return bound.args, bound.kwargs


def _of_examples(model: nn.Module, example_inputs: Any) -> CallArguments:
    if isinstance(example_inputs, torch.Tensor | Source):
        example_inputs = (example_inputs,)
    if isinstance(example_inputs, Mapping):
        args, kwargs = bind_call(model, (), example_inputs)
    elif isinstance(example_inputs, tuple | list):
        args, kwargs = bind_call(model, tuple(example_inputs), {})
    else:
        raise OptionError(
            f"example_inputs of type {type(example_inputs).__name__} are not inputs",
            why="a plan needs the shapes and dtypes of the tensors that forward takes",
            do="pass a tensor, a tuple of positional arguments, or a dict of keyword arguments",
        )
    check_tensors((args, kwargs))
    return CallArguments.of_tensors(args, kwargs)


def _check_rank(model: nn.Module, arguments: CallArguments) -> None:
    """Compare the image's rank with what the model's convolutions take, if they agree among themselves."""
    ranks = {rank for module in model.modules() for rank, types in _CONV_RANKS.items() if isinstance(module, types)}
    shape = arguments.image.shape
    if len(ranks) != 1 or len(shape) in ranks:
        return
    (rank,) = ranks
    axes = ", ".join(("depth", "height", "width")[5 - rank :]) if rank > 3 else "length"
    raise InputSizeError(
        f"input_size={shape} has {len(shape)} dimensions",
        where=type(model).__name__,
        why=f"its layers take {rank}: batch, channels, {axes}",
        do=f"give the size with batch and channels: (1, {shape[0]}, ...)"
        if len(shape) < rank
        else f"give {rank} numbers",
    )


def cut_option(cut: Any) -> str | tuple[str, ...]:
    """The `cut` argument with a list as a tuple; anything else is checked with the options."""
    return tuple(cut) if isinstance(cut, list) else cut


def image_option(example_inputs: Any, device: Any) -> ImagePlacement:
    """Where the image is: tiles read it region by region if it is a source, or in host memory beside a GPU."""
    check_tensors(example_inputs)
    found = [x for _, x in leaves(example_inputs) if isinstance(x, torch.Tensor | Source)]
    images = [x for x in found if len(x.shape) >= 3]
    is_gpu = isinstance(device, str | torch.device) and str(device).startswith("cuda")
    is_away = any(isinstance(x, Source) or (is_gpu and x.device.type == "cpu") for x in images[:1])
    return "host" if is_away else "device"
