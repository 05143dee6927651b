"""The table of a case."""

from __future__ import annotations

from rich.table import Table

from benchmarks.results import CaseResults, Result, VariantResults
from benchmarks.summary import Summary

_MIB = 2**20


def case_table(case: CaseResults) -> Table:
    """Seconds, ratio to plain, peak memory, gradient error and a GPU's idle time, by variant; spreads are min..max."""
    rows, cols = case.description["image_size"]
    table = Table(title=f"{case.name}: {rows} x {cols}", title_justify="left")
    table.add_column("variant", no_wrap=True)
    for header in ("seconds", "ratio to plain", "peak MiB", "gradient error", "without BatchNorm"):
        table.add_column(header, justify="right", no_wrap=True)
    idle = {variant.name: variant.idle_share for variant in case.variants.values()}
    has_idle = any(share is not None for share in idle.values())
    if has_idle:
        table.add_column("idle %", justify="right", no_wrap=True)
    for variant in case.variants.values():
        share = [spread_text(idle[variant.name], ".1f", 100)] if has_idle else []
        table.add_row(variant.name, *_cells(variant, case.plain), *share)
    return table


def _cells(variant: VariantResults, plain: VariantResults | None) -> tuple[str, ...]:
    seconds = spread_text(variant.seconds, ".2f")
    if variant.problem is not None:
        seconds = variant.problem["status"]
    return (
        seconds,
        spread_text(variant.ratio(plain), ".2f"),
        spread_text(variant.peak_bytes, ".0f", 1 / _MIB),
        error_text(variant.check, "gradient_error"),
        error_text(variant.check, "gradient_error_without_batch_norm"),
    )


def spread_text(summary: Summary | None, form: str, scale: float = 1.0) -> str:
    """A median with its spread, in parentheses unless there is one sample: "2.00 (1.00..6.00)"."""
    if summary is None:
        return "-"
    text = format(summary.median * scale, form)
    if summary.num_samples == 1:
        return text
    return f"{text} ({format(summary.min * scale, form)}..{format(summary.max * scale, form)})"


def error_text(check: Result | None, key: str) -> str:
    """An error, or why there is none."""
    if check is None:
        return "-"
    return format(check[key], ".1e") if check["status"] == "ok" else str(check["status"])
