"""The nets of the TUPAC16 and CAMELYON17 experiments, on images of bytes.

Table 2 of Pinckaers, van Ginneken and Litjens, "Streaming convolutional neural networks for end-to-end learning with
multi-megapixel images", 2020: groups of two 3x3 convolutions and a 2x2 max pool. For TUPAC16 BatchNorm is in the last
two groups alone, which are the resident part; what stands before them is local and is streamed. For CAMELYON17 there is
neither BatchNorm nor dropout.

The table leaves activations and padding open: here ReLU after each convolution, and zero padding of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

PAPER_WIDTH = 32
"""Channels of the first group in the paper."""
NUM_LAYERS = {1: 22, 2: 25, 3: 28}
"""By repetitions of the fifth group, as the paper counts: convolutions, pools and the fully connected layer."""
PAPER_SIZES = {1: 2048, 2: 4096, 3: 8192}
"""By repetitions of the fifth group: the input extents the paper trained these nets on."""

_WIDTHS = (1, 2, 4, 8)
"""Channels of the groups before the repeated one, in units of `width`."""
_LAST_WIDTH = 16
"""Channels of the repeated group and of the resident ones, in units of `width`."""


class SlideNet(nn.Module):
    """Maps bytes (batch, 3, rows, columns) to one number (batch, 1); rows and columns of at least 2^(5 + depth).

    Args:
        width: Channels of the first group, 32 in the paper.
        depth: Repetitions of the fifth group: 1, 2 and 3 make nets of 22, 25 and 28 layers.
        mean: Of the bytes of the training set, by channel.
        std: Their standard deviation, by channel.
        is_normalised: Whether the last two groups have BatchNorm and the last layer dropout: so for TUPAC16.
    """

    def __init__(
        self,
        width: int = PAPER_WIDTH,
        depth: int = 1,
        mean: Sequence[float] = (128.0, 128.0, 128.0),
        std: Sequence[float] = (64.0, 64.0, 64.0),
        *,
        is_normalised: bool = True,
    ) -> None:
        super().__init__()
        widths = [3, *(width * factor for factor in _WIDTHS), *[width * _LAST_WIDTH] * depth]
        groups = [_group(before, after) for before, after in pairwise(widths)]
        last = widths[-1]
        self.streamed = nn.Sequential(*(layer for group in groups for layer in group))
        self.resident = nn.Sequential(
            *_group(last, last, has_batch_norm=is_normalised), *_group(last, last, has_batch_norm=is_normalised)[:-1]
        )
        self.pool = nn.AdaptiveMaxPool2d(1)  # "input size" in the table: it covers the whole map
        self.dropout = nn.Dropout(p=0.5 if is_normalised else 0.0)
        self.fc = nn.Linear(last, 1)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """The prediction, without a non-linearity."""
        x = (x.float() - self.mean) / self.std
        x = self.resident(self.streamed(x))
        return self.fc(self.dropout(torch.flatten(self.pool(x), 1)))


def count_layers(net: SlideNet) -> int:
    """Convolutions, pools and the fully connected layer: with these the paper's numbers come out."""
    counted = (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Linear)
    return sum(isinstance(layer, counted) for layer in net.modules())


def _group(in_channels: int, channels: int, *, has_batch_norm: bool = False) -> list[nn.Module]:
    """Two convolutions and a pool."""
    layers: list[nn.Module] = []
    for before in (in_channels, channels):
        layers.append(nn.Conv2d(before, channels, kernel_size=3, padding=1))
        if has_batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return [*layers, nn.MaxPool2d(2)]


def _initialise(layer: nn.Module) -> None:
    """As He et al., "Delving deep into rectifiers", 2015, for ReLU."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
