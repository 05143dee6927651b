"""The state of torch's generators, on the CPU and on the device of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RandomState:
    """State of the generators that a forward pass on one device draws from."""

    device: torch.device
    on_cpu: Tensor
    on_device: Tensor | None
    """None for a model on the CPU."""

    @classmethod
    def current(cls, device: torch.device) -> RandomState:
        """The state as it is now."""
        return cls(device, torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Inside the `with` block the generators go on from this state; afterwards from where they were."""
        with torch.random.fork_rng([self.device] if self.on_device is not None else []):
            torch.set_rng_state(self.on_cpu)
            if self.on_device is not None:
                torch.cuda.set_rng_state(self.on_device, self.device)
            yield
