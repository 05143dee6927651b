"""Projected memory: what a call is expected to take in each of its phases, item by item. Plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProjectedItem:
    """Something that takes memory."""

    what: str
    num_bytes: int


@dataclass(frozen=True)
class PhaseProjection:
    """The most that one phase needs at once."""

    phase: str
    """`forward`, `head`, `backward` or `end`: what is left when the tiles are done, and gradients of folded tensors."""
    items: tuple[ProjectedItem, ...]
    """What it consists of, largest first."""
    operation: str = ""
    """The operation that runs when it is most."""

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return sum(item.num_bytes for item in self.items)


@dataclass(frozen=True)
class MemoryProjection:
    """What a training step needs on the device that computes, phase by phase."""

    phases: tuple[PhaseProjection, ...]
    """In the order they run."""
    host_bytes: int
    """Carried samples that wait in host memory."""
    reserve: str = ""
    """Where the reserve for kernels' work space comes from, in words."""

    @property
    def peak(self) -> PhaseProjection:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.num_bytes)

    @property
    def peak_bytes(self) -> int:
        """What the step needs."""
        return self.peak.num_bytes
