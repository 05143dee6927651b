"""Resident code: a part of the traced fx graph as the source of one function.

The resident parts run the user's own modules, so their hooks, buffers and randomness behave as in the plain net; only
the streamed calls are written anew. torch.fx writes the source.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.fx
from torch.fx import Graph, Node


@dataclass(frozen=True)
class FunctionSource:
    """The source of one function, and what its global names stand for."""

    text: str
    """`def name(self, ...)` with its body."""
    globals: Mapping[str, Any]
    """Global name to object."""


def function_source(
    graph: Graph, name: str, inputs: Iterable[str], keep: Callable[[Node], bool], result: Any
) -> FunctionSource:
    """Write the nodes that `keep` accepts as a function.

    Args:
        graph: The traced graph.
        name: Name of the function.
        inputs: Names of nodes whose values are the function's arguments, after `self`.
        keep: Which nodes the function computes.
        result: What it returns: nodes of `graph` in tuples, lists or dicts.
    """
    by_name = {node.name: node for node in graph.nodes}
    part = Graph()
    copies: dict[Node, Node] = {}
    for argument in inputs:
        copies[by_name[argument]] = part.placeholder(argument)
    for node in graph.nodes:
        if node not in copies and keep(node):
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(torch.fx.node.map_arg(result, copies.__getitem__))
    code = part.python_code("self")
    text = re.sub(r"\A\s*def forward\(", f"def {name}(", code.src)
    return FunctionSource(text.rstrip() + "\n", dict(code.globals))


def import_lines(names: Mapping[str, Any]) -> list[str]:
    """Import statements for the global names that an import can provide, sorted.

    The objects themselves are put into the program's namespace too, so that a local function or a lambda, which no
    import provides, works as well.
    """
    lines = set()
    for name, value in names.items():
        if name == "torch":
            continue
        if name in ("inf", "nan"):
            lines.add(f"from math import {name}")
        elif name == "device":
            lines.add("from torch import device")
        elif name == "NoneType":
            lines.add("from types import NoneType")
        else:
            module, qualified = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
            if module and qualified and getattr(sys.modules.get(module), qualified, None) is value:
                lines.add(f"from {module} import {qualified}" + ("" if qualified == name else f" as {name}"))
    return sorted(lines)
