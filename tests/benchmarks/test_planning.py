"""`benchmarks.planning` runs, and its table says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.planning import NETS, table
from benchmarks.processes import ROOT


def test_it_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.planning", "--net", "resnet18", "--extent", "2048"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["net"] == "resnet18"
    assert found["num_cuts"] > 8
    assert found["plan_seconds"] > 0
    assert len(found["new_size_seconds"]) == 7
    assert all(seconds > 0 for seconds in found["new_size_seconds"])


def test_the_table() -> None:
    runs = [
        {"net": name, "num_cuts": 3, "plan_seconds": seconds, "new_size_seconds": [0.02, 0.05]}
        for seconds in (1.0, 2.0, 4.0)
        for name in NETS
    ]
    lines = table(runs).splitlines()
    assert len(lines) == 2 + len(NETS)
    assert lines[2] == "| resnet18 | 3 | 2.00 (1.00 to 4.00) | 35 (20 to 50) |"
