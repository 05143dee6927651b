"""A plan with its forecast: an exact projection of the chosen cut, estimates of the others, the plain net beside it."""

from __future__ import annotations

from dataclasses import replace

from streamplan.costs.calibration import device_name
from streamplan.costs.choose import Search
from streamplan.costs.circumstances import circumstances_of
from streamplan.costs.estimator import Estimate
from streamplan.costs.phases import Circumstances, project_step
from streamplan.costs.plain import project_plain
from streamplan.planning import Plan, PreparedPlan
from streamplan.planning.forecast import CutForecast, Forecast, TimeEstimate


def complete_plan(search: Search, prepared: PreparedPlan) -> Plan:
    """The plan with its forecast.

    Args:
        search: For the model and the call of the plan.
        prepared: The plan.
    """
    question, plan = search.question, prepared.plan
    search.know(prepared)
    around = circumstances_of(question.options, search.optimizer_bytes, plan.keep_tiles, plan.carries)
    estimates = _estimates(search, prepared, around)
    simulator = search.simulator(prepared)
    memory = project_step(simulator, around)
    cuts = tuple(
        _cut_forecast(search, estimate, memory.peak_bytes if cut == prepared.cut else None)
        for cut, estimate in zip(prepared.all_cuts, estimates, strict=True)
    )
    chosen = estimates[prepared.all_cuts.index(prepared.cut)]
    plain = project_plain(  # last, since the model's own code may change the skeleton
        search.skeleton,
        plan.arguments,
        question.calibration.reserve,
        search.optimizer_bytes,
    )
    reserve = question.calibration.describe()
    memory, plain = replace(memory, reserve=reserve), replace(plain, reserve=reserve)
    return replace(plan, forecast=Forecast(memory, plain, _time(search, chosen), cuts))


def _estimates(search: Search, prepared: PreparedPlan, around: Circumstances) -> list[Estimate | None]:
    """Of all cuts; None where the tiles are not possible."""
    plan, estimator = prepared.plan, search.estimator
    found = []
    for cut in prepared.all_cuts:
        tiling = estimator.tiling(cut, plan.tile_size, plan.halo)
        found.append(None if tiling is None else estimator.estimate(cut, tiling, around))
    return found


def _cut_forecast(search: Search, estimate: Estimate | None, exact: int | None) -> CutForecast:
    if estimate is None:
        return CutForecast(exact or 0, 0.0, 0.0, "" if exact else "one position reads more than a tile may")
    peak = estimate.peak_bytes if exact is None else exact
    return CutForecast(peak, estimate.recomputation, search.ratio(estimate))


def _time(search: Search, estimate: Estimate | None) -> TimeEstimate:
    clock, plain = search.estimator.clock, search.estimator.plain_time
    if estimate is None or not plain:
        return TimeEstimate(1.0, None, None, "not known")
    if not clock.is_calibrated:
        return TimeEstimate(search.ratio(estimate), None, None, "a ratio of FLOPs; calibrate=True measures seconds")
    source = f"calibrated on {device_name(search.question.device)}"
    return TimeEstimate(search.ratio(estimate), estimate.time, plain, source)
