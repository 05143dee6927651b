"""MobileNetV2: Sandler, Howard, Zhu, Zhmoginov and Chen, "Inverted residuals and linear bottlenecks", 2018."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBNReLU6(nn.Sequential):
    """Convolution, BatchNorm, in-place ReLU6."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(inplace=True),
        )


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter depthwise, project by 1x1; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, channels: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        self.use_res_connect = stride == 1 and in_channels == channels
        layers: list[nn.Module] = []
        if expand_ratio != 1:
            layers.append(ConvBNReLU6(in_channels, hidden, kernel=1))
        layers += [
            ConvBNReLU6(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, channels, 1, 1, 0, bias=False),
            nn.BatchNorm2d(channels),
        ]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        if self.use_res_connect:
            return x + self.conv(x)
        return self.conv(x)


_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, published channels, blocks and stride per stage (table 2 of the paper)."""


class MobileNetV2(nn.Module):
    """Stem, seven stages of inverted residuals, 1x1 convolution, global average pool, classifier.

    Args:
        width: Channels of the stem; all others scale with it.
        num_classes: Outputs of the classifier.
    """

    def __init__(self, width: int = 32, num_classes: int = 1000) -> None:
        super().__init__()

        def scaled(published: int) -> int:
            return max(1, published * width // 32)

        channels = scaled(32)
        features: list[nn.Module] = [ConvBNReLU6(3, channels, stride=2)]
        for expand_ratio, published, num_blocks, stride in _STAGES:
            for i in range(num_blocks):
                block = InvertedResidual(channels, scaled(published), stride if i == 0 else 1, expand_ratio)
                features.append(block)
                channels = scaled(published)
        features.append(ConvBNReLU6(channels, scaled(1280), kernel=1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(p=0.2), nn.Linear(scaled(1280), num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        x = torch.flatten(x, 1)
        return self.classifier(x)


def mobilenet_v2(width: int = 32, num_classes: int = 1000) -> MobileNetV2:
    return MobileNetV2(width, num_classes)
