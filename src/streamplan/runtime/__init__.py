"""Running a streamed segment: the tile handed to the program, the tile loop, and its autograd function."""

from streamplan.runtime.building import build_segment
from streamplan.runtime.cuda.graphs import GraphCache
from streamplan.runtime.moments import Moments, Pools
from streamplan.runtime.observing import Observer, observe_segment
from streamplan.runtime.progress import OnTile, Progress
from streamplan.runtime.segment import Segment
from streamplan.runtime.shortage import DeviceOutOfMemoryError, reporting_shortage
from streamplan.runtime.streaming import stream_segment, write_segment
from streamplan.runtime.tile import Tile

__all__ = [
    "DeviceOutOfMemoryError",
    "GraphCache",
    "Moments",
    "Observer",
    "OnTile",
    "Pools",
    "Progress",
    "Segment",
    "Tile",
    "build_segment",
    "observe_segment",
    "reporting_shortage",
    "stream_segment",
    "write_segment",
]
