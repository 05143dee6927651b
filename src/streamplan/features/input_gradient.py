"""The gradient of one output by the image, tile by tile: what saliency maps are made from.

    d s / d x  =  sum over tiles t of (df_t/dx)^T (ds/dp)[R_t]

s is a score, such as that of one class, p the cut, R_t the block of the cut that tile t computes. The sum is the one
that training takes for the parameters, taken for the image x alone. Each tile's share is added where the gradient is
kept: to a tensor, or to an array region by region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from streamplan.checks import shown
from streamplan.dtypes import is_differentiable
from streamplan.errors import InputMismatchError, ModelTypeError, TargetError
from streamplan.images import DifferentiatedSource, Source, gradient_target, in_net_order
from streamplan.module.requests import bind_call, check_tensors
from streamplan.module.streamed import plain_model
from streamplan.module.streamed_module import StreamedModule
from streamplan.planning.arguments import as_integer, is_integer
from streamplan.planning.model import default_dtype

Target = int | Sequence[int] | Tensor | Callable[[Any], Tensor]
"""A class for all images, a class for each image, or a function from what the model returns to a scalar."""


def input_gradient(streamed: StreamedModule, image: Tensor | Source, target: Target, *, out: Any = None) -> Any:
    """The gradient of one output by the image (Simonyan et al., 2013: the image-specific class saliency).

    One forward and one backward pass over the tiles, in the mode (`train` or `eval`) the model is in: call
    `streamed.eval()` first if that is what is meant. Parameters take no part: their `requires_grad` is off while this
    runs and as it was afterwards, so their gradients are neither computed nor changed. No other thread should train the
    model meanwhile.

    An image of integers is differentiated by its samples as floating-point numbers, in the dtype of the model: the
    model gets those numbers, and is planned for them. It must compute from them what it computes from the integers, as
    `x.float() / 255` does.

    Args:
        streamed: What `streamplan.compile` returned, of a model that takes one image.
        image: Of (batch, channels, axis 0, ...), a tensor or a `Source`; a source is read region by region.
        target: What is differentiated. A class, or a sequence of one class for each image of the batch, of an output of
            (batch, classes): the score of that class, summed over the batch, whose images have nothing to do with each
            other in eval mode. Or a function from what the model returns to a scalar tensor.
        out: Where the gradient goes instead of into a new tensor: a floating-point array laid out as the image's own,
            or, if that is a tensor, with or without its batch dimension; or a `Source` that tells another layout. It
            is filled with zeros first. With an image that is a source, each tile adds its share there, so that nothing
            of the size of the image is in memory.

    Returns:
        The gradient, of the image's shape: a tensor on the image's device, in host memory for a source; or `out`.

    Raises:
        ModelTypeError: `streamed` is not a streamed module.
        InputMismatchError: The image is no image, or not one that the module was compiled for.
        TargetError: `target` is not one number per image of what the model returns, or does not depend on the image.
        SourceError: `out` does not fit, or the resident part reads an image that is a source.
    """
    _check(streamed, image)
    score = target if callable(target) else _ClassScore(_classes(target, image.shape[0]), _name(streamed))
    dtype = image.dtype if is_differentiable(image.dtype) else default_dtype(streamed)
    if isinstance(image, Source):
        whole = torch.zeros(image.shape, dtype=dtype) if out is None else None
        target_array = gradient_target(out, image) if whole is None else in_net_order(whole, whole.dim())
        _differentiate(streamed, DifferentiatedSource(image, dtype, target_array), score)
        return out if whole is None else whole
    goal = None if out is None else gradient_target(out, image)
    gradient = _differentiate(streamed, image.detach().to(dtype).requires_grad_(), score)
    if goal is None:
        return gradient
    goal.write((), gradient)
    return out


class _ClassScore:
    """The sum of the scores of one class of each image.

    Args:
        classes: One for each image.
        where: Whose scores they are, for messages.
    """

    def __init__(self, classes: Sequence[int], where: str) -> None:
        self._classes = classes
        self._where = where

    def __call__(self, output: Any) -> Tensor:
        """Of an output of (batch, classes)."""
        if not isinstance(output, Tensor) or output.dim() != 2:
            is_tensor = isinstance(output, Tensor)
            raise TargetError(
                "a class is asked for, and the output has none",
                where=self._where,
                why=f"it is a {f'tensor of {tuple(output.shape)}' if is_tensor else type(output).__name__}; "
                "scores of classes are a tensor of (batch, classes)",
                do="pass a function from the output to a scalar: lambda output: output[:, 1].mean()",
            )
        num_classes = output.shape[1]
        unknown = [index for index in self._classes if not 0 <= index < num_classes]
        if unknown:
            raise TargetError(
                f"there is no class {unknown[0]}",
                where=self._where,
                why=f"the output has {num_classes} classes, from 0 to {num_classes - 1}",
                do="pass one of them",
            )
        return output.gather(1, torch.tensor([self._classes], device=output.device).T).sum()


def _differentiate(streamed: StreamedModule, image: Tensor | Source, score: Callable[[Any], Tensor]) -> Tensor:
    """The gradient of a score by an image, zeros if there is no way to it; that by a source goes where it says."""
    leaf = image.anchor if isinstance(image, Source) else image
    assert leaf is not None
    with torch.inference_mode(mode=False), torch.enable_grad(), _without_parameters(streamed):
        value = score(streamed._call((image,), {}, is_checked=True))
        _check_value(value, _name(streamed))
        (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True, materialize_grads=True)
    return gradient


@contextmanager
def _without_parameters(model: nn.Module) -> Iterator[None]:
    """Let no parameter require a gradient, and restore afterwards which ones do."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_()


def _check(streamed: object, image: object) -> None:
    """Refuse what is no streamed module, no image, or not an image that the module was compiled for.

    Raises:
        ModelTypeError, InputMismatchError: It is not.
    """
    if not isinstance(streamed, StreamedModule):
        raise ModelTypeError(
            f"an object of type {type(streamed).__name__} is not streamed",
            why="the gradient is computed by the tiles of a StreamedModule",
            do="pass what streamplan.compile(model, input_size) returned; of a plain net, use torch.autograd.grad",
        )
    if isinstance(image, Tensor):
        check_tensors(image)
    if not isinstance(image, Tensor | Source):
        raise InputMismatchError(
            f"an object of type {type(image).__name__} is not an image",
            why="an image is a tensor of (batch, channels, axis 0, ...), or a Source",
            do='pass torch.from_numpy(array), or streamplan.Source(array, layout="HWC")',
        )
    streamed._check_call(*bind_call(plain_model(streamed), (image,), {}))


def _classes(target: Any, batch: int) -> list[int]:
    """One class for each image of a batch.

    Raises:
        TargetError: They are not integers, or not as many as images.
    """
    is_array = hasattr(target, "tolist") and not (isinstance(target, Tensor) and _has_no_list(target))
    given = target.tolist() if is_array else target
    classes: list[Any] = (
        [as_integer(index) for index in given] if isinstance(given, list | tuple) else [as_integer(given)] * batch
    )
    if not all(is_integer(index) for index in classes):
        raise TargetError(
            f"target={shown(target)} names no class",
            why="a class is an integer",
            do="pass a class, one class for each image of the batch, or a function from the output to a scalar",
        )
    if len(classes) != batch:
        raise TargetError(
            f"{len(classes)} classes are given",
            why=f"the batch has {batch} image{'' if batch == 1 else 's'}",
            do="pass one class for each image, or one number for all",
        )
    return classes


def _has_no_list(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor cannot be listed: it is on the meta device, quantised, nested or sparse."""
    return tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided


def _name(streamed: StreamedModule) -> str:
    """Class of the model."""
    return type(plain_model(streamed)).__name__


def _check_value(value: Any, where: str) -> None:
    """Refuse what cannot be differentiated.

    Raises:
        TargetError: It is not a scalar, or does not depend on the image.
    """
    is_array = isinstance(value, Tensor) and not _has_no_list(value)
    if not (is_array and value.numel() == 1 and value.is_floating_point()):
        kind = f"tensor of {tuple(value.shape)}, {value.dtype}" if is_array else type(value).__name__
        raise TargetError(
            "what target returned is not one number",
            why=f"it is a {kind}; a gradient is that of a scalar",
            do="reduce it: lambda output: output[:, 1].mean()",
        )
    if not value.requires_grad:
        raise TargetError(
            "what is differentiated does not depend on the image",
            where=where,
            why="it has no graph: a detach(), an argmax, a comparison or a conversion to integers stands before it",
            do="take the scores before that, in target or in the model",
        )
