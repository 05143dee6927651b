"""Mean and variance of one layer's output over all images, streamed or resident."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from streamplan.errors import InitialisationError
from streamplan.features.batches import Call, calls
from streamplan.features.layers import Layer, output_values
from streamplan.features.observation import Observation
from streamplan.module.streamed_module import StreamedModule
from streamplan.runtime import Moments, Pools


class LayerOutput:
    """Measures the output of one layer; outputs of several calls are pooled.

    Streamed calls are observed tile by tile, and nothing behind the layer is computed. Resident calls are seen by a
    forward hook while the whole net runs.
    """

    def __init__(self, streamed: StreamedModule, layer: Layer) -> None:
        """Nothing is measured yet."""
        self._streamed = streamed
        self._layer = layer
        self._observation = Observation(streamed)

    def moments(self, batches: Iterable[Any]) -> Moments:
        """Moments per output channel, over all batches."""
        pools = Pools()
        for call in calls(self._streamed, batches):
            self._add(call, pools)
        if not pools.moments:
            raise InitialisationError(
                "a layer was not called for any image",
                where=f"{self._layer.name} ({self._layer.kind})",
                why="the model calls it for the image size that it was compiled for, and for none of these",
                do="pass images of that size, or compile for the size of these",
            )
        return pools.moments[""]

    def _add(self, call: Call, pools: Pools) -> None:
        """Pool the outputs of one call of the model."""
        prepared = call.executable.prepared
        values = list(output_values(self._layer, call.executable))
        streamed = [name for name in values if name in prepared.cut.streamed]
        if streamed:
            ranks = {name: len(prepared.facts.maps[name].shape) for name in streamed}
            dims = {name: (self._layer.channel_dim(rank),) for name, rank in ranks.items()}
            for moments in self._observation.moments(call, dims).values():
                pools.add("", moments)
        if len(streamed) < len(values):
            with _watching(self._layer, lambda moments: pools.add("", moments)):
                model = self._streamed._model
                call.executable.run(model, call.inputs, self._streamed._device(), self._streamed._bar())


@contextmanager
def _watching(layer: Layer, add: Callable[[Moments], None]) -> Iterator[None]:
    """Inside the `with` block, every call of the layer's modules by this thread adds the moments of its output."""
    thread = threading.get_ident()

    def observe(module: nn.Module, args: Any, output: Tensor) -> None:
        if threading.get_ident() != thread:
            return
        x = output.unsqueeze(0)  # so that there is something to pool over without a batch, too
        add(Moments.of(x, (layer.channel_dim(x.dim()),)))

    with ExitStack() as stack:
        for module in layer.modules.values():
            stack.callback(module.register_forward_hook(observe).remove)
        yield
