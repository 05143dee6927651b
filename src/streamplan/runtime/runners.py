"""Ways to run the tiles of a pass: one operation after the other, or as recordings (`graphs`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from streamplan.runtime.joining import Copy
from streamplan.runtime.progress import Progress
from streamplan.runtime.running import Index, Received, TileRun, run_tile
from streamplan.runtime.seeds import Seeds
from streamplan.runtime.segment import Segment
from streamplan.runtime.weights import TileWeights


@dataclass(frozen=True)
class Arrived:
    """Gradients that the backward pass of one tile leaves, besides those of small tensors."""

    regions: Sequence[Tensor | None]
    """Of what it read of the input maps."""
    received: Received
    """Of what it received."""


class TileRunner:
    """Runs tiles one operation after the other.

    Args:
        segment: The segment.
        weights: Its small tensors; what arrives at them adds up there.
    """

    def __init__(self, segment: Segment, weights: TileWeights) -> None:
        self.segment = segment
        self.weights = weights

    def compute(
        self, index: Index, read: Sequence[Tensor], received: Received, wanted: Collection[str] | None, copy: Copy
    ) -> TileRun:
        """Compute a tile; see `run_tile`."""
        return run_tile(self.segment, index, read, self.weights.tensors, received, wanted, copy)

    def differentiate(
        self,
        read: Sequence[Tensor],
        received: Received,
        wanted: Collection[str],
        seeds: Seeds,
        progress: Progress,
    ) -> Arrived:
        """Compute a tile again and run its backward pass.

        Args:
            read: Its regions of the input maps, on the device.
            received: Carried samples.
            wanted: Input maps that need a gradient.
            seeds: What the backward pass starts from.
            progress: Told what is done.
        """
        progress.enter("recomputation", seeds.index)
        run = run_tile(self.segment, seeds.index, read, self.weights.tensors, received, wanted)
        progress.enter("backward", seeds.index)
        return self.go_back(run, seeds)

    def go_back(self, run: TileRun, seeds: Seeds) -> Arrived:
        """Run the backward pass of a computed tile."""
        seeds.backward(self.segment, run, self.weights.tensors)
        received = {key: x.grad for key, x in run.received.items() if x.grad is not None}
        return Arrived([region.grad for region in run.regions], received)

    def finish(self) -> None:
        """A backward pass is over."""
