"""When memory runs out: the error that says in which phase, what was projected, what is measured, and what to change.

What is measured is read while everything is still there. Then the traceback of torch's error is dropped, since its
frames keep the tile's activations alive, and the new error is raised where no such frame is left: whoever catches it
can go on at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from streamplan.errors import OutOfMemoryError, StreamPlanError
from streamplan.planning.memory import CallMemory, MemoryItem, Phase, Place, TileMemory, project_memory
from streamplan.planning.text import format_bytes
from streamplan.runtime.progress import Progress

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

Result = TypeVar("Result")

_SIGNS = (
    "out of memory",  # CUDA
    "can't allocate memory",  # the CPU's allocator
    "std::bad_alloc",
    "STATUS_ALLOC_FAILED",  # cuDNN, cuBLAS
)
_NAMES: dict[Phase, str] = {
    "preparation": "preparing weights and small tensors",
    "forward": "forward pass",
    "head": "forward pass of the resident part",
    "recomputation": "backward pass, while a tile is computed again",
    "backward": "backward pass",
}
_STATUS = Path("/proc/self/status")
_STATUS_FIELDS = {"VmRSS": "resident", "VmHWM": "its peak", "VmSize": "address space"}
_MAX_REMEDIES = 4
_SMALL_SHARE = 0.03
"""Of what is projected: nothing is proposed about items below it."""


class DeviceOutOfMemoryError(OutOfMemoryError, torch.OutOfMemoryError):
    """A GPU's memory ran out; an `OutOfMemoryError` that is torch's too."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python say that there is no memory left; streamplan's own error is not meant."""
    if isinstance(error, StreamPlanError):
        return False
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    )


def reporting_shortage(
    compute: Callable[[], Result], tiles: TileMemory, progress: Progress, device: torch.device
) -> Result:
    """The result of `compute`.

    Args:
        compute: What may run out of memory.
        tiles: The plan, and what a tile needs.
        progress: Where it is.
        device: Where tiles are computed.

    Raises:
        OutOfMemoryError: Memory ran out. Its cause is the error found, without traceback.
    """
    try:
        return compute()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        cause = error
        place: Place = "device" if device.type == "cpu" or _is_of_device(error) else "host"
        measured = _on_gpu(device) if place == "device" and device.type == "cuda" else _on_host()
    del compute  # it holds the call's tensors, and the error to be raised holds this frame
    cause.__context__ = None
    cause.__cause__ = None
    items = project_memory(tiles, progress.memory, progress.phase, progress.num_done, place)
    memory = str(device) if place == "device" else "the host"
    raise _shortage(cause.with_traceback(None), items, measured, progress, memory) from cause


def _is_of_device(error: BaseException) -> bool:
    """Whether a GPU ran out, rather than the host."""
    marks = ("STATUS_ALLOC_FAILED", "CUDA error: out of memory")  # of libraries, and of what is not a tensor
    return isinstance(error, torch.OutOfMemoryError) or any(mark in str(error) for mark in marks)


def _on_gpu(device: torch.device) -> dict[str, int]:
    """What torch's allocator and the driver say."""
    stats = torch.cuda.memory_stats(device)
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return {
        "allocated": stats["allocated_bytes.all.current"],
        "its peak": stats["allocated_bytes.all.peak"],
        "reserved": stats["reserved_bytes.all.current"],
        "free": free_bytes,
        "in all": total_bytes,
    }


def _on_host() -> dict[str, int]:
    """What the system says of this process, where it says something."""
    lines = _STATUS.read_text().splitlines() if _STATUS.is_file() else []
    fields = {name: value for name, _, value in (line.partition(":") for line in lines)}
    found = {
        label: int(fields[name].split()[0]) * 1024  # "123 kB"
        for name, label in _STATUS_FIELDS.items()
        if name in fields
    }
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            found["its limit"] = limit
    return found


def _shortage(
    cause: BaseException,
    items: tuple[MemoryItem, ...],
    measured: dict[str, int],
    progress: Progress,
    memory: str,
) -> OutOfMemoryError:
    kind = DeviceOutOfMemoryError if isinstance(cause, torch.OutOfMemoryError) else OutOfMemoryError
    call = progress.memory
    total = sum(item.num_bytes for item in items)
    lines = [
        f"{type(cause).__name__}: {(str(cause).splitlines() or [''])[0]}",
        f"projected for this phase at its largest, on {memory}: {format_bytes(total)}",
        *(_line(item) for item in items),
        f"measured on {memory}: "
        + (", ".join(f"{label} {format_bytes(count)}" for label, count in measured.items()) or "nothing"),
    ]
    if call.is_autocast:
        lines.insert(2, "under autocast maps are about half as large as projected")
    return kind(
        f"out of memory on {memory}: {_NAMES[progress.phase]}",
        where=_where(progress),
        why="\n".join(lines),
        do="\n".join(_remedies(items, total, call)),
        phase=progress.phase,
        tile=None if progress.index is None else progress.num_done,
        projected={item.what: item.num_bytes for item in items},
        measured=measured,
    )


def _line(item: MemoryItem) -> str:
    return f"  {format_bytes(item.num_bytes):>9}  {item.what}{', estimated' if item.is_estimate else ''}"


def _where(progress: Progress) -> str:
    if progress.index is None:
        return ""
    step = ", ".join(map(str, progress.index))
    return (
        f"tile {progress.num_done + 1} of {progress.num_tiles} in the order of this pass, step ({step}) along the axes"
    )


def _remedies(items: tuple[MemoryItem, ...], total: int, call: CallMemory) -> list[str]:
    """What to change, for the largest items first."""
    large = [item.remedy for item in items if item.remedy and item.num_bytes >= _SMALL_SHARE * total]
    remedies = list(dict.fromkeys(large))[:_MAX_REMEDIES]
    if not call.is_autocast:
        remedies.append("torch.autocast, or a model and images of two bytes per number")
    return [f"{number}. {remedy}" for number, remedy in enumerate(remedies, 1)]
