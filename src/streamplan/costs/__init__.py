"""What plans take, and which to take: candidates are estimated from shapes, the chosen one is projected exactly."""

from streamplan.costs.calibration import Calibration, device_name, load_calibration, save_calibration
from streamplan.costs.choose import Question, Search, choose_options
from streamplan.costs.complete import complete_plan
from streamplan.costs.front import FrontPoint, pareto_front
from streamplan.costs.phases import Circumstances, largest_tiles, least_step_bytes, project_step
from streamplan.costs.plain import project_plain
from streamplan.costs.step import StepSimulator

__all__ = [
    "Calibration",
    "Circumstances",
    "FrontPoint",
    "Question",
    "Search",
    "StepSimulator",
    "choose_options",
    "complete_plan",
    "device_name",
    "largest_tiles",
    "least_step_bytes",
    "load_calibration",
    "pareto_front",
    "project_plain",
    "project_step",
    "save_calibration",
]
