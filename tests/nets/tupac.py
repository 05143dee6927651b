"""The TUPAC16 regression net: Pinckaers, van Ginneken and Litjens, "Streaming convolutional neural networks", 2020.

Table 2 of the paper: groups of two 3x3 convolutions and a 2x2 max pool. Only the last two groups have BatchNorm, which
needs the whole map in training mode; they are the resident part, "the final seven layers" together with the pools and
the fully connected layer. Counting convolutions, pools and the fully connected layer, 1, 2 and 3 repetitions of
the fifth group make the nets of 22, 25 and 28 layers.

The table leaves activations and padding open: ReLU after each convolution, zero padding of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDTHS = (1, 2, 4, 8, 16)
"""Channels per group, in units of `width`."""


def _group(in_channels: int, channels: int, batch_norm: bool, pool: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for i in range(2):
        layers.append(nn.Conv2d(in_channels if i == 0 else channels, channels, kernel_size=3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    if pool:
        layers.append(nn.MaxPool2d(kernel_size=2))
    return layers


class TupacNet(nn.Module):
    """Maps (B, 3, H, W) to (B, 1); H and W of at least 2^(5 + depth).

    Args:
        width: Channels of the first group, 32 in the paper.
        depth: Repetitions of the fifth group: 1, 2 or 3 in the paper.
    """

    def __init__(self, width: int = 32, depth: int = 1) -> None:
        super().__init__()
        streamed: list[nn.Module] = []
        in_channels = 3
        for factor in (*_WIDTHS[:-1], *[_WIDTHS[-1]] * depth):
            streamed += _group(in_channels, width * factor, batch_norm=False, pool=True)
            in_channels = width * factor
        resident = _group(in_channels, in_channels, batch_norm=True, pool=True)
        resident += _group(in_channels, in_channels, batch_norm=True, pool=False)
        self.streamed = nn.Sequential(*streamed)
        self.resident = nn.Sequential(*resident)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.dropout = nn.Dropout(p=0.5)
        self.fc = nn.Linear(in_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.streamed(x)
        x = self.resident(x)
        x = self.pool(x)
        x = torch.flatten(x, 1)
        x = self.dropout(x)
        return self.fc(x)


def tupac(width: int = 32, depth: int = 1) -> TupacNet:
    return TupacNet(width, depth)
