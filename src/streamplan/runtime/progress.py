"""How far a call has come: told to the user's callback, and read when memory runs out in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from streamplan.planning.memory import CallMemory, Phase
from streamplan.runtime.running import Index


class OnTile(Protocol):
    """A progress callback."""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Called after each tile with the phase ("forward" or "backward"), tiles done, and the number of tiles."""

    def close(self) -> None:
        """Called when a pass over the tiles is over, by an exception or not."""


@dataclass
class Progress:
    """Where a call is."""

    num_tiles: int
    """Of one pass."""
    memory: CallMemory
    """What the call takes, as far as it is known."""
    on_tile: OnTile | None = None
    phase: Phase = "preparation"
    index: Index | None = None
    """The tile under way."""
    num_done: int = 0
    """Tiles of this pass that are done."""

    def begin(self, phase: Phase) -> None:
        """A phase begins, before its first tile."""
        self.phase, self.index, self.num_done = phase, None, 0

    @contextmanager
    def running(self, phase: Phase) -> Iterator[None]:
        """A pass over the tiles runs inside the `with` block."""
        self.begin(phase)
        try:
            yield
        finally:
            if self.on_tile is not None:
                self.on_tile.close()

    def enter(self, phase: Phase, index: Index) -> None:
        """A tile's part in a phase begins."""
        self.phase, self.index = phase, index

    def leave(self) -> None:
        """A tile is done."""
        self.index, self.num_done = None, self.num_done + 1
        if self.on_tile is not None:
            self.on_tile("forward" if self.phase == "forward" else "backward", self.num_done, self.num_tiles)
