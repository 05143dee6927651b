"""From a model and sizes to a plan: plain data that says what is streamed, in which tiles, at what cost."""

from streamplan.planning.build import PreparedPlan, build_plan, prepare_plan
from streamplan.planning.model import TracedModel, resize, trace_and_lower
from streamplan.planning.plan import Barrier, CutCandidate, InputPlan, Plan

__all__ = [
    "Barrier",
    "CutCandidate",
    "InputPlan",
    "Plan",
    "PreparedPlan",
    "TracedModel",
    "build_plan",
    "prepare_plan",
    "resize",
    "trace_and_lower",
]
