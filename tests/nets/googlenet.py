"""GoogLeNet with BatchNorm: Szegedy et al., "Going deeper with convolutions", 2015.

As in torchvision: the "5x5" branch has 3x3 kernels, all max pools are in ceil mode, auxiliary heads are left out.
Channel counts scale with `width` / 64.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicConv2d(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, channels: int, **kwargs: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, bias=False, **kwargs)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.bn(x)
        return F.relu(x, inplace=True)


class Inception(nn.Module):
    """Four branches: 1x1; 1x1 and 3x3; 1x1 and 3x3; max pool and 1x1.

    Args:
        in_channels: Channels of the input.
        ch1x1: Channels of the first branch.
        ch3x3: Reduced and final channels of the second branch.
        ch5x5: Reduced and final channels of the third branch.
        pool_proj: Channels of the pool branch.
    """

    def __init__(
        self, in_channels: int, ch1x1: int, ch3x3: tuple[int, int], ch5x5: tuple[int, int], pool_proj: int
    ) -> None:
        super().__init__()
        self.branch1 = BasicConv2d(in_channels, ch1x1, kernel_size=1)
        self.branch2 = nn.Sequential(
            BasicConv2d(in_channels, ch3x3[0], kernel_size=1),
            BasicConv2d(ch3x3[0], ch3x3[1], kernel_size=3, padding=1),
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(in_channels, ch5x5[0], kernel_size=1),
            BasicConv2d(ch5x5[0], ch5x5[1], kernel_size=3, padding=1),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True),
            BasicConv2d(in_channels, pool_proj, kernel_size=1),
        )
        self.out_channels = ch1x1 + ch3x3[1] + ch5x5[1] + pool_proj

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)]
        return torch.cat(outputs, 1)


_BLOCKS: dict[str, tuple[int, ...]] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}
"""Published channels per block: 1x1, reduced 3x3, 3x3, reduced 5x5, 5x5, pool projection."""


class GoogLeNet(nn.Module):
    """Stem, nine inception blocks, global average pool, classifier.

    Args:
        width: Channels of the first convolution.
        num_classes: Outputs of the classifier.
    """

    def __init__(self, width: int = 64, num_classes: int = 1000) -> None:
        super().__init__()

        def scaled(published: int) -> int:
            return max(1, published * width // 64)

        self.conv1 = BasicConv2d(3, scaled(64), kernel_size=7, stride=2, padding=3)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.conv2 = BasicConv2d(scaled(64), scaled(64), kernel_size=1)
        self.conv3 = BasicConv2d(scaled(64), scaled(192), kernel_size=3, padding=1)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        channels = scaled(192)
        for name, published in _BLOCKS.items():
            a, b, c, d, e, f = (scaled(p) for p in published)
            block = Inception(channels, a, (b, c), (d, e), f)
            self.add_module(name, block)
            channels = block.out_channels
            if name == "inception3b":
                self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
            elif name == "inception4e":
                self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.dropout = nn.Dropout(p=0.2)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.inception3b(self.inception3a(x))
        x = self.maxpool3(x)
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.inception4e(self.inception4d(x))
        x = self.maxpool4(x)
        x = self.inception5b(self.inception5a(x))
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        x = self.dropout(x)
        return self.fc(x)


def googlenet(width: int = 64, num_classes: int = 1000) -> GoogLeNet:
    return GoogLeNet(width, num_classes)
