"""The table of operations in the documentation, written from the registry and the tables of the front end.

    python -m streamplan.features.operations > docs/operations.md

One section per family of rules, one row per canonical operation: what its rule says of it, and the modules, functions
and methods that mean it.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType

import torch
import torch.nn.functional as F

from streamplan.rules import FAMILIES, REASONS, registered_ops, rule_for
from streamplan.trace.canonical.module_spellings import MODULES
from streamplan.trace.canonical.signatures import FUNCTIONS, METHODS

_NAMESPACES = (("torch", torch), ("F", F), ("torch.special", torch.special), ("operator", operator))
_MEANS = {
    "transpose": "permute",
    "movedim": "permute",
    **dict.fromkeys(("getitem", "select", "narrow", "chunk", "split", "unbind"), "slice"),
}
"""Spelled operation to the canonical one that lowering makes of it."""

_INTRODUCTION = """\
# Operations

The operations that streamplan has a rule for, and the ways to spell them. `F` is `torch.nn.functional` and `nn` is
`torch.nn`; the in-place variant of a function or method (`relu_`, `+=`) counts as the function. What is not listed ends
the [streamed part](glossary.md), unless a rule is [registered](rules.md) for it.

This page is generated: `python -m streamplan.features.operations`.
"""
_GLOBAL = """\
## Known not to be local

These end the streamed part too; a plan names them with the reason.
"""


def operation_page() -> str:
    """The page as Markdown text."""
    sections = [_INTRODUCTION, *(_family_section(family) for family in FAMILIES), _global_section()]
    return "\n".join(sections)


def _family_section(family: ModuleType) -> str:
    title = (family.__doc__ or "").partition("\n")[0].partition(":")[0].rstrip(".")
    ops = [op for op in registered_ops() if type(rule_for(op)).__module__ == family.__name__]
    rows = [(f"`{op}`", _summary(op), *_spellings(op)) for op in ops]
    return f"## {title}\n\n" + _table(("operation", "what is local", "modules", "functions", "methods"), rows)


def _global_section() -> str:
    return f"{_GLOBAL}\n" + _table(("operation", "why"), ((f"`{op}`", REASONS[op]) for op in sorted(REASONS)))


def _summary(op: str) -> str:
    rule = rule_for(op)
    assert rule is not None
    return rule.summary


def _spellings(op: str) -> tuple[str, str, str]:
    """Modules, functions and methods that mean an operation."""
    modules = sorted(f"nn.{cls.__name__}" for cls, (name, _) in MODULES.items() if name == op)
    functions = sorted(name for name, meaning in _function_names() if meaning == op)
    known_methods = ((name, known) for name, known in METHODS.items() if hasattr(torch.Tensor, name))
    methods = sorted(f".{name}" for name, known in known_methods if _meaning(known.op) == op and _is_shown(name))
    return _code(modules), _code(functions), _code(methods)


def _meaning(op: str) -> str:
    return _MEANS.get(op, op)


def _function_names() -> Iterator[tuple[str, str]]:
    """Every public name of a known function, and the operation it means."""
    for prefix, namespace in _NAMESPACES:
        for name, value in vars(namespace).items():
            in_place = prefix == "operator" and name.startswith("i") and hasattr(operator, f"__{name}__")
            if _is_shown(name) and not in_place and callable(value) and value.__hash__ and value in FUNCTIONS:
                yield f"{prefix}.{name}", _meaning(FUNCTIONS[value].op)


def _is_shown(name: str) -> bool:
    """Whether a name is neither private nor that of an in-place variant."""
    return not name.startswith("_") and not name.endswith("_")


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n".replace("|  |", "| |") for cells in lines)


if __name__ == "__main__":
    sys.stdout.write(operation_page())
