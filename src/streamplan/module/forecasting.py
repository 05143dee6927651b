"""From what the user left open to a plan, and from a plan to one that says what it takes."""

from __future__ import annotations

from dataclasses import replace

from streamplan.costs import Search, choose_options, complete_plan, save_calibration
from streamplan.costs.budget import Budget
from streamplan.errors import OptionError, StreamPlanError
from streamplan.options import Options
from streamplan.planning import Plan, PreparedPlan

_NOT_WITHOUT_DATA = (RuntimeError, TypeError)
"""What operations raise that cannot run on tensors without data."""


def settle(search: Search) -> PreparedPlan:
    """The plan that answers a question.

    Raises:
        InfeasibleBudgetError: No plan is small or fast enough.
        OptionError: There is a budget, and the model cannot be run without data.
    """
    question = search.question
    options, budget = _settled_options(search)
    prepared = search.prepare(options)
    plan = replace(
        prepared.plan,
        memory_budget=budget.num_bytes if budget else None,
        budget_source=budget.source if budget else "",
        max_slowdown=question.options.max_slowdown,
    )
    return replace(prepared, plan=plan)


def _settled_options(search: Search) -> tuple[Options, Budget | None]:
    options = search.question.options
    if not options.is_open:
        return options, None
    try:
        return choose_options(search)
    except StreamPlanError:
        raise
    except _NOT_WITHOUT_DATA as error:
        if options.memory_budget is None and options.max_slowdown is None:
            return options.settled(), None
        raise OptionError(
            "the memory of this model cannot be projected",
            why=_reason(error),
            do="leave memory_budget and max_slowdown away, and pass a tile_size",
        ) from error


def complete(search: Search, prepared: PreparedPlan) -> Plan:
    """The plan with its forecast, or with the reason why there is none."""
    try:
        plan = complete_plan(search, prepared)
    except _NOT_WITHOUT_DATA as error:
        return replace(prepared.plan, forecast_failure=_reason(error))
    if search.question.calibration.is_measuring:
        save_calibration(search.question.calibration)
    return plan


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'}"
