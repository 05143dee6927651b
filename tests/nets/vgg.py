"""VGG-11 and -16, with and without BatchNorm: Simonyan and Zisserman, "Very deep convolutional networks", 2015."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
"""3x3 convolutions per stage; each stage ends with a max pool."""

_WIDTHS = (1, 2, 4, 8, 8)
"""Channels per stage, in units of `width`."""


def _features(depth: int, width: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    in_channels = 3
    for num_convs, factor in zip(_STAGES[depth], _WIDTHS, strict=True):
        for _ in range(num_convs):
            layers.append(nn.Conv2d(in_channels, width * factor, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width * factor))
            layers.append(nn.ReLU(inplace=True))
            in_channels = width * factor
        layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """Convolutional stages, adaptive average pool to 7 x 7, three fully connected layers.

    Args:
        depth: Layers with weights, 11 or 16.
        width: Channels of the first stage; the hidden fully connected layers have 64 times as many.
        num_classes: Outputs of the classifier.
        batch_norm: Whether a BatchNorm follows each convolution.
    """

    def __init__(self, depth: int, width: int = 64, num_classes: int = 1000, batch_norm: bool = False) -> None:
        super().__init__()
        hidden = 64 * width
        self.features = _features(depth, width, batch_norm)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(width * _WIDTHS[-1] * 7 * 7, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(p=0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(p=0.5),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        return self.classifier(x)


def vgg11(width: int = 64, num_classes: int = 1000) -> VGG:
    return VGG(11, width, num_classes)


def vgg16(width: int = 64, num_classes: int = 1000) -> VGG:
    return VGG(16, width, num_classes)


def vgg11_bn(width: int = 64, num_classes: int = 1000) -> VGG:
    return VGG(11, width, num_classes, batch_norm=True)


def vgg16_bn(width: int = 64, num_classes: int = 1000) -> VGG:
    return VGG(16, width, num_classes, batch_norm=True)
