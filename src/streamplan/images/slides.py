"""Levels of whole-slide images: TIFF pyramids, read through tiffslide."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

from streamplan.checks import shown
from streamplan.errors import SourceError
from streamplan.images.source import Source


def open_slide(path: str | Path, level: Any = 0) -> Source:
    """One level of a whole-slide image, read tile by tile.

    The file is closed when nothing refers to the source any more.

    Args:
        path: A TIFF file that tiffslide reads; tried with tiled RGB pyramids.
        level: Of the pyramid; 0 is the full resolution.

    Returns:
        The level as a source of one image, its bytes as they are in the file.

    Raises:
        SourceError: tiffslide is not installed, the file is not a slide, or it has no such level.
        OSError: The file cannot be read; `FileNotFoundError` if there is none.
    """
    try:
        import tiffslide  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SourceError(
            f"slides cannot be read: {error}",
            why="they are read by tiffslide, which is not a dependency of streamplan alone",
            do="pip install 'streamplan[slides]'",
        ) from error
    if not isinstance(path, str | os.PathLike):
        raise SourceError(
            f"path={shown(path)} is not a path",
            why=f"a file is named by text or a pathlib.Path, not by an object of type {type(path).__name__}",
            do="pass the path of a tiled TIFF file",
        )
    try:
        slide = tiffslide.TiffSlide(path)
    except (tiffslide.TiffFileError, ValueError) as error:
        raise SourceError(
            f"{shown(str(path))} is not a slide", why=f"tiffslide says: {error}", do="pass a tiled TIFF file"
        ) from error
    dimensions = slide.level_dimensions
    if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level < len(dimensions):
        slide.close()
        sizes = ", ".join(f"{width} x {height}" for width, height in dimensions)
        raise SourceError(
            f"level={shown(level)} is not a level of {path}",
            why=f"it has {len(dimensions)}, of {sizes} pixels (width x height)",
            do=f"pass a number from 0 to {len(dimensions) - 1}",
        )
    axes = slide.properties["tiffslide.series-axes"]  # letters of tifffile, as YXS: S is a sample of a pixel
    source = _Slide(path, level, slide.zarr_group[str(level)], axes.replace("S", "C"))
    weakref.finalize(source, slide.close)
    return source


class _Slide(Source):
    """A level of a slide, which another process opens anew."""

    def __init__(self, path: str | Path, level: int, array: Any, layout: str) -> None:
        super().__init__(array, layout)
        self._opened = path, level

    def __reduce__(self) -> tuple[Any, ...]:
        return open_slide, self._opened
