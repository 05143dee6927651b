"""The plan as plain text, at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamplan.ir import escaped

if TYPE_CHECKING:
    from streamplan.planning.forecast import CutForecast
    from streamplan.planning.plan import CutCandidate, Plan
    from streamplan.planning.projection import PhaseProjection

_MAX_ROWS = 12
"""Candidate cuts and barriers shown unless all are asked for."""
_KIBI = 1024
"""Bytes in a KiB."""
_HALF = 0.5
"""Share of the net below which the plan warns that little of it is streamed."""


def plan_text(plan: Plan, *, verbose: bool = False) -> str:
    """The report on a plan.

    Args:
        plan: The plan.
        verbose: Whether to show all cuts, and all phases item by item.
    """
    sections = [headline(plan), *map(_fact_line, facts(plan)), *_memory_lines(plan, verbose=verbose)]
    sections += [*_cut_lines(plan, verbose=verbose), *barrier_lines(plan), *_note_lines(plan)]
    return "\n".join(sections)


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


_BATCH_NORM = {
    "error": "refused in training mode",
    "frozen": "computed with its stored statistics, in training mode too",
    "resident": "left to the resident part in training mode",
}
"""What becomes of BatchNorm, by policy."""


def headline(plan: Plan) -> str:
    """How much of the net is streamed."""
    costs = plan.costs
    memory = _percent(costs.streamed_activation_bytes, costs.activation_bytes)
    flops = _percent(costs.streamed_flops, costs.flops)
    lines = [f"{escaped(plan.model)}: {memory} of the activation bytes and {flops} of the FLOPs are streamed"]
    shares = (
        _share(costs.streamed_activation_bytes, costs.activation_bytes),
        _share(costs.streamed_flops, costs.flops),
    )
    if min(shares) < _HALF:
        lines.append("WARNING: less than half of the net is streamed; see 'the local part ends at' below")
    return "\n".join(lines)


def facts(plan: Plan) -> list[tuple[str, str]]:
    """What was planned, as labels and texts; a label continues until the next."""
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
        ("batch norm", _BATCH_NORM[plan.batch_norm]),
        ("backward", _backward(plan)),
    ]
    return _on_one_line(rows)


def _on_one_line(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Rows with the line breaks that names may have written out."""
    return [(label, escaped(text)) for label, text in rows]


def _fact_line(fact: tuple[str, str]) -> str:
    label, text = fact
    return f"  {label:<12}{text}"


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


def _memory_lines(plan: Plan, *, verbose: bool) -> list[str]:
    """Memory and time of a training step."""
    forecast = plan.forecast
    if forecast is None:
        why = f": {escaped(plan.forecast_failure)}" if plan.forecast_failure else ""
        return ["", f"memory and time of a training step are not known{why}"]
    lines = ["", "a training step", *map(_fact_line, memory_facts(plan))]
    phases = forecast.memory.phases if verbose else (forecast.memory.peak,)
    for phase in phases:
        lines += ["", f"memory in the {escaped(phase.phase)} phase", *_item_lines(phase)]
    if verbose:
        peak = forecast.plain_memory.peak
        lines += ["", f"memory of the plain net in its {escaped(peak.phase)} phase", *_item_lines(peak)]
    return lines


def memory_facts(plan: Plan) -> list[tuple[str, str]]:
    """Projected against allowed memory, the plain net's, and times."""
    forecast = plan.forecast
    assert forecast is not None
    memory, plain, time = forecast.memory, forecast.plain_memory, forecast.time
    peak = memory.peak_bytes
    rows = [("memory", f"{format_bytes(peak)} projected on {plan.device}, in the {memory.peak.phase} phase")]
    if plan.memory_budget is not None:
        source = f" ({plan.budget_source})" if plan.budget_source else ""
        headroom = _percent(plan.memory_budget - peak, plan.memory_budget)
        rows.append(("", f"{format_bytes(plan.memory_budget)} allowed{source}: {headroom} headroom"))
    if memory.host_bytes:
        rows.append(("", f"{format_bytes(memory.host_bytes)} of carried samples in host memory"))
    if plan.image == "host":
        rows.append(("", "the image is read tile by tile, and not counted"))
    rows += [
        ("", f"work space of kernels: {memory.reserve}"),
        ("plain net", f"{format_bytes(plain.peak_bytes)}, {_times(plain.peak_bytes, peak)} as much"),
        ("time", f"{time.ratio:.2f}x the plain net's: {time.source}"),
        ("", time.accuracy),
    ]
    if time.seconds is not None and time.plain_seconds is not None:
        rows.append(("", f"{format_seconds(time.seconds)}; the plain net {format_seconds(time.plain_seconds)}"))
    if plan.max_slowdown is not None:
        rows.append(("", f"{plan.max_slowdown:g}x allowed"))
    return _on_one_line(rows)


def _times(whole: int, part: int) -> str:
    return f"{_share(whole, part):.2f}x"


def format_seconds(seconds: float) -> str:
    """Three significant digits.

    >>> format_seconds(0.0123), format_seconds(75)
    ('12.3 ms', '75.0 s')
    """
    return f"{seconds:.3g} s" if seconds >= 100 else f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _item_lines(phase: PhaseProjection) -> list[str]:
    lines = [f"  {format_bytes(item.num_bytes):>9}  {escaped(item.what)}" for item in phase.items]
    at = f", at {escaped(phase.operation)}" if phase.operation else ""
    return [*lines, f"  {format_bytes(phase.num_bytes):>9}  in all{at}"]


CUT_COLUMNS = ("", "cut", "channels x extents", "halo", "map", "peak", "recomputed", "time")
"""Headings of the table of cuts."""
_VERBOSE_COLUMNS = ("bytes streamed", "FLOPs streamed", "refused because")


def cut_rows(plan: Plan, *, verbose: bool = False) -> list[tuple[str, ...]]:
    """The table of cuts, without its headings.

    Args:
        plan: The plan.
        verbose: Whether to show all cuts, and what is streamed before each.
    """
    rows: list[tuple[str, ...]] = []
    for candidate in plan.cuts if verbose else telling_cuts(plan):
        forecast = plan.forecast.cuts[plan.cuts.index(candidate)] if plan.forecast else None
        is_chosen = candidate.values == plan.cut
        more = f" +{len(candidate.values) - 1}" if len(candidate.values) > 1 else ""
        row = (
            "*" if is_chosen else "",
            _shorten(escaped(candidate.module_path or candidate.values[-1]), 28) + more,
            format_extents(candidate.shapes[-1][1:]),
            format_extents(candidate.halo),
            format_bytes(candidate.cut_bytes),
            *_forecast_cells(forecast, is_chosen=is_chosen),
        )
        shares = (
            _percent(candidate.streamed_activation_bytes, plan.costs.activation_bytes),
            _percent(candidate.streamed_flops, plan.costs.flops),
            escaped(forecast.refusal) if forecast else "",
        )
        rows.append((*row, *shares) if verbose else row)
    return rows


def _forecast_cells(forecast: CutForecast | None, *, is_chosen: bool) -> tuple[str, str, str]:
    if forecast is None:
        return "", "", ""
    if forecast.refusal:
        return "refused", "", ""
    about = "" if is_chosen else "~"
    peak = about + format_bytes(forecast.peak_bytes)
    return peak, f"{100 * forecast.recomputation:.1f} %", f"{forecast.time_ratio:.2f}x"


def _cut_lines(plan: Plan, *, verbose: bool) -> list[str]:
    rows = [CUT_COLUMNS + (_VERBOSE_COLUMNS if verbose else ()), *cut_rows(plan, verbose=verbose)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return ["", "cuts", *lines, f"  {cut_caption(plan, len(rows) - 1)}"]


def cut_caption(plan: Plan, num_shown: int) -> str:
    """What the table of cuts does not say of itself."""
    hidden = len(plan.cuts) - num_shown
    tail = f"; {hidden} more with verbose=True" if hidden else ""
    return f"(* chosen; ~ estimated from shapes{tail})" if plan.forecast else f"(* chosen{tail})"


def telling_cuts(plan: Plan) -> list[CutCandidate]:
    """The last candidate of every map extent, and the chosen one; the latest ones if those are too many."""
    last = {candidate.extents: candidate for candidate in plan.cuts}
    telling = [c for c in plan.cuts if c.values == plan.cut or last[c.extents] is c]
    return telling[-_MAX_ROWS:] if plan.chosen in telling[-_MAX_ROWS:] else [plan.chosen, *telling[1 - _MAX_ROWS :]]


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[3 - width :]


def barrier_lines(plan: Plan) -> list[str]:
    """The calls that end the local part."""
    if not plan.barriers:
        return ["", "the net is local to its end"]
    lines = ["", "the local part ends at"]
    for barrier in plan.barriers[:_MAX_ROWS]:
        lines += [f"  {escaped(barrier.where)}", f"    {escaped(f'{barrier.locality}: {barrier.reason}')}"]
    if len(plan.barriers) > _MAX_ROWS:
        lines.append(f"  and {len(plan.barriers) - _MAX_ROWS} more in Plan.barriers")
    return lines


def _note_lines(plan: Plan) -> list[str]:
    found = notes(plan)
    return ["", *(f"note: {note}" for note in found)] if found else []


def notes(plan: Plan) -> list[str]:
    """What is worth a second look."""
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
            f"      {escaped(plan.shape_reads[0])}"
        )
    return notes
