"""Peak memory of a stretch of code: resident bytes of the process on the CPU, allocated bytes on a GPU."""

from __future__ import annotations

import ctypes
import gc
import resource
from pathlib import Path

import torch

MALLOC_ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""Of processes whose memory is measured on the CPU: glibc then gives freed tensors back at once, which costs time."""

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to `clear_refs`, resets the peak resident set (proc_pid_clear_refs(5))."""


class PeakMemory:
    """Peak bytes since it was made, above those at that moment.

    Args:
        device: "cpu" or "cuda".
        base_bytes: On a GPU, bytes of what was there before anything was prepared: then all that torch's allocator
            reserves above them counts, what recordings keep for their intermediate results among it, which are not
            allocated when they are played.
    """

    def __init__(self, device: str, base_bytes: int | None = None) -> None:
        self._device = device
        gc.collect()
        if device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self._start_bytes = torch.cuda.memory_allocated() if base_bytes is None else base_bytes
            self.measure = "torch.cuda.max_memory_" + ("allocated" if base_bytes is None else "reserved")
            return
        _trim_heap()
        self.measure = "VmHWM" if _reset_peak() else "ru_maxrss"
        self._start_bytes = _status_bytes("VmRSS")

    @property
    def peak_bytes(self) -> int:
        """The peak so far; with `ru_maxrss` it is a lower bound of 0 where the process was larger before."""
        if self.measure == "VmHWM":
            peak = _status_bytes("VmHWM")
        elif self.measure == "ru_maxrss":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        elif self.measure == "torch.cuda.max_memory_reserved":
            peak = torch.cuda.max_memory_reserved()
        else:
            peak = torch.cuda.max_memory_allocated()
        return max(0, peak - self._start_bytes)


def _trim_heap() -> None:
    """Give back what glibc keeps; other C libraries have no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> bool:
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024  # "123 kB"
    raise OSError(f"{_STATUS} has no {field}")
