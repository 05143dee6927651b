"""`init.lsuv_`: weights that give the output of every layer unit variance, channel by channel, on given images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from streamplan.checks import check_flag, check_instance, shown
from streamplan.errors import InitialisationError, OptionError
from streamplan.features.batches import check_batches, check_streamed
from streamplan.features.initialisation_report import InitialisationReport, LayerInitialisation
from streamplan.features.layer_outputs import LayerOutput
from streamplan.features.layers import Layer, find_layers
from streamplan.module.streamed import plain_model
from streamplan.module.streamed_module import StreamedModule
from streamplan.runtime import Moments

_ROUNDINGS = 8
"""A standard deviation of less than so many roundings of the mean, in the dtype of the weight, is none."""
_MAX_NAMED = 8
"""Channels named in an error."""


def lsuv_(
    streamed: StreamedModule,
    batches: Iterable[Any],
    *,
    tol: float = 0.01,
    max_iter: int = 10,
    orthogonal: bool = True,
    generator: torch.Generator | None = None,
) -> InitialisationReport:
    """Initialise a model by layer-sequential unit variance (LSUV), per output channel.

    All convolutions and linear layers first get orthonormal weights. Then, layer after layer in the order of execution,
    the weights of each output channel are divided by the standard deviation of that channel over all positions of all
    images, until its variance is 1. Streamed layers are measured tile by tile, by a forward pass that ends at the
    layer; resident ones by a whole forward pass each. A layer takes two passes, one to measure and one to check, or
    more where scaling its weights does not scale its output alike (a layer that is called twice, dropout).

    Biases, affine parameters of norms and weights that require no gradient stay as they are, and so does what the model
    computes from parameters without a layer of torch (`F.conv2d` with a weight of its own). Modules that share a weight
    are one layer at the place of the first, and the outputs of all calls count together.

    The model is in the mode (`train` or `eval`) it was put in. Buffers are as before afterwards. If the call fails, so
    are the weights.

    Args:
        streamed: What `streamplan.compile` returned. Its model is changed in place.
        batches: Images, as for `streamplan.activation_statistics`. They are gone through once for each pass, so they
            cannot be an iterator.
        tol: How far from 1 a variance may be.
        max_iter: How often the weights of a layer are scaled at most.
        orthogonal: Whether layers get orthonormal weights first; else the weights they have are scaled.
        generator: Draws the orthonormal weights; None takes torch's own.

    Returns:
        What was done to each layer; `is_converged` says whether all variances are within the tolerance.

    Raises:
        ModelTypeError: `streamed` is not a streamed module.
        BatchesError: `batches` is not a series of images, is an iterator, or is empty.
        OptionError: `tol` or `max_iter` is not a positive number.
        InitialisationError: A channel is constant or not finite, or a weight is computed from other tensors.
        InputMismatchError, HookError, SourceError, OutOfMemoryError: As for a call of the streamed module.

    Source: Mishkin and Matas, "All you need is a good init", 2016; per channel after Krähenbühl, Doersch, Donahue and
    Darrell, "Data-dependent initializations of convolutional neural networks", 2016; in a streamed net after Pinckaers,
    van Ginneken and Litjens, 2020.
    """
    module = check_streamed(streamed)
    check_batches(batches, is_repeated=True)
    _check_options(tol, max_iter)
    check_flag("orthogonal", orthogonal)
    if generator is not None:
        check_instance("generator", generator, torch.Generator, "pass torch.Generator(), or None for torch's own")
    layers = find_layers(plain_model(module), module._planned_executable())
    with torch.no_grad(), _undone_on_failure(module, layers):
        if orthogonal:
            for layer in layers:
                layer.draw_orthogonal_(generator)
        done = [_initialise(layer, LayerOutput(module, layer), batches, tol, max_iter) for layer in layers]
    return InitialisationReport(tuple(done))


def _initialise(
    layer: Layer, output: LayerOutput, batches: Iterable[Any], tol: float, max_iter: int
) -> LayerInitialisation:
    """Scale the weights of one layer until its output has unit variance."""
    first = moments = output.moments(batches)
    num_scaled = 0
    while not _has_unit_variance(moments, tol) and num_scaled < max_iter:
        _check_varies(layer, moments)
        layer.divide_(moments.std)
        num_scaled += 1
        moments = output.moments(batches)
    is_converged = _has_unit_variance(moments, tol)
    return LayerInitialisation(
        layer.name, layer.kind, layer.is_streamed, first.std, moments.std, num_scaled + 1, is_converged
    )


def _has_unit_variance(moments: Moments, tol: float) -> bool:
    return bool(((moments.variance - 1).abs() <= tol).all())


def _check_varies(layer: Layer, moments: Moments) -> None:
    """Refuse channels whose standard deviation cannot be divided by.

    Raises:
        InitialisationError: There are some.
    """
    std, noise = moments.std, _ROUNDINGS * torch.finfo(layer.weight.dtype).eps * moments.mean.abs()
    where = f"{layer.name} ({layer.kind})"
    not_finite = _numbers(~std.isfinite())
    if not_finite:
        raise InitialisationError(
            f"the output of a layer is not finite: {_named(not_finite)}",
            where=where,
            why="an image or a parameter before it holds infinity or nan, or a value overflowed",
            do="look at the images and at the statistics of the layers before it: streamplan.activation_statistics",
            channels=not_finite,
        )
    constant = _numbers(std <= noise)
    if constant:
        raise InitialisationError(
            f"the output of a layer is constant: {_named(constant)} of {std.numel()}",
            where=where,
            why=f"over {moments.count} positions the standard deviation is 0, so no factor makes it 1",
            do="pass more or more varied images; or see whether ReLUs before it let nothing through, or weights are 0",
            channels=constant,
        )


def _numbers(is_wrong: Tensor) -> tuple[int, ...]:
    return tuple(is_wrong.nonzero().flatten().tolist())


def _named(channels: tuple[int, ...]) -> str:
    names = ", ".join(map(str, channels[:_MAX_NAMED]))
    more = f" and {len(channels) - _MAX_NAMED} more" if len(channels) > _MAX_NAMED else ""
    return f"channel{'s' if len(channels) > 1 else ''} {names}{more}"


def _check_options(tol: Any, max_iter: Any) -> None:
    if isinstance(tol, bool) or not isinstance(tol, int | float) or not 0 < tol < 1:
        raise OptionError(
            f"tol={shown(tol)} is not a tolerance",
            why="a variance may be so far from 1; it is greater than 0 and less than 1",
            do="pass 0.01, say",
        )
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise OptionError(
            f"max_iter={shown(max_iter)} is not a number of times",
            why="the weights of a layer are scaled so often at most",
            do="pass an integer from 1 on; 10 is the default",
        )


@contextmanager
def _undone_on_failure(streamed: StreamedModule, layers: Iterable[Layer]) -> Iterator[None]:
    """Restore the weights if the `with` block fails, and buffers in any case."""
    weights = [(layer.weight, layer.weight.clone()) for layer in layers]
    buffers = [(buffer, buffer.clone()) for buffer in plain_model(streamed).buffers()]
    try:
        yield
    except BaseException:
        for weight, before in weights:
            weight.copy_(before)
        raise
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
