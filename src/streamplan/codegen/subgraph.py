"""Resident code: a part of the traced fx graph as the source of one function.

The resident parts run the user's own modules, so their hooks, buffers and randomness behave as in the plain net; only
the streamed calls are written anew. torch.fx writes the source, and names into it as they are: those that are no
ordinary ones are taken out of its hands (see `names`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import torch.fx
from torch.fx import Graph, Node

from streamplan.codegen.names import Renamed, attribute, call, is_dotted, is_identifier


@dataclass(frozen=True)
class FunctionSource:
    """The source of one function, and what its global names stand for."""

    text: str
    """`def name(self, ...)` with its body."""
    globals: Mapping[str, Any]
    """Global name to object."""


def function_source(
    graph: Graph,
    name: str,
    inputs: Iterable[str],
    keep: Callable[[Node], bool],
    result: Any,
    renamed: Mapping[Any, Renamed] = MappingProxyType({}),
) -> FunctionSource:
    """Write the nodes that `keep` accepts as a function.

    Args:
        graph: The traced graph.
        name: Name of the function.
        inputs: Names of nodes whose values are the function's arguments, after `self`.
        keep: Which nodes the function computes.
        result: What it returns: nodes of `graph` in tuples, lists or dicts.
        renamed: Functions that have another name in the program.
    """
    by_name = {node.name: node for node in graph.nodes}
    part = Graph()
    part.erase_node(part.placeholder("self"))  # so that no value is called like the model
    copies: dict[Node, Node] = {}
    for argument in inputs:
        copies[by_name[argument]] = placeholder = part.placeholder(argument)
        placeholder.target = placeholder.name
    for node in graph.nodes:
        if node not in copies and keep(node):
            copies[node] = _copy(part, node, copies.__getitem__, renamed)
    part.output(torch.fx.node.map_arg(result, copies.__getitem__))
    code = part.python_code("self")
    text = re.sub(r"\A\s*def forward\(", f"def {name}(", code.src)
    return FunctionSource(text.rstrip() + "\n", dict(code.globals))


class _Self:
    """The model, as an argument of a node."""

    def __repr__(self) -> str:
        return "self"


def _copy(part: Graph, node: Node, value_of: Callable[[Node], Node], renamed: Mapping[Any, Renamed]) -> Node:
    """Copy a node into another graph, in which no name that cannot be code is left."""
    target: Any = node.target
    is_ordinary = all(map(is_identifier, node.kwargs))
    if node.op in ("get_attr", "call_module"):
        is_ordinary = is_ordinary and is_dotted(str(target))
    if is_ordinary and target not in renamed:
        return part.node_copy(node, value_of)
    model: Any = _Self()
    args: Any = torch.fx.node.map_arg(node.args, value_of)
    kwargs: Any = torch.fx.node.map_arg(node.kwargs, value_of)
    if node.op == "get_attr":
        return part.create_node("call_function", attribute, (model, target), name=node.name)
    if is_ordinary:
        return part.create_node("call_function", renamed[target], args, kwargs, name=node.name)
    if node.op == "call_module":
        module = part.call_function(attribute, (model, target))
        return part.create_node("call_function", call, (module, args, kwargs), name=node.name)
    function = Renamed(partial(call, target), f"call_{node.name}")
    return part.create_node("call_function", function, (args, kwargs), name=node.name)


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
            module, qualified = str(getattr(value, "__module__", "")), str(getattr(value, "__qualname__", ""))
            is_writable = all(map(is_identifier, (*module.split("."), qualified)))
            if is_writable and getattr(sys.modules.get(module), qualified, None) is value:
                lines.add(f"from {module} import {qualified}" + ("" if qualified == name else f" as {name}"))
    return sorted(lines)
