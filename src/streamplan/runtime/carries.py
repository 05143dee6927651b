"""What tiles hand to each other, during a pass and between the two.

    forward    tile i ── handed on ──> tile i + 1, which receives it            `Handover`
                                            └── kept for the backward pass ──>  `KeptCarries`

What is kept in host memory leaves on a stream of its own while the device goes on, and comes back while the tile after
its own is under way in the backward pass, so that nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from streamplan.runtime.running import Index, Received
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import CarryKey
from streamplan.runtime.transfers import Arrived, Pending, Transfers, transfers_to


def next_along(index: Index, axis: int) -> Index:
    """The next tile along an axis."""
    return (*index[:axis], index[axis] + 1, *index[axis + 1 :])


class Handover:
    """What tiles of one pass have handed on and nobody has received yet."""

    def __init__(self, segment: Segment) -> None:
        """Nothing yet."""
        self._segment = segment
        self._by_receiver: dict[Index, Received] = {}

    def leave(self, index: Index, handed: Mapping[CarryKey, Tensor]) -> None:
        """Take what the tile at `index` hands on."""
        for (name, axis), tensor in handed.items():
            receiver = next_along(index, axis)
            if receiver[axis] < len(self._segment.schedules[axis].steps):
                self._by_receiver.setdefault(receiver, {})[name, axis] = tensor.detach()

    def take(self, index: Index) -> Received:
        """What the tile at `index` receives; it is gone afterwards."""
        return self._by_receiver.pop(index, {})


class KeptCarries:
    """What tiles received, until they are computed again."""

    def __init__(self, segment: Segment, device: torch.device, transfers: Transfers | None = None) -> None:
        """Nothing yet.

        Args:
            segment: The segment, which says where carries are kept.
            device: Where tiles are computed.
            transfers: The way to host memory and back; None takes that of the device.
        """
        self._transfers = (transfers or transfers_to(device)) if segment.keeps_carries_on_host else None
        self._kept: dict[Index, dict[CarryKey, Pending]] = {}
        self._returning: dict[Index, dict[CarryKey, Pending]] = {}

    def keep(self, index: Index, received: Received) -> None:
        """Keep what the tile at `index` received."""
        store = Arrived if self._transfers is None else self._transfers.fetch
        self._kept[index] = {key: store(x) for key, x in received.items()}

    def bring(self, index: Index | None) -> None:
        """Begin to bring back what is kept for a tile, if there is anything."""
        kept = self._kept.pop(index, None) if index is not None else None
        if index is not None and kept is not None:
            transfers = self._transfers
            self._returning[index] = kept if transfers is None else {k: transfers.restore(p) for k, p in kept.items()}

    def take(self, index: Index) -> Received:
        """What is kept for the tile at `index`, on the device; it is gone afterwards."""
        self.bring(index)
        return {key: pending.wait() for key, pending in self._returning.pop(index, {}).items()}

    def tensors(self) -> Iterator[Tensor]:
        """All that is kept, where it is; a copy may still be under way."""
        for pending in (*self._kept.values(), *self._returning.values()):
            yield from (each.tensor for each in pending.values())
