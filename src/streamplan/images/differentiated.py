"""An image whose samples count as floating-point numbers, so that an image of bytes has a gradient too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from streamplan.errors import SourceError
from streamplan.images.layout import Slices
from streamplan.images.overlap import check_apart
from streamplan.images.source import Source, check_holds_gradient, in_net_order


class DifferentiatedSource(Source):
    """A source read as floating-point numbers, with an array of its own for the gradient by them.

    Args:
        image: The image; its own array for a gradient, if it has one, is left alone.
        dtype: Of the numbers.
        target: What the gradient is added to.
    """

    def __init__(self, image: Source, dtype: torch.dtype, target: Source) -> None:
        self._image = image
        self._target = target
        self.shape = image.shape
        self.dtype = dtype
        self.anchor = torch.zeros((), requires_grad=True)

    def __repr__(self) -> str:
        return repr(self._image)

    @property
    def version(self) -> int | None:
        """That of the image."""
        return self._image.version

    @property
    def contents(self) -> Any:
        """The array that is read."""
        return self._image.contents

    @property
    def written(self) -> Any:
        """The array that a backward pass adds to."""
        return self._target.contents

    def read(self, region: Slices) -> Tensor:
        """A region as floating-point numbers in host memory."""
        return self._image.read(region).to(self.dtype)

    def add_gradient(self, region: Slices, gradient: Tensor) -> None:
        """Add to a region of the gradient."""
        self._target.write(region, self._target.read(region) + gradient.detach().to("cpu"))


def gradient_target(out: Any, image: Tensor | Source) -> Source:
    """An array that the gradient by an image can be written to, filled with zeros.

    Args:
        out: A source, or an array: laid out as the image's own array, or, of a tensor, with or without the batch.
        image: The image.

    Raises:
        SourceError: It is neither, has another shape, cannot hold fractions, or cannot be written.
    """
    if isinstance(out, Source):
        target = out
    elif isinstance(image, Source):
        target = image.like(out)
    else:
        target = in_net_order(out, image.dim(), "the gradient")
    shape = tuple(image.shape)
    if target.shape != shape:
        raise SourceError(
            f"out has shape {target.shape}, batch and channels included",
            why=f"the image has {shape}, and a gradient has the shape of its image",
            do="make an array of that shape",
        )
    check_holds_gradient(target.dtype, image.dtype, "out")
    target.check_writable("out")
    check_apart("out", target.contents, {"the image": image.contents if isinstance(image, Source) else image})
    try:
        target.fill(0.0)
    except (OSError, TypeError, ValueError) as error:
        raise SourceError(
            "out cannot be written", why=f"its array says: {error}", do="open it for reading and writing"
        ) from error
    return target
