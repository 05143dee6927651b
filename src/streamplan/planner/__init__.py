"""Choosing a plan: candidates are estimated from shapes, the chosen one is projected exactly."""

from streamplan.planner.choose import Question, Search, choose_options
from streamplan.planner.complete import complete_plan
from streamplan.planner.front import FrontPoint, pareto_front

__all__ = ["FrontPoint", "Question", "Search", "choose_options", "complete_plan", "pareto_front"]
