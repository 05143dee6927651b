"""What tiles give to host memory: blocks of the cut for arrays, and gradients of images that are not on the device.

A tile's share arrives while the next tile is computed, and is then given away in the order it was computed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from streamplan.runtime.transfers import Pending, Transfers, transfers_to

Take = Callable[[Tensor], object]
"""Does something with a tensor in host memory."""


class HostWriter:
    """Fetches tensors and gives them away in order; `finish` must come last."""

    def __init__(self, device: torch.device, transfers: Transfers | None = None) -> None:
        """Fetch from a device.

        Args:
            device: The device.
            transfers: The way from it; None takes that of the device.
        """
        self._device, self._transfers = device, transfers
        self._waiting: deque[tuple[Pending, Take]] = deque()

    def send(self, x: Tensor, take: Take) -> None:
        """Fetch a tensor and call `take` with it, at once or later."""
        if self._transfers is None:
            self._transfers = transfers_to(self._device)
        self._waiting.append((self._transfers.fetch(x), take))
        self._take(self._transfers.num_fetched_ahead)

    def finish(self) -> None:
        """Give away everything that was sent."""
        self._take(0)

    def _take(self, num_left: int) -> None:
        while len(self._waiting) > num_left:
            pending, take = self._waiting.popleft()
            take(pending.wait())
