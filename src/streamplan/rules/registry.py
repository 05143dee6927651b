"""The table from canonical operations to rules: streamplan's own, and those that users registered."""

from __future__ import annotations

from collections.abc import Iterable

from streamplan.rules.base import Rule

_RULES: dict[str, Rule] = {}
_USER_RULES: dict[str, Rule] = {}


def register(ops: str | Iterable[str], rule: Rule) -> None:
    """Give one or several canonical operations a rule.

    Raises:
        ValueError: An operation has a rule already.
    """
    for op in (ops,) if isinstance(ops, str) else ops:
        if op in _RULES:
            raise ValueError(f"operation {op} has a rule already")
        _RULES[op] = rule


def register_user_rule(op: str, rule: Rule) -> None:
    """Give the operation that stands for a user's module or function a rule, in place of the one it may have."""
    _USER_RULES[op] = rule


def unregister_user_rule(op: str) -> None:
    """Take the rule of such an operation away."""
    del _USER_RULES[op]


def rule_for(op: str) -> Rule | None:
    """The rule of a canonical operation, or None if there is none."""
    return _RULES.get(op) or _USER_RULES.get(op)


def user_rule_identity(op: str) -> str:
    """What tells a user's rule from another one, for the fingerprint of a plan; "" for streamplan's own rules."""
    rule = _USER_RULES.get(op)
    return "" if rule is None else f"{type(rule).__module__}.{type(rule).__qualname__} {rule.identity}"


def registered_ops() -> tuple[str, ...]:
    """All canonical operations with a rule of streamplan's own, sorted."""
    return tuple(sorted(_RULES))
