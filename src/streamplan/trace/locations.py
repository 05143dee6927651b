"""Lines of the user's code: for facts about a node and for error messages.

In: the running stack, or the traceback of an exception. Out: a `SourceLocation`, the innermost frame that belongs
neither to torch, einops, Python itself nor streamplan. fx can record whole stack traces, but formatting one per node
takes longer than the rest of the trace; one frame is enough to point at. The walk ends at the frame that called the
model, so that the caller's own line is never mistaken for the model's.
"""

from __future__ import annotations

import linecache
import sys
import sysconfig
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType, TracebackType

import torch

from streamplan.ir import SourceLocation

_THIRD_PARTY = ("site-packages", "dist-packages")
_STDLIB = Path(sysconfig.get_paths()["stdlib"]).resolve()
_LIBRARIES = (Path(torch.__file__).resolve().parent, Path(__file__).resolve().parent.parent)


@lru_cache(maxsize=4096)
def is_library(file: str) -> bool:
    """Whether a source file belongs to torch, einops, streamplan or Python rather than to the user."""
    if file.startswith("<frozen"):
        return True
    path = Path(file).resolve()
    if any(path.is_relative_to(library) for library in _LIBRARIES):
        return True
    if any(name in path.parts for name in _THIRD_PARTY):
        return "einops" in path.parts
    return path.is_relative_to(_STDLIB)


def _describe(code: CodeType, line: int) -> SourceLocation:
    return SourceLocation(code.co_filename, line, linecache.getline(code.co_filename, line).strip())


def user_location(boundary: CodeType) -> SourceLocation | None:
    """Innermost line of user code on the stack.

    Args:
        boundary: Code object of the function that called the model; the walk stops there.

    Returns:
        The location, or None if only library code ran below the boundary (a plain `nn.Sequential`).
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not boundary:
        if not is_library(frame.f_code.co_filename):
            return _describe(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return None


def error_location(traceback: TracebackType | None) -> SourceLocation | None:
    """Innermost line of user code in the traceback of an exception that left the model."""
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not is_library(code.co_filename):
            found = (code, traceback.tb_lineno)
        traceback = traceback.tb_next
    return _describe(*found) if found else None


def place(module_path: str, module_type: str, location: SourceLocation | None) -> str:
    """The `where` of an error message: `layer1.0.conv1 (Conv2d), resnet.py:41: out = self.conv1(x)`."""
    parts = [f"{module_path or 'the model itself'} ({module_type})"] if module_type else []
    if location is not None:
        parts.append(str(location))
    return ", ".join(parts)
