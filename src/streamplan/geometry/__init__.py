"""Integer geometry of one axis: intervals, and the maps that pull an output interval back to what it reads."""

from streamplan.geometry.axis_maps import AxisMap, AxisRead, read_axis
from streamplan.geometry.gathers import FoldedPadding, FoldedWindow, IndexTable, LinearResize
from streamplan.geometry.interval import Interval, hull
from streamplan.geometry.windows import IDENTITY, AffineWindow, AveragingWindow, ScatterWindow

__all__ = [
    "IDENTITY",
    "AffineWindow",
    "AveragingWindow",
    "AxisMap",
    "AxisRead",
    "FoldedPadding",
    "FoldedWindow",
    "IndexTable",
    "Interval",
    "LinearResize",
    "ScatterWindow",
    "hull",
    "read_axis",
]
