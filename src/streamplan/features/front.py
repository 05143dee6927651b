"""`pareto_front`: the plans that no other one beats in both memory and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from streamplan.costs import Search
from streamplan.module.compile import resolve_question


@dataclass(frozen=True)
class ParetoPoint:
    """A plan that could be made, with estimates from shapes."""

    cut: tuple[str, ...]
    """Values that leave the streamed part."""
    tile_size: tuple[int, ...]
    """Input samples."""
    halo: str
    keep_tiles: int
    carries: str
    peak_bytes: int
    """Estimated peak on the device."""
    host_bytes: int
    """Carried samples in host memory."""
    time_ratio: float
    """Estimated time of a training step over that of the plain net."""


def pareto_front(
    model: nn.Module,
    input_size: Any = None,
    *,
    example_inputs: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> tuple[ParetoPoint, ...]:
    """Memory against time over cuts, tile sizes, halo policies and kept tiles.

    Args:
        model: Any `nn.Module`; it may be on the meta device.
        input_size: Size of the image, batch and channels included.
        example_inputs: Instead of `input_size`, as for `compile`.
        dtype: Dtype of the image; None takes that of the model's parameters.
        device: Device to plan for; None takes that of the model's parameters.
        **options: Those of `plan`; what they fix is the same in all points.

    Returns:
        The points, from the fastest, which takes most memory, to the one that takes least. `memory_budget` set to a
        little more than a point's peak makes `plan` choose it, or one that is as good.

    Raises:
        StreamPlanError: As for `plan`.
    """
    question = resolve_question(model, input_size, example_inputs=example_inputs, dtype=dtype, device=device, **options)
    search = Search(question)
    return tuple(
        ParetoPoint(
            cut=point.candidate.cut.frontier,
            tile_size=point.candidate.tile_size,
            halo=point.candidate.halo,
            keep_tiles=point.candidate.keep_tiles,
            carries=point.candidate.carries,
            peak_bytes=point.estimate.peak_bytes,
            host_bytes=point.estimate.host_bytes,
            time_ratio=search.ratio(point.estimate),
        )
        for point in search.front
    )
