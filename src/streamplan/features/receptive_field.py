"""`receptive_field`: what every streamed value reads of the image, found in two independent ways."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from streamplan.analysis.regions import StreamedPart
from streamplan.analysis.unbounded import receptive_fields
from streamplan.checks import check_choice
from streamplan.errors import RuleError, TileSizeError
from streamplan.features.receptive_field_report import Method, ReceptiveFieldReport
from streamplan.features.streamed_fields import StreamedFields
from streamplan.module.compile import resolve_tile_size
from streamplan.module.requests import check_model, cut_option, resolve_arguments, resolve_device
from streamplan.options import BatchNormPolicy, Options
from streamplan.planning import trace_and_lower

_METHODS = ("analytic", "probe", "both")
_DEFAULT_DIVISOR = 4
"""Without a tile size, the tile is a quarter of the image, or more if the cut's receptive field needs it."""


def receptive_field(  # noqa: PLR0913 - every option is a keyword
    model: nn.Module,
    input_size: Any = None,
    *,
    cut: str | tuple[str, ...] = "latest",
    method: Method = "both",
    tile_size: int | tuple[int, ...] | None = None,
    batch_norm: BatchNormPolicy = "error",
    example_inputs: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ReceptiveFieldReport:
    """Tell what every streamed value reads of the image, and how much tiles would overlap in the published method.

    Receptive field, effective stride and halo are those of `AxisField`; so are the overlaps, which hold for a tile of
    `tile_size` samples in the middle of the image: the most over the tile's positions, moved by one sample at a time
    over one position of the cut (over at most 64 of them).

    Args:
        model: Any `nn.Module`; nothing is computed with its weights, and it may be on the meta device.
        input_size: Size of the image, batch and channels included, as for `compile`.
        cut: Where the resident part begins, as for `compile`; later values are not reported.
        method: "analytic" composes the intervals that the rules say are read. "probe" runs averaging kernels: torch's
            own operations with taps of 1, on zeros and ones. "both" does both, compares every step, and reports the
            analytic numbers. Receptive field, stride and halo of the probe are those of positions that meet no end of
            the image, so a small image has none.
        tile_size: Samples of the tile, per axis or for all; None takes a quarter of the image, or twice the cut's
            receptive field and stride if that is more.
        batch_norm: BatchNorm in training mode in the way of streaming, as for `compile`.
        example_inputs: Instead of `input_size`, as for `compile`.
        dtype: Dtype of the image; None takes that of the model's parameters.
        device: Device to plan for; None takes that of the model's parameters.

    Returns:
        The report; `print` shows it as a table.

    Raises:
        ProbeMismatchError: With method "both": the two ways disagree; it names the operation, its place and both
            numbers.
        RuleError: With method "probe": a registered rule has no count form. With "both" such a net is reported by
            interval arithmetic alone, with a note.
        StreamPlanError: As `plan`.

    Source: Pinckaers, van Ginneken and Litjens, "Streaming convolutional neural networks for end-to-end learning with
    multi-megapixel images", 2020, on computing the tile overlap.
    """
    check_choice("method", method, _METHODS)
    model = check_model(model)
    options = Options(cut=cut_option(cut), batch_norm=batch_norm)
    arguments = resolve_arguments(model, input_size, example_inputs, dtype)
    place = resolve_device(model, device)
    with torch.inference_mode(False):
        traced = trace_and_lower(model, arguments, place)
        streamed = StreamedFields.of(traced.graph, options)
        missing = "" if method == "analytic" else streamed.without_count_form()
        if missing and method == "probe":
            raise RuleError(
                f"{missing} cannot be probed",
                where=streamed.graph[missing].where,
                why="its rule reads windows and does not override count_axis",
                do="method='analytic', or give the rule a count_axis",
            )
        tile = _fitting_tile_size(resolve_tile_size(tile_size), streamed.part)
        values = streamed.fields("analytic" if missing else method, tile)
    notes = [f"the rule of {missing} has no count form; nothing was probed"] if missing else []
    notes += _border_notes(streamed, tile)
    size = arguments.image.shape
    used: Method = "analytic" if missing else method
    return ReceptiveFieldReport(traced.name, size, tile, used, streamed.part.frontier, values, tuple(notes))


def _field_of_cut(part: StreamedPart, axis: int) -> int:
    """The most that one position of a cut value reads."""
    fields = receptive_fields(part, axis)
    return max(fields[name] for name in part.frontier)


def _border_notes(streamed: StreamedFields, tile: tuple[int, ...]) -> list[str]:
    """What is to be said of a tile that is the whole image, or too near to its ends."""
    whole, near = [], []
    for axis, (extent, size) in enumerate(zip(streamed.image_extents, tile, strict=True)):
        if size == extent:
            whole.append(str(axis))
        elif (extent - size) // 2 < _field_of_cut(streamed.part, axis):
            near.append(str(axis))
    notes = [f"the tile is the whole image along axis {', '.join(whole)}: there is no overlap"] if whole else []
    if near:
        notes.append(
            f"along axis {', '.join(near)} less than a receptive field lies between the tile and the image's ends,\n"
            "      which cuts the overlaps short: give a larger input_size"
        )
    return notes


def _fitting_tile_size(tile_size: int | tuple[int, ...] | None, part: StreamedPart) -> tuple[int, ...]:
    extents = part.extents[part.input_maps[0]]
    if tile_size is None:
        sizes = []
        for axis, extent in enumerate(extents):
            stride = -(-extent // min(part.extents[name][axis] for name in part.frontier))
            needed = 2 * (_field_of_cut(part, axis) + stride)
            sizes.append(min(extent, max(-(-extent // _DEFAULT_DIVISOR), needed)))
        return tuple(sizes)
    given = tile_size if isinstance(tile_size, tuple) else (tile_size,) * len(extents)
    if len(given) != len(extents):
        raise TileSizeError(
            f"tile_size={tile_size} does not fit an image with {len(extents)} axes",
            why=f"a tile size is one positive integer, or one for each of the {len(extents)} axes, in input samples",
            do=f"pass an integer or {len(extents)} integers",
        )
    return tuple(min(size, extent) for size, extent in zip(given, extents, strict=True))
