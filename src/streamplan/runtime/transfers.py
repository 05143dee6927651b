"""Moving regions from host memory to the device that computes, beside what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Pending(Protocol):
    """A tensor on its way."""

    def wait(self) -> Tensor:
        """The tensor, to be used by what the device is asked to do from now on."""


class Transfers(Protocol):
    """The way from host memory to a device."""

    def begin(self, host: Tensor) -> Pending:
        """Send a tensor; may be called from any thread."""


@dataclass(frozen=True)
class Arrived:
    """A tensor that is where it is wanted."""

    tensor: Tensor

    def wait(self) -> Tensor:
        """The tensor."""
        return self.tensor


class HostTransfers:
    """To the CPU, where everything from host memory is already."""

    def begin(self, host: Tensor) -> Arrived:
        """Nothing to do."""
        return Arrived(host)


@dataclass(frozen=True)
class CopyUnderWay:
    """A tensor that a side stream writes."""

    tensor: Tensor
    event: torch.cuda.Event

    def wait(self) -> Tensor:
        """The tensor; the current stream waits for the copy, the host does not."""
        current = torch.cuda.current_stream(self.tensor.device)
        current.wait_event(self.event)
        self.tensor.record_stream(current)
        return self.tensor


class CudaTransfers:
    """To a GPU: from pinned memory, on a side stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, host: Tensor) -> CopyUnderWay:
        """Copy to pinned memory, then start the copy to the device."""
        with torch.cuda.stream(self._stream):
            tensor = host.pin_memory().to(self._device, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return CopyUnderWay(tensor, event)


def transfers_to(device: torch.device) -> Transfers:
    """The way from host memory to a device."""
    return CudaTransfers(device) if device.type == "cuda" else HostTransfers()
