"""Small nets and what is read off a figure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle
from torch import nn

PNG = b"\x89PNG\r\n\x1a\n"
ORANGE = "#d55e00"


def classifier() -> nn.Sequential:
    """Two strided convolutions in front of a global pooling."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


def local_net(num_axes: int = 2, kernel: int = 5) -> nn.Sequential:
    """A net that is local to its end, with weights of 1, whose gradients tell what is read."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[num_axes - 1]
    net = nn.Sequential(
        conv(1, 1, kernel, padding=kernel // 2), conv(1, 1, 3, stride=2, padding=1), conv(1, 1, 3, padding=1)
    )
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    return net.double()


def reads(net: nn.Module, size: Sequence[int], axis: int, start: int, stop: int) -> tuple[int, int]:
    """First sample and the one past the last that outputs `[start, stop)` along an axis read, from gradients."""
    x = torch.zeros(*size, dtype=torch.float64, requires_grad=True)
    net(x).narrow(2 + axis, start, stop - start).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    touched = x.grad.movedim(2 + axis, 0).flatten(1).any(1).nonzero()
    return int(touched[0]), int(touched[-1]) + 1


def tile_outlines(axes: Axes) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every tile that is drawn."""
    (collection,) = [artist for artist in axes.collections if isinstance(artist, PolyCollection)]
    boxes = [path.get_extents() for path in collection.get_paths()]
    return [(box.x0, box.y0, box.x1, box.y1) for box in boxes]


def rectangles(axes: Axes, start: str) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of the rectangles whose label begins so."""
    found = [x for x in axes.patches if isinstance(x, Rectangle) and str(x.get_label()).startswith(start)]
    return [(x.get_x(), x.get_y(), x.get_x() + x.get_width(), x.get_y() + x.get_height()) for x in found]


def arrows(axes: Axes) -> int:
    """Number of arrows without a text."""
    return sum(text.get_text() == "" for text in axes.texts)
