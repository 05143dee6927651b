"""`activation_statistics`: mean and standard deviation per channel of everything that tiles compute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from streamplan.errors import BatchesError
from streamplan.features.batches import calls, check_batches, check_streamed
from streamplan.features.observation import Observation, ObservedValue, observable_values
from streamplan.features.statistics_report import ActivationStatistics, ChannelStatistics
from streamplan.module.streamed_module import StreamedModule
from streamplan.runtime import Moments, Pools


def activation_statistics(streamed: StreamedModule, batches: Iterable[Any]) -> ActivationStatistics:
    """Tell mean and standard deviation, per channel, of every streamed activation over any number of images.

    Every position of every image counts once, positions that nothing reads (the last row before a stride of 2) too, so
    that the numbers are those of the plain model's whole activations. One forward pass of the streamed part for each
    image; nothing resident is computed. No activation is ever in memory as a whole.

    Images go through in the mode (`train` or `eval`) the model is in: with dropout in training mode the numbers are
    those of one draw of its masks. Neither parameters nor buffers change.

    Args:
        streamed: What `streamplan.compile` returned.
        batches: Images, of one or of several sizes: tensors or `Source`s with a batch dimension, tuples or lists of a
            model's positional arguments, or dicts of its keyword arguments. It is gone through once.

    Returns:
        Statistics by name, in the order of computation. The output of a layer has the path of its module, with `#1`,
        `#2`, ... behind it if the model calls it more than once; other operations have their name in the plan (`relu`,
        `add_1`). Values that are not floating-point numbers have none.

    Raises:
        ModelTypeError: `streamed` is not a streamed module.
        BatchesError: `batches` is not a series of images, is empty, or an activation has other channels for one image
            than for the others.
        InputMismatchError, HookError, SourceError, OutOfMemoryError: As for a call of the streamed module.
    """
    module = check_streamed(streamed)
    observation, pools = Observation(module), Pools()
    known: dict[str, ObservedValue] = {}
    num_images = 0
    with torch.no_grad():
        for call in calls(module, check_batches(batches)):
            values = observable_values(call.executable)
            found = observation.moments(call, {item.call.name: item.channel_dims for item in values.values()})
            for name, item in values.items():
                _check_channels(name, pools.moments.get(name), found[item.call.name])
                pools.add(name, found[item.call.name])
            known = {**values, **known}
            num_images += next(x for x in call.inputs if x.ndim >= 3).shape[0]
    return ActivationStatistics(
        {name: _statistics(item, pools.moments[name]) for name, item in known.items()}, num_images
    )


def _check_channels(name: str, known: Moments | None, found: Moments) -> None:
    if known is not None and known.mean.shape != found.mean.shape:
        raise BatchesError(
            f"the activation {name} has other channels for this image",
            why=f"they have shape {tuple(found.mean.shape)}, and had {tuple(known.mean.shape)} for the images before",
            do="take the statistics of images of one size at a time",
        )


def _statistics(item: ObservedValue, moments: Moments) -> ChannelStatistics:
    call = item.call
    return ChannelStatistics(moments.mean, moments.std, moments.count, call.name, call.op, call.module_path)
