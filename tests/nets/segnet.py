"""SegNet: Badrinarayanan, Kendall and Cipolla, "SegNet: a deep convolutional encoder-decoder architecture", 2017.

The convolutions of VGG-16 with BatchNorm down, the same mirrored up. The decoder puts samples back where the encoder's
max pools found them: it needs their indices, which count positions of the whole map.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of each stage's convolutions, in units of the width."""


class SegNet(nn.Module):
    """Maps (B, 3, H, W) to (B, num_classes, H, W).

    Args:
        width: Channels of the first convolution.
        num_classes: Output channels.
        stages: Channels of each stage's convolutions, in units of the width.
    """

    def __init__(self, width: int = 64, num_classes: int = 12, stages: tuple[tuple[int, ...], ...] = STAGES) -> None:
        super().__init__()
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        channels = 3
        for factors in stages:
            path = [channels, *(width * factor for factor in factors)]
            self.encoders.append(_convolutions(path))
            ends = [num_classes] if channels == 3 else [channels]
            back = [*reversed(path[1:]), *ends]
            self.decoders.insert(0, _convolutions(back, is_last=channels == 3))
            channels = path[-1]
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for encode in self.encoders:
            x = encode(x)
            size = x.size()
            x, indices = self.pool(x)
            found.append((indices, size))
        for decode in self.decoders:
            indices, size = found.pop()
            x = self.unpool(x, indices, output_size=size)
            x = decode(x)
        return x


def _convolutions(path: list[int], *, is_last: bool = False) -> nn.Sequential:
    """3x3 convolutions along a path of channel counts; the net's last one has neither norm nor activation."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(path)):
        layers.append(nn.Conv2d(before, after, kernel_size=3, padding=1))
        if not is_last or i < len(path) - 2:
            layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def segnet(width: int = 64, num_classes: int = 12, stages: tuple[tuple[int, ...], ...] = STAGES) -> SegNet:
    return SegNet(width, num_classes, stages)
