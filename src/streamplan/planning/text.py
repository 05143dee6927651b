"""The plan as plain text, at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamplan.planning.plan import CutCandidate, Plan

_MAX_ROWS = 12
"""Candidate cuts shown; the rest are in `Plan.cuts`."""
_KIBI = 1024
"""Bytes in a KiB."""
_HALF = 0.5
"""Share of the net below which the plan warns that little of it is streamed."""


def plan_text(plan: Plan) -> str:
    """The report on a plan."""
    sections = [_headline(plan), _facts(plan), _cut_table(plan), _barriers(plan), _notes(plan)]
    return "\n".join(line for section in sections for line in section)


def format_bytes(count: int) -> str:
    """Binary units, three significant digits.

    >>> format_bytes(1536), format_bytes(3 * 2**30)
    ('1.50 KiB', '3.00 GiB')
    """
    if count < _KIBI:
        return f"{count} B"
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value >= _KIBI:
            value, unit = value / _KIBI, larger
    return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"


def format_flops(count: int) -> str:
    """Decimal units.

    >>> format_flops(4_100_000_000)
    '4.10 GFLOP'
    """
    value = float(count)
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if value < 1000:
            return f"{value:.2f} {unit}" if unit != "FLOP" else f"{count} FLOP"
        value /= 1000
    return f"{value:.2f} PFLOP"


def format_extents(extents: Sequence[int]) -> str:
    """`512 x 256 x 256`."""
    return " x ".join(map(str, extents))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percent(part: int, whole: int) -> str:
    return f"{100 * _share(part, whole):.1f} %"


def _headline(plan: Plan) -> list[str]:
    costs = plan.costs
    memory = _percent(costs.streamed_activation_bytes, costs.activation_bytes)
    flops = _percent(costs.streamed_flops, costs.flops)
    lines = [f"{plan.model}: {memory} of the activation bytes and {flops} of the FLOPs are streamed"]
    shares = (
        _share(costs.streamed_activation_bytes, costs.activation_bytes),
        _share(costs.streamed_flops, costs.flops),
    )
    if min(shares) < _HALF:
        lines.append("WARNING: less than half of the net is streamed; see 'the local part ends at' below")
    return lines


def _facts(plan: Plan) -> list[str]:
    costs = plan.costs
    reads = format_extents(plan.inputs[0].max_read)
    grid = f"{format_extents(plan.grid)} = {plan.num_tiles}" if len(plan.grid) > 1 else str(plan.num_tiles)
    is_bounded = plan.halo == "recompute"
    smallest = f" (smallest feasible {format_extents(plan.smallest_tile_size)})" if is_bounded else ""
    rows = [("input", f"{plan.inputs[0].shape} {plan.inputs[0].dtype} on {plan.device}")]
    rows += [("input", f"{other.name} {other.shape} {other.dtype}") for other in plan.inputs[1:]]
    rows += [
        ("cut", f"{', '.join(plan.cut)} ({plan.chosen.module_path or 'model'}), {_shapes(plan.chosen)}"),
        ("tiles", f"{grid}, each reads at most {reads} input samples"),
        ("", f"and advances by at most {format_extents(plan.inputs[0].max_step)}"),
        ("tile size", format_extents(plan.tile_size) + smallest),
        *_halo_rows(plan),
        ("activations", f"{format_bytes(costs.activation_bytes)} in the plain net's forward pass"),
        ("", f"{format_bytes(costs.tile_activation_bytes)} in the largest tile,"),
        ("", f"{format_bytes(costs.cut_bytes)} in the cut map,"),
        ("", f"{format_bytes(costs.activation_bytes - costs.streamed_activation_bytes)} in the resident part"),
        ("FLOPs", f"{format_flops(costs.flops)} in the plain net's forward pass"),
        ("batch norm", plan.batch_norm),
        ("backward", _backward(plan)),
    ]
    return [f"  {label:<12}{text}" for label, text in rows]


def _backward(plan: Plan) -> str:
    """What the backward pass computes again."""
    num_kept = min(plan.keep_tiles, plan.num_tiles)
    if not num_kept:
        return f"computes all {plan.num_tiles} tiles again"
    kept = "tile keeps" if num_kept == 1 else f"{num_kept} tiles keep"
    return f"computes {plan.num_tiles - num_kept} of {plan.num_tiles} tiles again; the last {kept} what autograd saves"


def _halo_rows(plan: Plan) -> list[tuple[str, str]]:
    """The halo policy and its price."""
    costs = plan.costs
    rows = [
        ("halo", f"{plan.halo}: one position of the cut reads {format_extents(plan.chosen.receptive_field)} samples;")
    ]
    if plan.halo == "recompute":
        computed = _share(costs.computed_flops, costs.streamed_flops)
        return [*rows, ("", f"the streamed part computes {computed:.2f}x its FLOPs per pass")]
    where = "in host memory" if plan.carries == "host" else f"on {plan.device}"
    return [
        *rows,
        ("", "tiles hand them on, so that every value is computed once per pass;"),
        ("", f"as many tiles with recomputed halos would compute {costs.recompute_factor:.2f}x the FLOPs"),
        ("carries", f"{format_bytes(costs.carry_bytes)} in all, kept {where} from forward to backward"),
    ]


def _shapes(candidate: CutCandidate) -> str:
    return ", ".join(f"({', '.join(map(str, shape))})" for shape in candidate.shapes)


def _cut_table(plan: Plan) -> list[str]:
    shown = _telling_cuts(plan)
    rows = [("", "cut", "channels x extents", "receptive field", "map", "bytes streamed", "FLOPs streamed")]
    for candidate in shown:
        shape = candidate.shapes[-1]
        name = candidate.module_path or candidate.values[-1]
        more = f" +{len(candidate.values) - 1}" if len(candidate.values) > 1 else ""
        rows.append(
            (
                "*" if candidate.values == plan.cut else "",
                _shorten(name, 28) + more,
                format_extents(shape[1:]),
                format_extents(candidate.receptive_field),
                format_bytes(candidate.cut_bytes),
                _percent(candidate.streamed_activation_bytes, plan.costs.activation_bytes),
                _percent(candidate.streamed_flops, plan.costs.flops),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    hidden = len(plan.cuts) - len(shown)
    tail = f"  (* chosen; {hidden} more in Plan.cuts)" if hidden else "  (* chosen)"
    return ["", "cuts", *lines, tail]


def _telling_cuts(plan: Plan) -> list[CutCandidate]:
    """The last candidate of every map extent, and the chosen one; the latest ones if those are too many."""
    last = {candidate.shapes[-1][2:]: candidate for candidate in plan.cuts}
    telling = [c for c in plan.cuts if c.values == plan.cut or last[c.shapes[-1][2:]] is c]
    return telling[-_MAX_ROWS:] if plan.chosen in telling[-_MAX_ROWS:] else [plan.chosen, *telling[1 - _MAX_ROWS :]]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[3 - width :]


def _barriers(plan: Plan) -> list[str]:
    if not plan.barriers:
        return ["", "the net is local to its end"]
    lines = ["", "the local part ends at"]
    for barrier in plan.barriers[:_MAX_ROWS]:
        lines += [f"  {barrier.where}", f"    {barrier.locality}: {barrier.reason}"]
    if len(plan.barriers) > _MAX_ROWS:
        lines.append(f"  and {len(plan.barriers) - _MAX_ROWS} more in Plan.barriers")
    return lines


def _notes(plan: Plan) -> list[str]:
    notes = []
    extents = plan.inputs[0].shape[2:]
    beyond = [
        f"{field} > {extent}"
        for field, extent in zip(plan.chosen.receptive_field, extents, strict=True)
        if field > extent
    ]
    if beyond and plan.halo == "recompute":
        notes.append(
            f"the receptive field exceeds the image ({', '.join(beyond)}):\n"
            "      every tile may read all of it; an earlier cut helps"
        )
    if plan.shape_reads:
        notes.append(
            "forward reads shapes as numbers, so the program holds for this image size only:\n"
            f"      {plan.shape_reads[0]}"
        )
    if plan.changed_attributes:
        names = ", ".join(plan.changed_attributes[:3]) + (", ..." if len(plan.changed_attributes) > 3 else "")
        notes.append(f"forward sets attributes of modules ({names});\n      the streamed program does not set them")
    return ["", *(f"note: {note}" for note in notes)] if notes else []
