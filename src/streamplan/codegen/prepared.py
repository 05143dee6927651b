"""The program of a plan."""

from __future__ import annotations

from collections.abc import Collection

from streamplan.codegen.loading import LoadedProgram, load_program
from streamplan.codegen.program import emit_program
from streamplan.planning import PreparedPlan


def load_prepared(prepared: PreparedPlan, observed: Collection[str] = ()) -> LoadedProgram:
    """Emit and load it.

    Args:
        prepared: The plan.
        observed: Cut values that tiles show as they compute them, and then do not return.
    """
    plan = prepared.plan
    title = (
        f"{plan.model}, input {plan.input_size}, cut at {', '.join(plan.cut)}: "
        "prologue and head are resident, tile is streamed."
    )
    traced = prepared.traced.trace.graph
    program = emit_program(
        prepared.graph,
        prepared.facts,
        prepared.cut,
        prepared.lowered,
        traced,
        title,
        prepared.carrying,
        frozenset(observed),
    )
    return load_program(program)
