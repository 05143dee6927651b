"""Moving regions between host memory and the device that computes, beside what it computes.

To a GPU, a region goes through pinned memory on a stream of its own, from a GPU on another one:

    thread      image -> pinned            in order
    stream in            pinned -> region  an event at its end, for which the computing stream waits  [1]
    stream out           block -> pinned   begins when the block is computed                          [2]
    host                           pinned -> array   waits for the event at the end of [2]

Each side has memory of its own in torch's allocators. A region's memory was taken by the stream that writes it, so the
allocator is told which other stream reads it [3]; pinned memory is not used again before the copy that torch saw begin
in it has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor


class Pending(Protocol):
    """A tensor on its way."""

    @property
    def tensor(self) -> Tensor:
        """Where it will be, or is."""

    def wait(self) -> Tensor:
        """The tensor, to be used by what the device is asked to do from now on; in host memory, by anything."""


class Transfers(Protocol):
    """The ways between host memory and a device."""

    num_fetched_ahead: int
    """Tensors that may be on their way to host memory while the device goes on."""

    def begin(self, host: Tensor) -> Pending:
        """Send a tensor to the device; may be called from any thread."""

    def fetch(self, x: Tensor) -> Pending:
        """Get a tensor that the current stream computes into host memory."""

    def restore(self, fetched: Any) -> Pending:
        """Send back to the device what `fetch` got, arrived or not."""


@dataclass(frozen=True)
class Arrived:
    """A tensor that is where it is wanted."""

    tensor: Tensor

    def wait(self) -> Tensor:
        """The tensor."""
        return self.tensor


class HostTransfers:
    """To and from the CPU, where everything from host memory is already."""

    num_fetched_ahead = 0

    def begin(self, host: Tensor) -> Arrived:
        """Nothing to do."""
        return Arrived(host)

    def fetch(self, x: Tensor) -> Arrived:
        """Nothing to do."""
        return Arrived(x.detach())

    def restore(self, fetched: Arrived) -> Arrived:
        """Nothing to do."""
        return fetched


@dataclass(frozen=True)
class CopyUnderWay:
    """A tensor that a side stream writes to a device."""

    tensor: Tensor
    event: torch.cuda.Event

    def wait(self) -> Tensor:
        """The tensor; the current stream waits for the copy [1], the host does not."""
        current = torch.cuda.current_stream(self.tensor.device)
        current.wait_event(self.event)
        self.tensor.record_stream(current)  # [3]
        return self.tensor


@dataclass(frozen=True)
class FetchUnderWay:
    """A tensor that a side stream writes to pinned memory."""

    tensor: Tensor
    event: torch.cuda.Event

    def wait(self) -> Tensor:
        """The tensor; the host waits for the copy, not for what the device was asked to do since."""
        self.event.synchronize()
        return self.tensor


class CudaTransfers:
    """To and from a GPU, by pinned memory, on side streams."""

    num_fetched_ahead = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device
        given: int | None = device.index
        index = torch.cuda.current_device() if given is None else given
        self._inward, self._outward = _side_stream(index, "inward"), _side_stream(index, "outward")

    def begin(self, host: Tensor) -> CopyUnderWay:
        """Copy to pinned memory, then start the copy to the device."""
        # `pin_memory()` would keep the strides of a view, and so pin as many bytes as the whole image spans.
        return self._send(torch.empty_like(host, pin_memory=True).copy_(host))

    def _send(self, pinned: Tensor) -> CopyUnderWay:
        with torch.cuda.stream(self._inward):
            tensor = pinned.to(self._device, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._inward)
        return CopyUnderWay(tensor, event)

    def fetch(self, x: Tensor) -> FetchUnderWay:
        """Start the copy to pinned memory, behind what the current stream was asked to do so far [2]."""
        x = x.detach()
        self._outward.wait_stream(torch.cuda.current_stream(x.device))
        pinned = torch.empty_like(x, device="cpu", pin_memory=True)
        with torch.cuda.stream(self._outward):
            pinned.copy_(x, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._outward)
        x.record_stream(self._outward)  # [3]
        return FetchUnderWay(pinned, event)

    def restore(self, fetched: FetchUnderWay) -> CopyUnderWay:
        """Start the copy back, behind the one that fetched it."""
        self._inward.wait_event(fetched.event)
        return self._send(fetched.tensor)


@cache
def _side_stream(index: int, way: str) -> torch.cuda.Stream:
    """The one stream of a GPU for a way; memory is kept by stream, so a new one each time would take new memory."""
    return torch.cuda.Stream(index)  # type: ignore[no-untyped-call]


def transfers_to(device: torch.device) -> Transfers:
    """The ways between host memory and a device."""
    return CudaTransfers(device) if device.type == "cuda" else HostTransfers()


def numbers_on(device: torch.device, values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """A vector of a few numbers; `torch.tensor(values, device=device)` would wait for all that a GPU has to do."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, device="cpu", pin_memory=True).to(device, non_blocking=True)
