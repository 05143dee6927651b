"""Tests of a tensor's very class in a model's code, which tensors without data cannot answer as real ones do.

    type(x) is torch.Tensor       true in the plain net alone: in a trace, and in the run beside it, x is of a subclass
    isinstance(x, torch.Tensor)   true in all of them

In: the code of a function that was run. Out: the line of such a test, found in its source.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import lru_cache
from types import CodeType

from streamplan.errors import TracingError
from streamplan.ir import SourceLocation
from streamplan.trace.locations import is_library, place


def type_test_error(code: CodeType) -> TracingError | None:
    """The error that a function tests for the class of tensors; None if it does not, or is a library's."""
    names = {*code.co_names, *(constant for constant in code.co_consts if isinstance(constant, str))}
    if "Tensor" not in names or names.isdisjoint({"type", "__class__"}) or is_library(code.co_filename):
        return None
    location = _type_test(code)
    if location is None:
        return None
    return TracingError(
        "forward tests whether a value is of the very class torch.Tensor",
        where=place("", "", location),
        why="a trace has no such tensors, so it would take the other branch",
        do="write isinstance(x, torch.Tensor), which holds for traced values too",
    )


@lru_cache(maxsize=1024)
def _type_test(code: CodeType) -> SourceLocation | None:
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):  # there is no source, or a part of an expression
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts = list(ast.walk(node))
            if any(map(_is_class_of, parts)) and any(map(_is_tensor, parts)):
                return SourceLocation(code.co_filename, first + node.lineno - 1, lines[node.lineno - 1].strip())
    return None


def _is_class_of(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "type" and len(node.args) == 1
    return isinstance(node, ast.Attribute) and node.attr == "__class__"


def _is_tensor(node: ast.AST) -> bool:
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    return name == "Tensor" or (isinstance(node, ast.Constant) and node.value == "Tensor")
