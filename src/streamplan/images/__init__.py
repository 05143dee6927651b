"""Images and maps that live in arrays: read and written by regions, never as a whole."""

from streamplan.images.source import Source, target_for

__all__ = ["Source", "target_for"]
