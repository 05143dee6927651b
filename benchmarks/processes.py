"""Runs a worker and reads its result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.memory import MALLOC_ENVIRONMENT
from benchmarks.results import Result
from benchmarks.spec import Spec

ROOT = Path(__file__).parent.parent
"""Of the repository, from which the packages `benchmarks` and `tests` are imported."""


def run_worker(spec: Spec, *, gives_memory_back: bool = False, timeout_seconds: float | None = None) -> Result:
    """The result of one measurement in a process of its own; one that dies is a result too.

    Args:
        spec: What to measure.
        gives_memory_back: Whether freed memory is to leave the process at once, so that its size is what it needs.
        timeout_seconds: When to give it up.
    """
    environment = {**os.environ, **(MALLOC_ENVIRONMENT if gives_memory_back else {})}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", spec.to_json()]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"not finished after {timeout_seconds} s"}
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["nothing on standard error"]
        return {"status": "failed", "reason": f"exit status {done.returncode}: {lines[-1]}"}
    result = json.loads(done.stdout.strip().splitlines()[-1])
    if result["status"] == "failed":
        result["traceback"] = done.stderr
    return result
