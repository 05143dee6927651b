"""The commands `plan`, `receptive-field` and `verify`: a model, one call of `streamplan`, and what it found.

Everything here imports torch, so it is imported when a line is known to be right.

Options carry the names of the functions' arguments and are absent where the line does not give them, so that defaults
are those of the functions.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
from torch import nn

from streamplan.cli.failures import ExitCode
from streamplan.cli.models import load_model, users_code
from streamplan.cli.output import Outcome, receptive_field_json, verification_json
from streamplan.features import receptive_field, verify
from streamplan.module import plan

TILING_OPTIONS = ("tile_size", "cut", "halo", "batch_norm", "carries", "keep_tiles")
"""Options that choose tiles and cut."""
BUDGET_OPTIONS = ("memory_budget", "max_slowdown", "optimizer")
"""Options that let the planner choose."""
PLACE_OPTIONS = ("dtype", "device", "calibrate")
"""Options about the image and the device."""
PLAN_OPTIONS = (*TILING_OPTIONS, *BUDGET_OPTIONS, *PLACE_OPTIONS)
"""The options of `streamplan.plan`."""


def run_command(line: Namespace) -> Outcome:
    """The command of a line."""
    if line.command == "plot":
        from streamplan.cli.plotting import run_plot  # noqa: PLC0415 - it imports this module

        return run_plot(line)
    return {"plan": run_plan, "receptive-field": run_receptive_field, "verify": run_verify}[line.command](line)


def run_plan(line: Namespace) -> Outcome:
    """`streamplan plan`."""
    made = plan(build_model(line), input_size(line), **given(line, PLAN_OPTIONS))
    if line.json:
        return Outcome(made.to_json())
    if line.verbose:
        return Outcome(made.report(verbose=True))
    return Outcome(str(made))


def run_receptive_field(line: Namespace) -> Outcome:
    """`streamplan receptive-field`."""
    options = given(line, ("tile_size", "cut", "batch_norm", "method", "dtype", "device"))
    report = receptive_field(build_model(line), input_size(line), **options)
    return Outcome(receptive_field_json(report) if line.json else str(report))


def run_verify(line: Namespace) -> Outcome:
    """`streamplan verify`: the plan that `streamplan plan` makes with the same options, in float64.

    The dtype on the line is the one to compare in; the plan is made in the model's.
    """
    model = build_model(line, needs_data=True)
    made = plan(model, input_size(line), **given(line, (*TILING_OPTIONS, *BUDGET_OPTIONS)))
    report = verify(model, plan=made, raise_exception=False, **given(line, ("dtype", "rtol", "seed")))
    is_whole = report.plan.num_tiles == 1
    return Outcome(
        verification_json(report) if line.json else str(report),
        note="one tile is the whole image, so nothing was tiled: give a smaller --tile-size" if is_whole else "",
        code=ExitCode.DONE if report.passed else ExitCode.DIFFERENT,
    )


def build_model(line: Namespace, *, needs_data: bool = False) -> nn.Module:
    """The model of a line, in the mode and the dtype it asks for.

    Args:
        line: The parsed line.
        needs_data: Whether its parameters must have values; they are then drawn from the line's seed.
    """
    if needs_data:
        torch.manual_seed(getattr(line, "seed", 0))
    model = load_model(line.model, dict(line.arg), needs_data=needs_data)
    dtype = given(line, ("dtype",)).get("dtype")
    with users_code(f"{line.model} cannot be put into the mode or the dtype of the line"):
        model.train(line.train)
        if dtype is not None and dtype.is_floating_point and not needs_data:
            model.to(dtype)
    return model


def input_size(line: Namespace) -> tuple[Any, ...]:
    """The size of the image, or of each input if there are several."""
    sizes: list[tuple[int, ...]] = line.input_size
    return sizes[0] if len(sizes) == 1 else tuple(sizes)


def given(line: Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """The options among these names that are on the line, as the functions take them."""
    found = {name: getattr(line, name) for name in names if hasattr(line, name)}
    if "dtype" in found:
        found["dtype"] = getattr(torch, found["dtype"])
    if "cut" in found:
        found["cut"] = found["cut"][0] if len(found["cut"]) == 1 else tuple(found["cut"])
    return found
