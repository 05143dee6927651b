"""The paper's probe, taken literally: average, and count what stays below the maximum.

    all kernels 1/n, biases 0; a tile of ones; count the values below the maximum at each side of every activation, and,
    with ones as the gradient of the result, of every gradient

    conv k3 p1 on a tile of 6:  2/3 1 1 1 1 2/3   forward 1 and 1;   gradient 2/3 1 1 1 1 2/3   backward 1 and 1

The tile is a net input of its own, in one channel; pools average, branches that meet are averaged. The numbers are
smaller than the overlaps of `streamplan.analysis.probe`, which count all positions that the tile touches: a padded
operation run on the tile alone gives a result no larger than the tile, so positions whose place lies outside it do not
appear. Where the probe below holds, it counts those of the overlap that have their place inside the tile.

It breaks, and gives None here or is to be read with care,

- in deep nets: a missing sample lowers an average by 1/n per operation, in all by 1/(n1*n2*...), which rounding hides
  from about 15 operations of three taps in float32 and 32 in float64;
- at joins: averages of branches mix deficits of different depth;
- at transposed convolutions and resizing: averages differ inside the tile too, so they say nothing of its border;
- at reflected and replicated borders: the tile's own samples stand in for those it lacks, nothing stays below;
- with `ceil_mode`: an overhang is low whether the tile or the image ends there;
- in gradients behind strides: samples inside the tile differ by how many windows they lie in, so the count stops at the
  first that lies in most of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from streamplan.analysis.fields import Sides
from streamplan.analysis.regions import StreamedPart
from streamplan.geometry import IDENTITY
from streamplan.rules import Rule, RuleContext

_AVERAGING = ("conv", "max_pool", "avg_pool")
"""Operations whose averages tell their border."""
_TOLERANCE = 1e-12
"""Relative difference that counts as below the maximum; rounding stays under it."""
_LEAST_DEFICIT = 1e-11
"""Deficits may not get smaller."""


def literal_overlaps(
    part: StreamedPart,
    rules: Mapping[str, Rule],
    contexts: Mapping[str, RuleContext],
    axis: int,
    tile_size: int,
) -> dict[str, tuple[Sides, Sides]]:
    """Values below the maximum at each side, in activations and gradients, of all values.

    Returns:
        Nothing where the probe does not apply: operations outside those named above, several input maps, or too deep.
    """
    if len(part.input_maps) > 1 or any(not _applies(name, part, contexts) for name in part.order):
        return {}
    values = _average_forward(part, rules, contexts, axis, tile_size)
    if values is None:
        return {}
    results = [values[name] for name in part.frontier]
    gradients = torch.autograd.grad(results, list(values.values()), [torch.ones_like(r) for r in results])
    return {
        name: (_below(value), _below(gradient))
        for (name, value), gradient in zip(values.items(), gradients, strict=True)
    }


def _applies(name: str, part: StreamedPart, contexts: Mapping[str, RuleContext]) -> bool:
    call = contexts[name].call
    if call.op in _AVERAGING:
        return not call.arguments.get("ceil_mode")
    edges = (edge for edge in part.edges if edge.reader == name)
    return call.op != "pad" and all(axis_map == IDENTITY for edge in edges for axis_map in edge.axis_maps)


def _average_forward(
    part: StreamedPart,
    rules: Mapping[str, Rule],
    contexts: Mapping[str, RuleContext],
    axis: int,
    tile_size: int,
) -> dict[str, Tensor] | None:
    """Activations of the averaging net on a tile of ones; None if it is too deep or the tile too small."""
    (source,) = part.input_maps
    values = {source: torch.ones(1, 1, tile_size, dtype=torch.float64, requires_grad=True)}
    deficits = {source: 1.0}
    for name in part.order:
        branches = []
        for edge in (edge for edge in part.edges if edge.reader == name):
            try:
                counts = rules[name].count_axis(contexts[name], axis, values[edge.source])
                full = float(rules[name].count_axis(contexts[name], axis, torch.ones_like(values[edge.source])).max())
            except RuntimeError:  # the tile is smaller than a kernel
                return None
            branches.append(counts / full if full else counts)
            deficits[name] = min(deficits.get(name, 1.0), deficits[edge.source] / max(full, 1.0))
        deficits[name] /= len(branches)
        if len({branch.shape for branch in branches}) > 1 or deficits[name] < _LEAST_DEFICIT:
            return None
        values[name] = torch.stack(branches).mean(0)
    return values


def _below(values: Tensor) -> Sides:
    """Values below the maximum in a row from either end."""
    reached = (values.detach()[0, 0] >= values.max() * (1 - _TOLERANCE)).int()
    return int(reached.argmax()), int(reached.flip(0).argmax())
