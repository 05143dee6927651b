"""Load a program's text as functions, so that tracebacks and debuggers show its lines."""

from __future__ import annotations

import hashlib
import linecache
import math
import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import torch

from streamplan.codegen.program import Program
from streamplan.errors import TracingError
from streamplan.trace.leaves import is_of_torch

_CALLED = re.compile(r"(?<![\w.])((?:torch|F)(?:\.[A-Za-z]\w*)+)\(")
"""Calls of functions of torch in the text of a program."""
_FUNCTIONS = (FunctionType, BuiltinFunctionType)


@dataclass(frozen=True)
class LoadedProgram:
    """The functions of a program, ready to call."""

    program: Program
    """What they were loaded from."""
    prologue: Callable[..., Any]
    derive: Callable[..., Iterator[tuple[str, torch.Tensor]]]
    tile: Callable[..., tuple[torch.Tensor | None, ...]]
    head: Callable[..., Any]
    called: Mapping[str, Any]
    """The functions of torch that it calls, by the names it calls them by, as they were when it was loaded."""

    def check_called(self) -> None:
        """Refuse to run while one of them is exchanged for another function, which the model's code calls as well.

        Raises:
            TracingError: One is.
        """
        for name, function in self.called.items():
            if _function_of_torch(name) is not function or not is_of_torch(function):
                raise TracingError(
                    f"{name} is not torch's own function",
                    why="the program was made from what the model's code calls, and would call the other one in turn",
                    do="put torch's function back, or call the other one from the model by a name of its own",
                )


def load_program(program: Program) -> LoadedProgram:
    """Compile the text under a name of its own and register its lines for tracebacks, as long as its functions live.

    The name holds a hash of the text, so two programs never share one and equal programs do. The functions are taken
    out of their own globals, else only a search for cycles would find that a program is gone.
    """
    listing = _listing(program.source)
    namespace: dict[str, Any] = {"inf": math.inf, "nan": math.nan, **program.globals, "__listing__": listing}
    exec(_renamed(_compiled(program.code), listing.filename), namespace)
    prologue, derive, tile, head = (namespace.pop(name) for name in ("prologue", "derive", "tile", "head"))
    called = {name: _function_of_torch(name) for name in sorted(set(_CALLED.findall(program.code)))}
    functions = {name: function for name, function in called.items() if isinstance(function, _FUNCTIONS)}
    return LoadedProgram(program, prologue, derive, tile, head, functions)


def _function_of_torch(name: str) -> Any:
    found: Any = torch.nn.functional if name.startswith("F.") else torch
    for part in name.split(".")[1:]:
        found = getattr(found, part, None)
    return found


class _Listing:
    """The lines of a program's text, for tracebacks; the globals of all equal programs hold the one there is."""

    def __init__(self, filename: str, source: str) -> None:
        self.filename = filename
        entry = (len(source), None, source.splitlines(keepends=True), filename)
        linecache.cache[filename] = entry
        weakref.finalize(self, _forget_lines, filename, entry).atexit = False


_LISTINGS: weakref.WeakValueDictionary[str, _Listing] = weakref.WeakValueDictionary()


def _listing(source: str) -> _Listing:
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    filename = f"<streamplan program {digest}>"
    listing = _LISTINGS.get(filename)
    if listing is None:
        listing = _LISTINGS[filename] = _Listing(filename, source)
    return listing


def _forget_lines(filename: str, entry: Any) -> None:
    """Take a listing out of Python's table, unless an equal program has put in its own meanwhile."""
    if linecache.cache.get(filename) is entry:
        del linecache.cache[filename]


@lru_cache(maxsize=32)
def _compiled(code: str) -> CodeType:
    """Compiled once for all image sizes, since few programs depend on them."""
    return compile(code, "<streamplan program>", "exec")


def _renamed(code: CodeType, filename: str) -> CodeType:
    """The same code as if it had been read from a file of another name."""
    constants = (_renamed(item, filename) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=filename, co_consts=tuple(constants))
