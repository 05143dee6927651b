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
from dataclasses import dataclass

import torch
from torch import Tensor

from streamplan.analysis.fields import Sides
from streamplan.analysis.regions import EdgeKey, StreamedPart
from streamplan.geometry import IDENTITY
from streamplan.rules import Rule, RuleContext

_AVERAGING = ("conv", "max_pool", "avg_pool")
"""Operations whose averages tell their border."""
_TOLERANCE = 1e-12
"""Relative difference that counts as below the maximum; rounding stays under it."""
_MOST_TAPS = 1e11
"""Product of the taps of all operations on a way, whose inverse is the smallest deficit."""


def literal_overlaps(
    part: StreamedPart,
    rules: Mapping[str, Rule],
    contexts: Mapping[str, RuleContext],
    axis: int,
    tile_size: int,
) -> dict[str, tuple[Sides | None, Sides | None]]:
    """Values below the maximum at each side, in activations and gradients, of all values.

    Returns:
        None for a number that rounding would hide, since too many operations lie between. Nothing at all where the
        probe does not apply: operations outside those named above, or several input maps.
    """
    if len(part.input_maps) > 1 or any(not _applies(name, part, contexts) for name in part.order):
        return {}
    averages = _average_forward(part, rules, contexts, axis, tile_size)
    if averages is None:
        return {}
    values, taps = averages.values, averages.taps
    results = [values[name] for name in part.frontier]
    gradients = torch.autograd.grad(results, list(values.values()), [torch.ones_like(r) for r in results])
    before, after = _products(part, taps)
    return {
        name: (
            _below(value) if before[name] < _MOST_TAPS else None,
            _below(gradient) if after[name] < _MOST_TAPS else None,
        )
        for (name, value), gradient in zip(values.items(), gradients, strict=True)
    }


@dataclass(frozen=True)
class _Averages:
    """The averaging net on a tile of ones."""

    values: dict[str, Tensor]
    taps: dict[EdgeKey, float]
    """What each edge divides by, the number of branches included."""


def _products(part: StreamedPart, taps: Mapping[EdgeKey, float]) -> tuple[dict[str, float], dict[str, float]]:
    """Of each value, the largest product of taps between it and the image, and between it and the cut."""
    before, after = dict.fromkeys(part.input_maps, 1.0), dict.fromkeys(part.frontier, 1.0)
    for edge in part.edges:
        before[edge.reader] = max(before.get(edge.reader, 1.0), before[edge.source] * taps[edge.key])
    for edge in reversed(part.edges):
        after[edge.source] = max(after.get(edge.source, 1.0), after[edge.reader] * taps[edge.key])
    return before, after


def _applies(name: str, part: StreamedPart, contexts: Mapping[str, RuleContext]) -> bool:
    call = contexts[name].call
    if call.op in _AVERAGING:
        return not call.arguments.get("ceil_mode")
    return call.op != "pad" and all(axis_map == IDENTITY for edge in part.reads[name] for axis_map in edge.axis_maps)


def _average_forward(
    part: StreamedPart,
    rules: Mapping[str, Rule],
    contexts: Mapping[str, RuleContext],
    axis: int,
    tile_size: int,
) -> _Averages | None:
    """Activations of the averaging net; None if the tile is smaller than a kernel, or branches that meet differ."""
    (source,) = part.input_maps
    values = {source: torch.ones(1, 1, tile_size, dtype=torch.float64, requires_grad=True)}
    taps = {}
    for name in part.order:
        edges = part.reads[name]
        branches = []
        for edge in edges:
            try:
                counts = rules[name].count_axis(contexts[name], axis, values[edge.source])
                full = float(rules[name].count_axis(contexts[name], axis, torch.ones_like(values[edge.source])).max())
            except RuntimeError:
                return None
            taps[edge.key] = full * len(edges)
            branches.append(counts / full)
        if len({branch.shape for branch in branches}) > 1:
            return None
        values[name] = torch.stack(branches).mean(0)
    return _Averages(values, taps)


def _below(values: Tensor) -> Sides:
    """Values below the maximum in a row from either end."""
    reached = (values.detach()[0, 0] >= values.max() * (1 - _TOLERANCE)).int()
    return int(reached.argmax()), int(reached.flip(0).argmax())
