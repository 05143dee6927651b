"""The command `plot`: figures of a plan, as PNG files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from streamplan.api import plan
from streamplan.cli.commands import PLAN_OPTIONS, build_model, given, input_size
from streamplan.cli.failures import UsageError
from streamplan.cli.output import Outcome

FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "pareto": "memory against time of the plans that no other one beats in both",
        "memory": "memory of a training step, phase by phase",
        "tiles": "the image and its tiles, one of them with its halo",
        "depth": "receptive field, halo and size of the map at every cut",
    }
)
"""What can be drawn."""


def run_plot(line: Namespace) -> Outcome:
    """`streamplan plot`."""
    try:
        return Outcome("\n".join(map(str, _save(line))))
    except OSError as error:
        raise UsageError(
            f"{line.output} cannot be written", why=str(error), do="name a file or a folder that can be written"
        ) from error


def _save(line: Namespace) -> list[Path]:
    """Draw what the line asks for; a plan is made once, and only for figures that show one."""
    from streamplan import plot  # noqa: PLC0415 - it needs matplotlib, which need not be installed

    model, size, options = build_model(line), input_size(line), given(line, PLAN_OPTIONS)
    paths = _paths(line)
    if "pareto" in paths:
        plot.save_pareto_front(model, size, paths["pareto"], **options)
    if "depth" in paths:
        plot.save_depth(model, size, paths["depth"], **options)
    if "memory" in paths or "tiles" in paths:
        made = plan(model, size, **options)
        if "memory" in paths:
            plot.save_memory(made, paths["memory"])
        if "tiles" in paths:
            plot.save_tiles(made, paths["tiles"])
    return list(paths.values())


def _paths(line: Namespace) -> dict[str, Path]:
    """The file of each figure; folders that are missing are made."""
    output: Path = line.output
    is_folder = line.what == "all" or output.is_dir()
    folder = output if is_folder else output.parent
    folder.mkdir(parents=True, exist_ok=True)
    if not is_folder:
        return {line.what: output if output.suffix else output.with_suffix(".png")}
    return {what: folder / f"{what}.png" for what in FIGURES if line.what in (what, "all")}
