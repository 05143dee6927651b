"""DenseNet-121 and -201: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", 2017."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BOTTLENECK = 4
"""Inner channels of a dense layer, in units of the growth rate."""


class _DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3 on the concatenation of everything before it in its block."""

    def __init__(self, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        inner = _BOTTLENECK * growth_rate
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, inner, kernel_size=1, stride=1, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(inner, growth_rate, kernel_size=3, stride=1, padding=1, bias=False)

    def forward(self, input: Tensor | list[Tensor]) -> Tensor:
        features = [input] if isinstance(input, Tensor) else input
        out = self.conv1(self.relu1(self.norm1(torch.cat(features, 1))))
        return self.conv2(self.relu2(self.norm2(out)))


class _DenseBlock(nn.ModuleDict):
    """Layers that each read the block's input and all outputs before them."""

    def __init__(self, num_layers: int, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        for i in range(num_layers):
            self.add_module(f"denselayer{i + 1}", _DenseLayer(in_channels + i * growth_rate, growth_rate))

    def forward(self, init_features: Tensor) -> Tensor:
        features = [init_features]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class _Transition(nn.Sequential):
    """Halves channels and extent."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(in_channels, channels, kernel_size=1, stride=1, bias=False)
        self.pool = nn.AvgPool2d(kernel_size=2, stride=2)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between them, global average pool, classifier.

    Args:
        num_layers: Layers per dense block.
        width: Growth rate, the channels that each layer adds; the stem has twice as many.
        num_classes: Outputs of the classifier.
    """

    def __init__(self, num_layers: tuple[int, ...], width: int = 32, num_classes: int = 1000) -> None:
        super().__init__()
        channels = 2 * width
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, channels, kernel_size=7, stride=2, padding=3, bias=False),
                norm0=nn.BatchNorm2d(channels),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            )
        )
        for i, layers in enumerate(num_layers, start=1):
            self.features.add_module(f"denseblock{i}", _DenseBlock(layers, channels, width))
            channels += layers * width
            if i < len(num_layers):
                self.features.add_module(f"transition{i}", _Transition(channels, channels // 2))
                channels //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        out = F.relu(features, inplace=True)
        out = F.adaptive_avg_pool2d(out, (1, 1))
        out = torch.flatten(out, 1)
        return self.classifier(out)


def densenet121(width: int = 32, num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 24, 16), width, num_classes)


def densenet201(width: int = 32, num_classes: int = 1000) -> DenseNet:
    return DenseNet((6, 12, 48, 32), width, num_classes)
