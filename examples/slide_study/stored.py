"""Slides in zarr arrays, and batches of them that are read when a tile needs them.

A set of slides is one array per input size, (slides, rows, columns, 3) bytes: the full extent, and averages of it. It
is written slide by slide. A `Batch` looks like an array of some of them, turned and flipped, but holds no pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from slide_study.slides import Bytes, Slide, averaged

FACTORS = (4, 2, 1)
"""How much smaller than the slide each input size is, smallest size first."""
_CHUNK = 1024
"""Most rows and columns of a chunk, and what a slide is written by; a multiple of every block."""
_NUM_TURNS = 8
"""Turns by a quarter, each as it is and mirrored."""


@dataclass(frozen=True)
class SlideSet:
    """Slides in files, at several sizes."""

    labels: tuple[float, ...]
    densities: tuple[tuple[float, ...], ...]
    """Of the kinds of marks, for each slide."""
    arrays: dict[int, Any]
    """By input size: a zarr array of (slides, rows, columns, 3) bytes."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Input sizes, smallest first."""
        return tuple(self.arrays)


class Batch:
    """Some slides of a zarr array, to be given to `streamplan.Source`; pixels are read when it is sliced.

    Args:
        array: (slides, rows, columns, 3), rows and columns alike.
        indices: Of the slides.
        turns: For each of them, from 0 to 7: how it is turned and mirrored; none unless given.
    """

    def __init__(self, array: Any, indices: Sequence[int], turns: Sequence[int] | None = None) -> None:
        self._array = array
        self._picks = list(zip(indices, turns or [0] * len(indices), strict=True))
        self.shape = (len(self._picks), *array.shape[1:])
        self.dtype = array.dtype

    def __getitem__(self, index: tuple[slice, ...]) -> Bytes:
        """A region: slices by slide, row, column and channel."""
        slides, rows, columns, channels = index
        return np.stack([self._read(*pick, rows, columns)[..., channels] for pick in self._picks[slides]])

    def _read(self, number: int, turn: int, rows: slice, columns: slice) -> Bytes:
        """A region of a slide that is first transposed, then flipped up and down, then left and right."""
        extent = self.shape[1]
        is_transposed, is_upside_down, is_mirrored = turn & 1, turn & 2, turn & 4
        rows = _flipped(rows, extent) if is_upside_down else rows
        columns = _flipped(columns, extent) if is_mirrored else columns
        if is_transposed:
            pixels = np.asarray(self._array[number, columns, rows]).swapaxes(0, 1)
        else:
            pixels = np.asarray(self._array[number, rows, columns])
        return pixels[:: -1 if is_upside_down else 1, :: -1 if is_mirrored else 1]


def _flipped(positions: slice, extent: int) -> slice:
    """Where a region lies in the flipped slide."""
    start, stop, _ = positions.indices(extent)
    return slice(extent - stop, extent - start)


def draw_turns(count: int, generator: np.random.Generator) -> list[int]:
    """As many random turns."""
    return generator.integers(0, _NUM_TURNS, count).tolist()


def store_set(folder: Path, slides: Iterable[Slide]) -> SlideSet:
    """Write slides of one extent, at all sizes, slide by slide."""
    slides = list(slides)
    extent = slides[0].extent
    arrays = {}
    for factor in FACTORS:
        size = extent // factor
        arrays[size] = zarr.create_array(
            folder / f"{size}.zarr",
            shape=(len(slides), size, size, 3),
            chunks=(1, min(size, _CHUNK), min(size, _CHUNK), 3),
            dtype="uint8",
            overwrite=True,
        )
    for number, slide in enumerate(slides):
        pixels = slide.pixels(slice(0, extent), slice(0, extent))
        for factor, array in zip(FACTORS, arrays.values(), strict=True):
            array[number] = averaged(pixels, factor)
    return SlideSet(tuple(slide.label for slide in slides), tuple(slide.densities for slide in slides), arrays)


def store_slide(path: Path, slide: Slide) -> Any:
    """Write one slide of any extent as (rows, columns, 3), chunk by chunk, so that it is never in memory."""
    extent = slide.extent
    array = zarr.create_array(
        path, shape=(extent, extent, 3), chunks=(_CHUNK, _CHUNK, 3), dtype="uint8", overwrite=True
    )
    for top in range(0, extent, _CHUNK):
        for left in range(0, extent, _CHUNK):
            region = slice(top, min(top + _CHUNK, extent)), slice(left, min(left + _CHUNK, extent))
            array[region] = slide.pixels(*region)
    return array


def channel_statistics(array: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the bytes of a set, by channel; one slide in memory at a time."""
    sums = np.zeros((2, 3))
    for number in range(array.shape[0]):
        pixels: NDArray[np.float64] = np.asarray(array[number], np.float64)
        sums += [pixels.mean((0, 1)), np.square(pixels).mean((0, 1))]
    mean, square = sums / array.shape[0]
    return mean.tolist(), np.sqrt(square - mean**2).tolist()
