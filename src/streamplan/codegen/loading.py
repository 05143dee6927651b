"""Load a program's text as functions, so that tracebacks and debuggers show its lines."""

from __future__ import annotations

import hashlib
import linecache
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from streamplan.codegen.program import Program


@dataclass(frozen=True)
class LoadedProgram:
    """The functions of a program, ready to call."""

    program: Program
    """What they were loaded from."""
    prologue: Callable[..., Any]
    derive: Callable[..., Iterator[tuple[str, torch.Tensor]]]
    tile: Callable[..., tuple[torch.Tensor | None, ...]]
    head: Callable[..., Any]


def load_program(program: Program) -> LoadedProgram:
    """Compile the text under a name of its own and register its lines for tracebacks.

    The name holds a hash of the text, so two programs never share one and equal programs do.
    """
    digest = hashlib.sha256(program.source.encode()).hexdigest()[:12]
    filename = f"<streamplan program {digest}>"
    lines = program.source.splitlines(keepends=True)
    linecache.cache[filename] = (len(program.source), None, lines, filename)
    namespace: dict[str, Any] = {"inf": math.inf, "nan": math.nan, **program.globals}
    exec(compile(program.source, filename, "exec"), namespace)
    return LoadedProgram(program, *(namespace[name] for name in ("prologue", "derive", "tile", "head")))
