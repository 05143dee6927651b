"""Schemas of torchvision's compiled operations, so that its Python part can be imported without them.

lightning, which lightstream imports, imports torchvision where that is installed. Beside a CPU build of torch,
torchvision's compiled part often is one for CUDA that cannot be loaded, and then its import fails at the first
operation it wants to describe. No operation is implemented here: the benchmark calls none.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
"""What torchvision describes on import whether its compiled part was loaded or not."""

_libraries: list[torch.library.Library] = []
"""Definitions live as long as their library."""


def define_missing_schemas() -> bool:
    """Define the schemas if torchvision is installed and its compiled part cannot be loaded.

    Returns:
        Whether they are defined here.
    """
    if _libraries:
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _can_load(Path(spec.origin).parent):
        return False
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    return True


def _can_load(folder: Path) -> bool:
    for path in folder.glob("_C*.so"):
        try:
            torch.ops.load_library(path)
        except OSError:
            continue
        return True
    return False
