"""One way to run the command line in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streamplan.cli import main
from tests.cli.running import FACTORIES, Run, RunLine


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunLine:
    """A function of a line; nothing that was measured before is known to it."""
    monkeypatch.setenv("STREAMPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run_line(line: str) -> Run:
        words = [FACTORIES + word if word.startswith(":") else word for word in line.split()]
        code = main(words)
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run_line
