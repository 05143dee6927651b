"""Runs in a file: what was found, written after every net, so that an interrupted experiment leaves what it has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

Run = TypeVar("Run")


def save_runs(path: Path, settings: Any, runs: Sequence[Any]) -> None:
    """Write dataclasses: the settings of an experiment and its runs."""
    text = json.dumps({"settings": asdict(settings), "runs": [asdict(run) for run in runs]}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def load_runs(path: Path, kind: type[Run]) -> list[Run]:
    """The runs of a file, of the class they were; its sequences are tuples."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return [kind(**{name: _frozen(value) for name, value in run.items()}) for run in stored["runs"]]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
