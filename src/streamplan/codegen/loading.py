"""Load a program's text as functions, so that tracebacks and debuggers show its lines."""

from __future__ import annotations

import hashlib
import linecache
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
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
    exec(_renamed(_compiled(program.code), filename), namespace)
    return LoadedProgram(program, *(namespace[name] for name in ("prologue", "derive", "tile", "head")))


@lru_cache(maxsize=32)
def _compiled(code: str) -> CodeType:
    """Compiled once for all image sizes, since few programs depend on them."""
    return compile(code, "<streamplan program>", "exec")


def _renamed(code: CodeType, filename: str) -> CodeType:
    """The same code as if it had been read from a file of another name."""
    constants = (_renamed(item, filename) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=filename, co_consts=tuple(constants))
