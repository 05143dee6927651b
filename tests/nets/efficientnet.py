"""EfficientNet-B0: Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNormActivation(nn.Sequential):
    """Convolution, BatchNorm and, mostly, SiLU."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels),
        ]
        super().__init__(*layers, *([nn.SiLU(inplace=True)] if act else []))


class SqueezeExcitation(nn.Module):
    """Channels weighted by a function of their means over the map."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.SiLU(inplace=True)
        self.scale_activation = nn.Sigmoid()

    def forward(self, input: Tensor) -> Tensor:
        scale = self.activation(self.fc1(self.avgpool(input)))
        return self.scale_activation(self.fc2(scale)) * input


class MBConv(nn.Module):
    """Expand by 1x1, filter depthwise, squeeze and excite, project by 1x1; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expand_ratio: int) -> None:
        super().__init__()
        self.use_res_connect = stride == 1 and in_channels == channels
        hidden = in_channels * expand_ratio
        layers: list[nn.Module] = [ConvNormActivation(in_channels, hidden, 1)] if expand_ratio != 1 else []
        layers += [
            ConvNormActivation(hidden, hidden, kernel, stride, groups=hidden),
            SqueezeExcitation(hidden, max(1, in_channels // 4)),
            ConvNormActivation(hidden, channels, 1, act=False),
        ]
        self.block = nn.Sequential(*layers)

    def forward(self, input: Tensor) -> Tensor:
        result = self.block(input)
        if self.use_res_connect:
            result += input
        return result


_STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3), (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)  # fmt: skip
"""Expansion, kernel, stride, published channels and blocks per stage (table 1 of the paper)."""


class EfficientNet(nn.Module):
    """Stem, seven stages of MBConv, 1x1 convolution, global average pool, classifier.

    Args:
        width: Channels of the stem; all others scale with it.
        num_classes: Outputs of the classifier.
    """

    def __init__(self, width: int = 32, num_classes: int = 1000) -> None:
        super().__init__()

        def scaled(published: int) -> int:
            return max(1, published * width // 32)

        channels = scaled(32)
        layers: list[nn.Module] = [ConvNormActivation(3, channels, 3, 2)]
        for expand_ratio, kernel, stride, published, count in _STAGES:
            blocks = []
            for i in range(count):
                blocks.append(MBConv(channels, scaled(published), kernel, stride if i == 0 else 1, expand_ratio))
                channels = scaled(published)
            layers.append(nn.Sequential(*blocks))
        layers.append(ConvNormActivation(channels, 4 * channels, 1))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(p=0.2, inplace=True), nn.Linear(4 * channels, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def efficientnet_b0(width: int = 32, num_classes: int = 1000) -> EfficientNet:
    return EfficientNet(width, num_classes)
