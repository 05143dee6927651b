"""Images and maps that live in arrays: read and written by regions, never as a whole."""

from streamplan.images.slides import open_slide
from streamplan.images.source import Source, target_for

__all__ = ["Source", "open_slide", "target_for"]
