"""How much memory there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

_RESERVE = 0.1
"""Left to others, and to what no projection sees: fragmentation, libraries, the rest of the program."""

_STEPS = 5
"""Digits of a budget, in binary: what is free changes all the time, and plans should not."""


@dataclass(frozen=True)
class Budget:
    """Bytes that a plan may take, and why so many."""

    num_bytes: int
    source: str


def free_budget(device: torch.device) -> Budget | None:
    """What a device has free, less a tenth; None if that cannot be found out."""
    free = _free_bytes(device)
    if free is None:
        return None
    step = 2 ** max(0, free.bit_length() - _STEPS)
    budget = int((1 - _RESERVE) * free) // step * step
    return Budget(budget, f"what is free on {device}, less a tenth")


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] if torch.cuda.is_available() else None
    if device.type != "cpu":
        return None
    found = [number for number in (_available(), _left_of_group()) if number is not None]
    return min(found) if found else None


def _available() -> int | None:
    """What the kernel thinks can be had without swapping; Linux only."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _left_of_group() -> int | None:
    """What the control group, such as a container's, leaves."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        used = int((group / "memory.current").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used) if limit.isdigit() else None
