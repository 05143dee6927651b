"""The plan for terminals: what its text says, with tables and colours of rich."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamplan.ir import escaped
from streamplan.planning.text import (
    CUT_COLUMNS,
    barrier_lines,
    cut_caption,
    cut_rows,
    facts,
    format_bytes,
    headline,
    memory_facts,
    notes,
)

if TYPE_CHECKING:
    from streamplan.planning.plan import Plan


def plan_renderable(plan: Plan) -> RenderableType:
    """The report on a plan."""
    parts: list[RenderableType] = [Text(headline(plan), style="bold"), _grid(facts(plan))]
    if plan.forecast is not None:
        parts += [Text("\na training step", style="bold"), _grid(memory_facts(plan)), _items(plan)]
    parts += [_cuts(plan), *(Text(line) for line in barrier_lines(plan))]
    parts += [Text(f"\nnote: {note}", style="yellow") for note in notes(plan)]
    return Group(*parts)


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan")
    table.add_column()
    for label, text in rows:
        table.add_row(label, Text(text))
    return table


def _items(plan: Plan) -> Table:
    assert plan.forecast is not None
    peak = plan.forecast.memory.peak
    table = Table(
        title=Text(f"memory in the {escaped(peak.phase)} phase", style="table.title"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("bytes", justify="right")
    table.add_column("what")
    for item in peak.items:
        table.add_row(format_bytes(item.num_bytes), Text(escaped(item.what)))
    table.add_row(format_bytes(peak.num_bytes), "in all", style="bold")
    return table


def _cuts(plan: Plan) -> Table:
    rows = cut_rows(plan)
    table = Table(title="cuts", caption=cut_caption(plan, len(rows)), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in CUT_COLUMNS:
        is_number = heading in ("map", "peak", "recomputed", "time")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row), style="bold green" if row[0] == "*" else None)
    return table
