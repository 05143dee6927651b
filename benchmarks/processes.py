"""Runs workers and reads their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import TracebackType

from benchmarks.memory import MALLOC_ENVIRONMENT
from benchmarks.results import Result
from benchmarks.spec import Spec

ROOT = Path(__file__).parent.parent
"""Of the repository, from which the packages `benchmarks` and `tests` are imported."""
_RESULT = '{"status"'
"""How a line with a result begins; libraries may print others."""


def run_worker(spec: Spec, *, gives_memory_back: bool = False, timeout_seconds: float | None = None) -> Result:
    """The result of one measurement in a process of its own; one that dies is a result too.

    Args:
        spec: What to measure.
        gives_memory_back: Whether freed memory is to leave the process at once, so that its size is what it needs.
        timeout_seconds: When to give it up.
    """
    environment = {**os.environ, **(MALLOC_ENVIRONMENT if gives_memory_back else {})}
    try:
        done = subprocess.run(
            _command(spec),
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


class Server:
    """A worker that goes on living and takes a step, or profiles one, when asked; used as a context manager.

    Args:
        spec: What it prepares.
        timeout_seconds: When to give up an answer.
        gives_memory_back: As for `run_worker`.
    """

    def __init__(self, spec: Spec, timeout_seconds: float | None = None, *, gives_memory_back: bool = False) -> None:
        self._timeout_seconds = timeout_seconds
        self._process = subprocess.Popen(
            [*_command(spec), "--serve"],
            cwd=ROOT,
            env={**os.environ, **(MALLOC_ENVIRONMENT if gives_memory_back else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ready: Result | None = None

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ready(self) -> Result:
        """What came of its preparation; waits for it."""
        if self._ready is None:
            self._ready = self._answer()
        return self._ready

    def ask(self, request: str) -> Result:
        """The answer to "step" or "profile"; that of the preparation if it failed."""
        if self.ready()["status"] != "ok":
            return self.ready()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, which the answer tells
            self._process.stdin.write(f"{request}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Result:
        assert self._process.stdout is not None
        timer = None if self._timeout_seconds is None else Timer(self._timeout_seconds, self._process.kill)
        if timer is not None:
            timer.start()
        for line in self._process.stdout:
            if line.startswith(_RESULT):
                result: Result = json.loads(line)
                break
        else:
            result = {"status": "failed", "reason": f"exit status {self._process.wait()}"}
        if timer is not None:
            timer.cancel()
        return result


def _command(spec: Spec) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", spec.to_json()]
