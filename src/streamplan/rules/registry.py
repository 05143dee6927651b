"""The table from canonical operations to rules."""

from __future__ import annotations

from collections.abc import Iterable

from streamplan.rules.base import Rule

_RULES: dict[str, Rule] = {}


def register(ops: str | Iterable[str], rule: Rule) -> None:
    """Give one or several canonical operations a rule.

    Raises:
        ValueError: An operation has a rule already.
    """
    for op in (ops,) if isinstance(ops, str) else ops:
        if op in _RULES:
            raise ValueError(f"operation {op} has a rule already")
        _RULES[op] = rule


def rule_for(op: str) -> Rule | None:
    """The rule of a canonical operation, or None if there is none."""
    return _RULES.get(op)


def registered_ops() -> tuple[str, ...]:
    """All canonical operations with a rule, sorted."""
    return tuple(sorted(_RULES))
