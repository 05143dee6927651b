"""Planning allocates nothing of the size of an activation or of the net."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_MOST_BYTES = 200 * 2**20
"""Allowed growth of the process above `import torch`, in which torch's own tracing machinery is most."""

_PROGRAM = """
import json, time
from pathlib import Path
import torch

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024  # ru_maxrss would remember the process that started this one

before = peak()
import streamplan
from tests.nets.resnet import resnet50

with torch.device("meta"):
    model = resnet50().eval()
start = time.perf_counter()
plan = streamplan.plan(model, (1, 3, 65536, 65536), 4096)
seconds = time.perf_counter() - start
print(json.dumps({"bytes": peak() - before, "seconds": seconds, "tiles": plan.num_tiles}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_a_huge_plan_takes_little_memory(record_property: Callable[[str, object], None]) -> None:
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=root, capture_output=True, text=True, check=True, timeout=300
    )
    measured = json.loads(run.stdout)
    assert measured["tiles"] >= 256
    record_property("seconds", measured["seconds"])
    record_property("MiB", measured["bytes"] / 2**20)
    assert 0 < measured["bytes"] < _MOST_BYTES
