"""The `CodeWriter` that rules write their expressions with."""

from __future__ import annotations

import builtins
import itertools
import keyword
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch

from streamplan.analysis.carrying import Carrying
from streamplan.analysis.regions import StreamedEdge
from streamplan.codegen.names import is_identifier, quoted
from streamplan.geometry import IDENTITY, AffineWindow, AveragingWindow
from streamplan.ir import Argument, AttributeRef, OpCall, ValueRef
from streamplan.planning.passes import LoweredPart, find_draw

_RESERVED = frozenset({"t", "w", "F", "torch", "self", "inf", "nan"})
"""Names the program uses itself."""
_TAKEN = frozenset({*_RESERVED, "prologue", "derive", "tile", "head", *dir(builtins)})
"""Names that mean something else than a user's function."""


def identifier(name: str) -> str:
    """A value's name as a Python variable that does not clash with the program's own names."""
    own = name.rstrip("_")  # one more underscore for each of `t`, `t_` and `t__`, else two would be the same
    return f"{name}_" if own in _RESERVED or keyword.iskeyword(own) else name


class GlobalNames:
    """Names for the functions that rules put into a program.

    Args:
        taken: Names that already mean something else there.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {*taken, *_TAKEN}
        self.table: dict[str, Any] = {}
        """Name to function."""

    def name_of(self, function: Callable[..., Any], fallback: str) -> str:
        """The name of a function: its own, or `fallback` for one without (a lambda), with a number if need be."""
        for name, known in self.table.items():
            if known is function:
                return name
        own = getattr(function, "__name__", "")
        base = identifier(next(name for name in (own, fallback, "run") if is_identifier(name)))
        candidates = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(1)))
        name = next(name for name in candidates if name not in self._taken and name not in self.table)
        self.table[name] = function
        return name


class TileWriter:
    """Writes the arguments of one streamed call."""

    def __init__(
        self,
        call: OpCall,
        lowered: LoweredPart,
        carrying: Carrying | None = None,
        names: GlobalNames | None = None,
    ) -> None:
        part = lowered.part
        self._call = call
        self._names = names or GlobalNames()
        self._part = part
        self._pads_natively = "native_padding" in lowered.passes
        self._overwrites = lowered.inplace.get(call.name, "")
        self._carrying = carrying
        found = find_draw(lowered.graph, call, lowered.facts.maps)
        self._drawn = f"w[{quoted(found[0])}]" if found else ""
        self._edges = {edge.source: edge for edge in part.reads[call.name]}

    def value(self, argument: Argument) -> str:
        """A value, an attribute or a constant as a Python expression."""
        if isinstance(argument, ValueRef):
            known = argument.name in self._part.extents
            return identifier(argument.name) if known else f"w[{quoted(argument.name)}]"
        if isinstance(argument, AttributeRef):
            return f"w[{quoted(argument.path)}]"
        if isinstance(argument, tuple | list):
            inner = ", ".join(self.value(item) for item in argument)
            return f"({inner},)" if len(argument) == 1 else f"({inner})"
        return _constant(argument)

    def window(self, reference: ValueRef, fill: float = 0.0, *, ahead: bool = False) -> str:
        """`t.window(x, "conv1")`, or just `x` where the call reads all of its region and never pads it."""
        edge = self._edges[reference.name]
        if not ahead and not self._needs_window(edge):
            return identifier(reference.name)
        is_spare = self._overwrites and self._call.arguments[self._overwrites] == reference
        return self._window_text(reference.name, fill, *(["spare=True"] if is_spare else []))

    def padded(self, reference: ValueRef, fill: float = 0.0) -> tuple[str, str]:
        """`t.window(x, "conv1", native=True)` and `t.padding("conv1")`."""
        edge = self._edges[reference.name]
        pads = any(isinstance(m, AffineWindow) and m.pads for m in edge.axis_maps)
        if not (pads and self._pads_natively):
            return self.window(reference, fill), ""
        return self._window_text(reference.name, fill, "native=True"), f't.padding("{self._call.name}")'

    @property
    def overwrites(self) -> str:
        """Argument that the call may write its result over; "" if none."""
        return self._overwrites

    @property
    def drawn(self) -> str:
        """The call's random numbers: `w["dropout.seed"]`; "" if it has none."""
        return self._drawn

    def _window_text(self, source: str, fill: float, *more: str) -> str:
        parts = [identifier(source), f'"{self._call.name}"']
        if len(self._edges) > 1:
            parts.append(f'source="{source}"')
        if fill != 0.0:
            parts.append(f"fill={_constant(fill)}")
        return f"t.window({', '.join((*parts, *more))})"

    def step(self, helper: str, *arguments: str) -> str:
        """`t.helper(arguments, "call")`."""
        return f't.{helper}({", ".join(arguments)}, "{self._call.name}")'

    def function(self, function: Callable[..., Any]) -> str:
        """`blur`, or `blur_1` where the program means something else by `blur`."""
        return self._names.name_of(function, fallback="run_" + self._call.target.rpartition(".")[2])

    def _needs_window(self, edge: StreamedEdge) -> bool:
        if self._carrying is not None:
            return edge.key not in self._carrying.whole_reads
        if self._part.num_readers[edge.source] > 1 or edge.source in self._part.frontier:
            return True
        return any(isinstance(m, AffineWindow | AveragingWindow) and m != IDENTITY for m in edge.axis_maps)


def _constant(value: Any) -> str:
    if isinstance(value, float):
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        if math.isnan(value):
            return "nan"
    if isinstance(value, complex):
        return f"complex({_constant(value.real)}, {_constant(value.imag)})"
    if isinstance(value, torch.dtype | bool | int | float | str) or value is None:
        return repr(value)
    raise TypeError(f"no source text for a constant of type {type(value).__name__}")
