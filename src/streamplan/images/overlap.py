"""Overlap: whether what is written is also read, or is written twice at one place.

    image, out = y, y[:, 1:]                    share memory
    numpy.memmap(f), another numpy.memmap(f)    share a file
    numpy.broadcast_to(y, (3, 5, 5))            has several positions at one address

Arrays are compared by their addresses, maps of files by their places in the files, and zarr arrays by where they are
stored. Of another object, the arrays that it holds as attributes are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamplan.errors import SourceError

_MAX_WORK = 100_000
"""Steps after which a search for a common address is given up, and one is taken to be there."""


def check_apart(what: str, written: Any, others: Mapping[str, Any]) -> None:
    """Refuse an array to be written whose memory something else is in.

    Args:
        what: What the array is, for the message.
        written: The array.
        others: Tensors and arrays that are needed as they are, by what they are.

    Raises:
        SourceError: It shares memory with one of them, or with itself.
    """
    if any(memory.meets_itself for memory in _memories(written)):
        raise SourceError(
            f"{what} has several positions in one place of memory",
            why="what is written to one of them would be read at another",
            do="pass an array with memory of its own for each position, such as a copy",
        )
    for name, other in others.items():
        if _is_shared(written, other):
            raise SourceError(
                f"{what} shares memory with {name}",
                why="tiles are written while that is still needed as it was",
                do="pass an array of its own: numpy.empty_like(array), another file",
            )


def _is_shared(one: Any, other: Any) -> bool:
    if one is other or set(_stores(one)) & set(_stores(other)):
        return True
    return any(a.meets(b) or _is_one_file(a, b) for a in _memories(one) for b in _memories(other))


@dataclass(frozen=True)
class _Memory:
    """Where in host memory an array is; sizes and strides in bytes."""

    array: Any
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int

    @classmethod
    def of(cls, array: Any) -> _Memory | None:
        """The memory of a tensor or a numpy array; None if it is elsewhere, or there is none."""
        shape = tuple(array.shape)
        if 0 in shape:
            return None
        if not isinstance(array, Tensor):
            return cls(array, array.__array_interface__["data"][0], shape, tuple(array.strides), array.itemsize)
        if array.device.type != "cpu" or array.layout is not torch.strided:
            return None
        size = array.element_size()
        return cls(array, array.data_ptr(), shape, tuple(stride * size for stride in array.stride()), size)

    @property
    def bounds(self) -> tuple[int, int]:
        """First address, and the one after the last."""
        reach = [stride * (extent - 1) for stride, extent in zip(self.strides, self.shape, strict=True)]
        return self.start + sum(min(x, 0) for x in reach), self.start + sum(max(x, 0) for x in reach) + self.item_bytes

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """As numpy has it, whatever the dtype."""
        kind = f"|V{self.item_bytes}"
        return {
            "version": 3,
            "data": (self.start, False),
            "shape": self.shape,
            "strides": self.strides,
            "typestr": kind,
        }

    def meets(self, other: _Memory) -> bool:
        """Whether there is an address in both."""
        if not _meet(self.bounds, other.bounds):
            return False
        try:
            import numpy as np  # noqa: PLC0415 - tells views that lie between each other from those that share memory

            return bool(np.shares_memory(self, other, max_work=_MAX_WORK))  # type: ignore[arg-type] # any number
        except (ImportError, RuntimeError):  # there is no numpy, or it takes too much work
            return True

    @property
    def meets_itself(self) -> bool:
        """Whether two positions may have a byte in common."""
        reach = self.item_bytes
        for stride, extent in sorted((abs(s), n) for s, n in zip(self.strides, self.shape, strict=True) if n > 1):
            if stride < reach:
                return True
            reach += stride * (extent - 1)
        return False


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _held(array: Any) -> list[Any]:
    """An array itself, or what an object that wraps arrays has as attributes."""
    is_array = isinstance(array, Tensor) or hasattr(array, "__array_interface__") or _store_of(array) is not None
    return [array] if is_array else list(getattr(array, "__dict__", {}).values())


def _memories(array: Any) -> Iterator[_Memory]:
    """The memories of an array, and of those that an object wraps."""
    for item in _held(array):
        memory = _Memory.of(item) if isinstance(item, Tensor) or hasattr(item, "__array_interface__") else None
        if memory is not None:
            yield memory


def _is_one_file(one: _Memory, other: _Memory) -> bool:
    first, second = _map_of(one.array), _map_of(other.array)
    if first is None or second is None or not Path(first.filename).samefile(second.filename):
        return False
    shifts = (root.offset - _Memory.of(root).start for root in (first, second))  # type: ignore[union-attr]
    places = [(start + by, stop + by) for (start, stop), by in zip((one.bounds, other.bounds), shifts, strict=True)]
    return _meet(*places)


def _map_of(array: Any) -> Any:
    """The `numpy.memmap` of a file that an array is, or is a view of; None of other arrays."""
    root = array
    while hasattr(getattr(root, "base", None), "__array_interface__"):
        root = root.base
    return root if getattr(root, "filename", None) is not None and hasattr(root, "offset") else None


def _stores(array: Any) -> Iterator[tuple[Any, str]]:
    for item in _held(array):
        place = _store_of(item)
        if place is not None:
            yield place


def _store_of(array: Any) -> tuple[Any, str] | None:
    """Where an array with a store, as zarr's, is kept: a folder, or else the store itself and the path in it."""
    store, path = getattr(array, "store", None), getattr(array, "path", None)
    if store is None or not isinstance(path, str):
        return None
    root = getattr(store, "root", None) or getattr(store, "path", None)
    return (Path(root, path).resolve(), "") if isinstance(root, str | Path) else (id(store), path)
