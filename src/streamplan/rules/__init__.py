"""One rule per canonical operation: locality, what it reads, and how it runs on a region. One file per family."""

from streamplan.rules import (
    channels,
    convolution,
    dropout,
    indexing,
    normalization,
    padding,
    pointwise,
    pooling,
    repetition,
    reshaping,
    resizing,
)
from streamplan.rules.base import CodeWriter, Draw, Locality, MapSpec, Rule, RuleContext, Verdict
from streamplan.rules.local import LocalRule
from streamplan.rules.pointwise import ADDEND, BIAS
from streamplan.rules.reasons import REASONS
from streamplan.rules.registry import register, registered_ops, rule_for, user_rule_identity

FAMILIES = (
    convolution, pooling, pointwise, dropout, channels, repetition, normalization, padding, resizing, indexing,
    reshaping,
)  # fmt: skip
"""The modules whose import registers the rules."""

__all__ = [
    "ADDEND",
    "BIAS",
    "FAMILIES",
    "REASONS",
    "CodeWriter",
    "Draw",
    "LocalRule",
    "Locality",
    "MapSpec",
    "Rule",
    "RuleContext",
    "Verdict",
    "register",
    "registered_ops",
    "rule_for",
    "user_rule_identity",
]
