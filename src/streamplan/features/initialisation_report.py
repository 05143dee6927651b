"""What `streamplan.init.lsuv_` returns: what was done to each layer, and its table."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from streamplan.features.statistics_report import aligned, shortened, spread
from streamplan.printed import Printed


@dataclass(frozen=True, eq=False)
class LayerInitialisation:
    """What was done to one layer."""

    name: str
    """Path of its module; several, if modules share the weight."""
    kind: str
    """Class name of the module."""
    is_streamed: bool
    """Whether all its calls are streamed."""
    std_before: Tensor
    """Standard deviation of every output channel when the layer's turn came, in float64."""
    std: Tensor
    """The same when it was left."""
    num_passes: int
    """Forward passes over all images: one for each time the output was measured."""
    is_converged: bool
    """Whether every channel's variance is within the tolerance of 1."""


@dataclass(frozen=True, eq=False)
class InitialisationReport(Printed):
    """What was done to all layers, in the order of execution; `print` shows a table."""

    layers: tuple[LayerInitialisation, ...]

    @property
    def is_converged(self) -> bool:
        """Whether the output of every layer has unit variance, within the tolerance."""
        return all(layer.is_converged for layer in self.layers)

    @property
    def num_passes(self) -> int:
        """Forward passes over all images, most of which end at the layer that was measured."""
        return sum(layer.num_passes for layer in self.layers)

    def __str__(self) -> str:
        verdict = "unit variance" if self.is_converged else "NOT CONVERGED"
        rows: list[tuple[str, ...]] = [("layer", "kind", "passes", "std before from", "to", "after from", "to", "")]
        rows += [_row(layer) for layer in self.layers]
        return "\n".join([f"{len(self.layers)} layers in {self.num_passes} passes: {verdict}", *aligned(rows)])


def _row(layer: LayerInitialisation) -> tuple[str, ...]:
    mark = "" if layer.is_converged else "not converged"
    before, after = spread(layer.std_before), spread(layer.std)
    return shortened(layer.name), layer.kind, str(layer.num_passes), *before, *after, mark
