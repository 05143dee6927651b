"""The command `plot`: figures of a plan, as PNG files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamplan.cli.commands import PLAN_OPTIONS, build_model, given, input_size
from streamplan.cli.failures import UsageError
from streamplan.cli.output import Outcome
from streamplan.module import plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_plot(line: Namespace) -> Outcome:
    """`streamplan plot`: all figures are drawn before the first one is written."""
    figures = _draw(line)
    try:
        _save(figures, line.paths)
    except OSError as error:
        raise UsageError(
            f"{line.output} cannot be written", why=str(error), do="name a file or a folder that can be written"
        ) from error
    return Outcome("\n".join(str(line.paths[name]) for name in figures))


def _draw(line: Namespace) -> dict[str, Figure]:
    """The figures that the line asks for; a plan is made once, and only for figures that show one."""
    from streamplan import plot  # noqa: PLC0415 - it needs matplotlib, which need not be installed

    model, size, options = build_model(line), input_size(line), given(line, PLAN_OPTIONS)
    found = {}
    if "pareto" in line.paths:
        found["pareto"] = plot.draw_pareto_front(model, size, **options)
    if "memory" in line.paths or "tiles" in line.paths:
        made = plan(model, size, **options)
        if "memory" in line.paths:
            found["memory"] = plot.draw_memory(made)
        if "tiles" in line.paths:
            found["tiles"] = plot.draw_tiles(made)
    if "depth" in line.paths:
        found["depth"] = plot.draw_depth(model, size, **options)
    return found


def _save(figures: Mapping[str, Figure], paths: Mapping[str, Path]) -> None:
    """Write figures; folders that are missing are made."""
    from streamplan.plot.figures import save_figure  # noqa: PLC0415 - see above

    for name, figure in figures.items():
        paths[name].parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, paths[name])
