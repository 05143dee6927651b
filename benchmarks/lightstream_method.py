"""The training step by lightstream, the implementation of the authors of the method (Pinckaers et al. 2020).

lightstream streams a module of convolutions and pools, of which it makes another one with convolutions of its own. The
rest of the net runs as usual on the map that it returns, and its backward pass is asked for by hand.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from benchmarks.nets import Net
from benchmarks.torchvision_schemas import define_missing_schemas


def prepare_lightstream(
    net: Net, tile_size: Any, device: str
) -> tuple[Callable[[Tensor], None], dict[str, nn.Parameter], dict[str, Any]]:
    """Convert the body of a net.

    Args:
        net: The plain net; its body is taken apart, its head stays as it is.
        tile_size: Extent of the square tiles, all that a tile reads.
        device: Where it will run.

    Returns:
        The step, the parameters that get gradients, named as in the plain net, and notes.

    Raises:
        ImportError: lightstream, or the package lightning that its wheel forgets to ask for, is not installed.
    """
    define_missing_schemas()
    from lightstream.core.constructor import StreamingConstructor  # noqa: PLC0415 - an optional package

    constructor = StreamingConstructor(
        net.body,
        tile_size,
        verbose=False,
        statistics_on_cpu=True,
        normalize_on_gpu=False,
        add_keep_modules=[nn.BatchNorm2d],
    )
    if device == "cpu":
        # With True the statistics, once gathered, are followed by a call of `.cuda()`; the constructor itself refuses
        # False without a GPU, so it is told only now.
        constructor.statistics_on_cpu = False
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress, in which a worker's result would drown
        streaming = constructor.prepare_streaming_model()
    is_training = net.training
    streaming.stream_module.eval()
    net.head.train(is_training)

    def run(image: Tensor) -> None:
        cut_map = streaming(image)
        cut_map.requires_grad_()
        net.head(cut_map).square().mean().backward()
        streaming.backward(image, cut_map.grad)

    parameters = {f"body.{name}": parameter for name, parameter in streaming.stream_module.named_parameters()}
    parameters |= {f"head.{name}": parameter for name, parameter in net.head.named_parameters()}
    return run, parameters, {}
