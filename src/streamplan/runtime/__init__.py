"""Running a streamed segment: the tile handed to the program, the tile loop, and its autograd function."""

from streamplan.runtime.segment import Segment
from streamplan.runtime.streaming import stream_segment, write_segment
from streamplan.runtime.tile import Tile

__all__ = ["Segment", "Tile", "stream_segment", "write_segment"]
