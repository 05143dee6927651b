"""How the dimensions of an array lie: "HWC" against the order (batch, channels, axis 0, axis 1, ...) of a net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from streamplan.checks import shown
from streamplan.errors import SourceError

Slices = tuple[slice, ...]
"""A region, with one slice for each dimension of a net's map or of an array."""


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """One letter for each dimension of an array.

    `N` is the batch, `C` the channels, any other letter an image axis; image axes stay in the order they are in. Batch
    and channels may be absent: they count as dimensions of extent 1.
    """

    letters: str

    @classmethod
    def parse(cls, layout: Any, *, batch: bool) -> ArrayLayout:
        """The layout of an array.

        Args:
            layout: Letters of one image, as "HWC", "CHW", "HW" or "DHWC".
            batch: Whether a batch dimension stands before them.

        Raises:
            SourceError: They are not letters, one occurs twice, or there is no image axis.
        """
        is_text = isinstance(layout, str) and layout.isalpha() and layout.isupper()
        if not is_text or len(set(layout)) < len(layout) or not set(layout) - {"C"} or "N" in layout:
            raise SourceError(
                f"layout={shown(layout)} is not the layout of an image",
                why="it has one capital letter for each dimension of an image: C for channels, others for image axes; "
                "a batch dimension before them is batch=True",
                do='pass "CHW", "HWC" or "HW", or "CDHW" for a volume',
            )
        return cls("N" + layout if batch else layout)

    @property
    def order(self) -> tuple[int, ...]:
        """Dimensions of the array in the order of the net's: batch, channels, image axes."""
        fixed = [self.letters.index(letter) for letter in "NC" if letter in self.letters]
        return (*fixed, *(dim for dim, letter in enumerate(self.letters) if letter not in "NC"))

    @property
    def absent(self) -> tuple[int, ...]:
        """Dimensions of the net's map, batch or channels, that the array has not."""
        return tuple(dim for dim, letter in enumerate("NC") if letter not in self.letters)

    def shape(self, array_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the net's map."""
        extents = [int(array_shape[dim]) for dim in self.order]
        for dim in self.absent:
            extents.insert(dim, 1)
        return tuple(extents)

    def index(self, region: Slices) -> Slices:
        """The slices of the array that a region of the net's map is."""
        present = [part for dim, part in enumerate(region) if dim not in self.absent]
        by_dim = dict(zip(self.order, present, strict=True))
        return tuple(by_dim[dim] for dim in range(len(self.letters)))
