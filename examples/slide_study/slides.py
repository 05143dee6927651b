"""Synthetic slides: photographed tissue, with marks that averaging over their period wipes out.

The tissue is the immunohistochemistry photograph that ships with scikit-image, mirrored, from a random corner on. Some
of its blocks of 32 x 32 pixels are marked with a checkerboard of period 2, 4 or 8 pixels, one kind per block:

    period 4    + + - -
                + + - -
                - - + +
                - - + +

Each whole period adds up to zero, and no pixel is near black or white. So the slide averaged over 2 x 2 pixels is, bit
by bit, the one without marks of period 2; averaged over 4 x 4, without those of 2 and 4. The label is the sum of the
three densities: at half of the full extent two thirds of its variance can be known, at a quarter one third.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage import data

PERIODS = (2, 4, 8)
"""Of the kinds of marks, in pixels."""
BLOCK = 32
"""Extent of what is marked or not, in pixels; a multiple of all periods."""
MAX_DENSITY = 0.25
"""Most of a slide's blocks that one kind marks."""
AMPLITUDE = 24
"""What a mark adds and takes away, in steps of a byte."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Slide:
    """One slide, of which any region can be made."""

    extent: int
    """Pixels along each axis; a multiple of `BLOCK`."""
    corner: tuple[int, int]
    """Of the mirrored photograph, where the slide begins."""
    densities: tuple[float, ...]
    """Of the kinds of marks: the share of blocks that have them."""
    kinds: NDArray[np.int8]
    """By block (rows, columns): which kind marks it, from 1; 0 for none."""

    @property
    def label(self) -> float:
        """Sum of the densities, shifted and scaled to mean 0 and standard deviation 1 over slides."""
        return standardised(self.densities)

    def pixels(self, rows: slice, columns: slice) -> Bytes:
        """A region as bytes (rows, columns, 3)."""
        row, column = np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop)
        cell = _tissue()
        tissue = cell[np.ix_((row + self.corner[0]) % len(cell), (column + self.corner[1]) % cell.shape[1])]
        kind = self.kinds[np.ix_(row // BLOCK, column // BLOCK)]
        marks = np.zeros(kind.shape, np.int16)
        for number, period in enumerate(PERIODS, 1):
            signs = np.where((row[:, None] // (period // 2) + column // (period // 2)) % 2, -1, 1)
            marks += np.where(kind == number, AMPLITUDE * signs, 0).astype(np.int16)
        return (tissue + marks[..., None]).astype(np.uint8)


def standardised(densities: tuple[float, ...]) -> float:
    """The label of these densities, each uniform from 0 to `MAX_DENSITY` over slides."""
    spread = MAX_DENSITY * (len(PERIODS) / 12) ** 0.5
    return (sum(densities) - len(PERIODS) * MAX_DENSITY / 2) / spread


def draw_slide(extent: int, seed: tuple[int, ...], densities: tuple[float, ...] | None = None) -> Slide:
    """The slide of a seed.

    Args:
        extent: Pixels along each axis.
        seed: Integers; the same ones give the same slide.
        densities: Of the kinds of marks; drawn unless given.
    """
    generator = np.random.default_rng(seed)
    corner = tuple(int(x) for x in generator.integers(0, _tissue().shape[0], 2))
    drawn = generator.uniform(0, MAX_DENSITY, len(PERIODS))
    num_blocks = (extent // BLOCK) ** 2
    counts = np.rint(np.asarray(drawn if densities is None else densities) * num_blocks).astype(int)
    kinds = np.zeros(num_blocks, np.int8)
    kinds[: counts.sum()] = np.repeat(np.arange(1, len(PERIODS) + 1), counts)
    kinds = generator.permutation(kinds).reshape(extent // BLOCK, -1)
    return Slide(extent, corner, tuple(float(count) / num_blocks for count in counts), kinds)


def averaged(pixels: Bytes, factor: int) -> Bytes:
    """Pixels (rows, columns, 3) averaged over squares of `factor` x `factor`, rounded down."""
    rows, columns, channels = pixels.shape
    squares = pixels.reshape(rows // factor, factor, columns // factor, factor, channels)
    return (squares.sum((1, 3), dtype=np.uint32) // factor**2).astype(np.uint8)


@functools.cache
def _tissue() -> NDArray[np.int16]:
    """The photograph, mirrored along both axes, (1024, 1024, 3), at least `AMPLITUDE` from 0 and 255."""
    photograph = data.immunohistochemistry().astype(np.int16)
    narrowed = AMPLITUDE + photograph * (255 - 2 * AMPLITUDE) // 255
    double = np.concatenate([narrowed, narrowed[:, ::-1]], 1)
    return np.concatenate([double, double[::-1]], 0)
