"""Which figures `plot` draws, and the file of each.

--output grid.png --what tiles    grid.png
--output figures --what tiles     figures/tiles.png
--output figures                  figures/pareto.png, figures/memory.png, figures/tiles.png, figures/depth.png
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from streamplan.cli.failures import UsageError

FIGURES: Mapping[str, str] = MappingProxyType(
    {
        "pareto": "memory against time of the plans that no other one beats in both",
        "memory": "memory of a training step, phase by phase",
        "tiles": "the image and its tiles, one of them with its halo",
        "depth": "receptive field, halo and size of the map at every cut",
    }
)
"""What can be drawn."""
_PNG = ".png"
_DOCUMENTS = ("application/pdf", "application/postscript")
"""Kinds of files that hold pictures besides those of images."""


def figure_paths(what: str, output: str) -> dict[str, Path]:
    """The file of each figure, in a folder unless a file is named.

    Args:
        what: A figure, or `all`.
        output: What the line says. It names a file if it ends as those of pictures do and is no folder.

    Raises:
        UsageError: It names a file of another format, one file for all figures, or a file where a folder must be.
    """
    path = Path(output)
    try:
        is_there, is_folder = path.exists(), path.is_dir() or output.endswith(("/", os.sep))
    except OSError as error:  # in a folder that may not be read, or longer than names may be
        raise UsageError(f"{output} cannot be written", why=str(error), do="name another file or folder") from error
    wanted = tuple(FIGURES) if what == "all" else (what,)
    if not output:
        raise UsageError("--output is empty", do="name a PNG file for one figure, or a folder")
    if is_folder or not _names_picture(path):
        if is_there and not path.is_dir():
            raise UsageError(
                f"{output} cannot be written", why="there is a file in the folder's place", do="name a folder, or x.png"
            )
        return {name: path / f"{name}{_PNG}" for name in wanted}
    if path.suffix.lower() != _PNG:
        raise UsageError(
            f"{output} cannot be written", why="figures are PNG files", do=f"name {path.with_suffix(_PNG)}, or a folder"
        )
    if len(wanted) > 1:
        raise UsageError(
            f"{output} is one file for {len(wanted)} figures",
            why="--what is all, as it is unless it is given",
            do=f"name a folder, or choose one with --what: {', '.join(FIGURES)}",
        )
    return {what: path}


def _names_picture(path: Path) -> bool:
    kind, _ = mimetypes.guess_type(path.name)
    return kind is not None and (kind.startswith("image/") or kind in _DOCUMENTS)
