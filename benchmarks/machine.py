"""Facts about the machine that a result depends on."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import streamplan


def machine_facts(device: str, num_threads: int | None) -> dict[str, Any]:
    """What belongs beside the numbers, as JSON."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "num_threads": num_threads or torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "streamplan": streamplan.__version__,
    }


def device_slug(device: str) -> str:
    """The device's name as part of a file's name, such as `nvidia-h100-80gb-hbm3`."""
    return device if device == "cpu" else slug(torch.cuda.get_device_name())


def slug(text: str) -> str:
    """Letters and digits in lower case, anything else as one dash.

    >>> slug("NVIDIA GeForce RTX 4090 (24GB)")
    'nvidia-geforce-rtx-4090-24gb'
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def synchronize(device: str) -> None:
    """Wait for a GPU to finish what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
