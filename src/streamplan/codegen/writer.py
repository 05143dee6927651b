"""The `CodeWriter` that rules write their expressions with."""

from __future__ import annotations

import keyword
import math
from typing import Any

import torch

from streamplan.analysis.regions import StreamedEdge, StreamedPart
from streamplan.geometry import IDENTITY, AffineWindow, AveragingWindow
from streamplan.ir import Argument, AttributeRef, OpCall, ValueRef

_RESERVED = frozenset({"t", "w", "F", "torch", "self", "inf", "nan"})
"""Names the program uses itself."""


def identifier(name: str) -> str:
    """A value's name as a Python variable that does not clash with the program's own names."""
    return f"{name}_" if name in _RESERVED or keyword.iskeyword(name) else name


class TileWriter:
    """Writes the arguments of one streamed call."""

    def __init__(self, call: OpCall, part: StreamedPart) -> None:
        self._call = call
        self._part = part
        self._edges = {edge.source: edge for edge in part.edges if edge.reader == call.name}

    def value(self, argument: Argument) -> str:
        """A value, an attribute or a constant as a Python expression."""
        if isinstance(argument, ValueRef):
            known = argument.name in self._part.extents
            return identifier(argument.name) if known else f'w["{argument.name}"]'
        if isinstance(argument, AttributeRef):
            return f'w["{argument.path}"]'
        if isinstance(argument, tuple | list):
            inner = ", ".join(self.value(item) for item in argument)
            return f"({inner},)" if len(argument) == 1 else f"({inner})"
        return _constant(argument)

    def window(self, reference: ValueRef, fill: float = 0.0, *, ahead: bool = False) -> str:
        """`t.window(x, "conv1")`, or just `x` where the call reads all of its region and never pads it."""
        edge = self._edges[reference.name]
        name = identifier(reference.name)
        if not ahead and not self._needs_window(edge):
            return name
        parts = [name, f'"{self._call.name}"']
        if len(self._edges) > 1:
            parts.append(f'source="{reference.name}"')
        if fill != 0.0:
            parts.append(f"fill={_constant(fill)}")
        return f"t.window({', '.join(parts)})"

    def step(self, helper: str, *arguments: str) -> str:
        """`t.helper(arguments, "call")`."""
        return f't.{helper}({", ".join(arguments)}, "{self._call.name}")'

    def _needs_window(self, edge: StreamedEdge) -> bool:
        readers = sum(other.source == edge.source for other in self._part.edges)
        if readers > 1 or edge.source in self._part.frontier:
            return True
        return any(isinstance(m, AffineWindow | AveragingWindow) and m != IDENTITY for m in edge.axis_maps)


def _constant(value: Any) -> str:
    if isinstance(value, float):
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        if math.isnan(value):
            return "nan"
    if isinstance(value, torch.dtype | bool | int | float | str) or value is None:
        return repr(value)
    raise TypeError(f"no source text for a constant of type {type(value).__name__}")
