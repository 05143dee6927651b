"""From what the user passes to what planning takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from streamplan.errors import InputMismatchError, InputSizeError, ModelTypeError, OptionError
from streamplan.frontend.leaves import is_compiled
from streamplan.images import Source
from streamplan.options import ImagePlacement
from streamplan.planning.arguments import CallArguments
from streamplan.planning.model import default_dtype

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
    if getattr(model, "is_streamed", False):
        raise ModelTypeError(
            "the model is streamed already",
            why="a StreamedModule runs its model tile by tile; .plan is its plan",
            do="pass the plain model; plan_for(size) plans another image size",
        )
    if isinstance(model, nn.Module) and not is_compiled(model):
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


def resolve_arguments(
    model: nn.Module, input_size: Any, example_inputs: Any, dtype: torch.dtype | None
) -> CallArguments:
    """The call to plan for, from a size or from example inputs.

    Raises:
        InputSizeError: Neither or both are given, or the size is malformed or of the wrong rank.
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise OptionError(
            f"dtype={dtype!r} is not a dtype", why="it must be a torch.dtype", do="pass torch.float32, say"
        )
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
    leaves = [x for x in pytree.tree_leaves(example_inputs) if isinstance(x, torch.Tensor | Source)]
    images = [x for x in leaves if len(x.shape) >= 3]
    is_gpu = device is not None and str(device).startswith("cuda")
    is_away = any(isinstance(x, Source) or (is_gpu and x.device.type == "cpu") for x in images[:1])
    return "host" if is_away else "device"
