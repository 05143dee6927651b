"""What tiles read of the input maps, on the device that computes.

Regions of tensors that are there already are views. All others are read by threads while earlier tiles are computed, as
many tiles ahead as `_NUM_AHEAD` says and no more, in the order in which tiles will ask for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from streamplan.images import Source
from streamplan.runtime.running import Index
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import Tile
from streamplan.runtime.transfers import Arrived, Pending, Transfers, transfers_to

_NUM_AHEAD = 2
"""Tiles read before they are asked for."""


class RegionReader:
    """Reads regions of the input maps, tile by tile.

    Used as a context manager; its threads end with it. A tile may be left out, but none may be asked for out of order.
    """

    def __init__(
        self,
        segment: Segment,
        maps: Sequence[Tensor | Source],
        order: Iterable[Index],
        device: torch.device,
        transfers: Transfers | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            segment: The segment.
            maps: Its input maps, full size.
            order: The tiles that will ask, in the order in which they will.
            device: Where regions are wanted.
            transfers: The way there from host memory; None takes that of the device.
        """
        self._segment = segment
        self._maps = maps
        self._device = device
        self._order: Iterator[Index] = iter(order)
        self._waiting: deque[tuple[Index, Future[list[Pending]]]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._transfers = transfers
        if not all(self._is_there(x) for x in maps):
            self._transfers = transfers or transfers_to(device)
            self._pool = ThreadPoolExecutor(_NUM_AHEAD, thread_name_prefix="streamplan-read")

    def __enter__(self) -> RegionReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self, index: Index) -> list[Tensor]:
        """What a tile reads of each map.

        Raises:
            KeyError: The tile's turn is over, or it is not among those announced.
        """
        if self._pool is None:
            return [pending.wait() for pending in self._read(index)]
        while True:
            self._read_ahead()
            if not self._waiting:
                raise KeyError(index)
            announced, future = self._waiting.popleft()
            if announced == index:
                self._read_ahead()
                return [pending.wait() for pending in future.result()]
            future.cancel()

    def _read_ahead(self) -> None:
        assert self._pool is not None
        while len(self._waiting) < _NUM_AHEAD and (index := next(self._order, None)) is not None:
            self._waiting.append((index, self._pool.submit(self._read, index)))

    def _is_there(self, x: Tensor | Source) -> bool:
        return isinstance(x, Tensor) and x.device.type == self._device.type

    def _read(self, index: Index) -> list[Pending]:
        tile = Tile(self._segment, index)
        regions: list[Pending] = []
        for name, x in zip(self._segment.part.input_maps, self._maps, strict=True):
            slices = tile.slices(name)
            region = x.detach()[slices] if isinstance(x, Tensor) else x.read(slices)
            if self._is_there(x):
                regions.append(Arrived(region))
            else:
                assert self._transfers is not None
                regions.append(self._transfers.begin(region))
        return regions
