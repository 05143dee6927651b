"""What was measured on a device, kept in a file: work space of operations, and how fast it computes.

There is a file for each device, torch version and number of threads, in `$STREAMPLAN_CACHE`, `$XDG_CACHE_HOME` or
`~/.cache`. Without one, work space is guessed and times are ratios of FLOPs.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from streamplan.projection.work_space import guess_work_space, measure_work_space, needs_work_space, signature


@dataclass
class Calibration:
    """Measurements of one device.

    Args:
        device: The device.
        work_space: Bytes by signature of an operation.
        speeds: Seconds by what they are for; see `streamplan.projection.speeds`.
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


def cache_path(device: torch.device) -> Path:
    """The file of a device."""
    base = os.environ.get("STREAMPLAN_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    digest = hashlib.sha256(f"{device_name(device)}, torch {torch.__version__}".encode()).hexdigest()[:16]
    return Path(base) / "streamplan" / f"calibration-{digest}.json"


def load_calibration(device: torch.device, *, is_measuring: bool = False) -> Calibration:
    """What is known of a device; nothing where it was never measured, or its file cannot be read."""
    try:
        data: Mapping[str, Any] = json.loads(cache_path(device).read_text(encoding="utf-8"))
        work_space = {str(key): int(value) for key, value in data["work_space"].items()}
        speeds = {str(key): float(value) for key, value in data["speeds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Calibration(device, is_measuring=is_measuring)
    return Calibration(device, work_space, speeds, is_measuring)


def save_calibration(calibration: Calibration) -> None:
    """Keep what was measured; of two processes that do so at the same time, one wins."""
    path = cache_path(calibration.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "device": f"{device_name(calibration.device)}, torch {torch.__version__}",
        "work_space": dict(sorted(calibration.work_space.items())),
        "speeds": dict(sorted(calibration.speeds.items())),
    }
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=0), encoding="utf-8")
    temporary.replace(path)
