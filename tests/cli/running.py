"""What a line of the command line came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FACTORIES = "tests.cli.factories"


@dataclass(frozen=True)
class Run:
    """Exit code and what was written."""

    code: int
    out: str
    err: str


RunLine = Callable[[str], Run]
"""Runs a line without the program's name; `:Net` is a factory of these tests."""
