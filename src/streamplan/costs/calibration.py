"""What was measured on a device, kept in a file: work space of operations, and how fast it computes.

There is a file for each device, torch version and number of threads, in `$STREAMPLAN_CACHE`, `$XDG_CACHE_HOME` or
`~/.cache`. Without one, work space is guessed and times are ratios of FLOPs. A file that is none of ours is measured
anew and replaced; where nothing can be written, the process remembers, and says so once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from streamplan.costs.work_space import guess_work_space, measure_work_space, needs_work_space, signature


@dataclass
class Calibration:
    """Measurements of one device.

    Args:
        device: The device.
        work_space: Bytes by signature of an operation.
        speeds: Seconds by what they are for; see `streamplan.costs.speeds`.
        is_measuring: Whether what is not known is measured now; else it is guessed, or left out.
    """

    device: torch.device
    work_space: dict[str, int] = field(default_factory=dict)
    speeds: dict[str, float] = field(default_factory=dict)
    is_measuring: bool = False
    asked: set[str] = field(default_factory=set)
    """Signatures asked for so far."""

    @property
    def num_guessed(self) -> int:
        """Operations asked for whose work space was guessed."""
        return sum(key not in self.work_space for key in self.asked)

    def reserve(self, func: Any, args: tuple[Any, ...]) -> int:
        """Work space of a call, in bytes; see `LiveBytes`."""
        if not needs_work_space(func):
            return 0
        key = signature(func, args)
        self.asked.add(key)
        if key not in self.work_space and self.is_measuring:
            self.work_space[key] = measure_work_space(func, args, self.device)
        return self.work_space[key] if key in self.work_space else guess_work_space(func, args)

    def speed(self, key: str, measure: Callable[[], Mapping[str, float]]) -> float | None:
        """A speed, measured now if that is wanted; None if it is not known."""
        if key not in self.speeds and self.is_measuring:
            self.speeds.update(measure())
        return self.speeds.get(key)

    def describe(self) -> str:
        """Where the reserve of a projection comes from, in words."""
        if not self.asked:
            return "no operation takes work space"
        measured = len(self.asked) - self.num_guessed
        if not measured:
            return "guessed; calibrate=True measures it on the device"
        guessed = f", guessed for {self.num_guessed}" if self.num_guessed else ""
        return f"measured on {device_name(self.device)} for {measured} operations{guessed}"


def device_name(device: torch.device) -> str:
    """A device as people call it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device) if torch.cuda.is_available() else "a GPU that is not here"
    return f"{_cpu_name()}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


Measurements = tuple[dict[str, int], dict[str, float]]
"""Work space and speeds."""
_UNWRITTEN: dict[Path, Measurements] = {}
"""What this process measured and could not write, by the file it belongs in."""


def cache_path(device: torch.device) -> Path:
    """The file of a device."""
    base = os.environ.get("STREAMPLAN_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(_home() / ".cache")
    digest = hashlib.sha256(f"{device_name(device)}, torch {torch.__version__}".encode()).hexdigest()[:16]
    return Path(base) / "streamplan" / f"calibration-{digest}.json"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user that the system has no entry of, as in containers
        return Path("/nonexistent")


def load_calibration(device: torch.device, *, is_measuring: bool = False) -> Calibration:
    """What is known of a device; nothing where it was never measured, or its file is none of ours."""
    return Calibration(device, *_known(cache_path(device)), is_measuring)


def save_calibration(calibration: Calibration) -> None:
    """Keep what was measured, beside what other processes have written since it was read.

    Where it cannot be written, a warning names the file, once, and this process remembers.
    """
    path = cache_path(calibration.device)
    work_space, speeds = _known(path)
    work_space |= calibration.work_space
    speeds |= calibration.speeds
    data = {
        "device": f"{device_name(calibration.device)}, torch {torch.__version__}",
        "work_space": dict(sorted(work_space.items())),
        "speeds": dict(sorted(speeds.items())),
    }
    try:
        _replace(path, json.dumps(data, indent=0))
    except OSError as error:
        is_first = path not in _UNWRITTEN
        _UNWRITTEN[path] = work_space, speeds
        if is_first:
            warnings.warn(
                f"what was measured cannot be kept in {path} ({error.strerror or error}): it is known until this "
                "process ends; set STREAMPLAN_CACHE to a folder that can be written",
                stacklevel=2,
            )
    else:
        _UNWRITTEN.pop(path, None)


def _known(path: Path) -> Measurements:
    """What a file holds, and what this process could not write into it."""
    work_space, speeds = _read(path)
    more_work_space, more_speeds = _UNWRITTEN.get(path, ({}, {}))
    return work_space | more_work_space, speeds | more_speeds


def _read(path: Path) -> Measurements:
    try:
        if not path.is_file():  # reading a pipe would wait for a writer
            return {}, {}
        data = json.loads(path.read_text(encoding="utf-8"))
        work_space = {str(key): int(value) for key, value in data["work_space"].items()}
        speeds = {str(key): float(value) for key, value in data["speeds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}, {}
    is_sound = all(value >= 0 for value in work_space.values()) and all(
        0 < value < math.inf for value in speeds.values()
    )
    return (work_space, speeds) if is_sound else ({}, {})


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole or not at all, whoever else writes it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
