"""What a plan will take, before it runs: its program is run on tensors without data, and every storage is counted."""

from streamplan.projection.calibration import Calibration, device_name, load_calibration, save_calibration
from streamplan.projection.phases import Circumstances, largest_tiles, least_step_bytes, project_step
from streamplan.projection.plain import project_plain
from streamplan.projection.step import StepSimulator

__all__ = [
    "Calibration",
    "Circumstances",
    "StepSimulator",
    "device_name",
    "largest_tiles",
    "least_step_bytes",
    "load_calibration",
    "project_plain",
    "project_step",
    "save_calibration",
]
