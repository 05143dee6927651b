"""ShuffleNetV2 x1.0: Ma, Zhang, Zheng and Sun, "ShuffleNet V2: practical guidelines", 2018."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups."""
    batchsize, num_channels, height, width = x.size()
    channels_per_group = num_channels // groups
    x = x.view(batchsize, groups, channels_per_group, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, num_channels, height, width)


class InvertedResidual(nn.Module):
    """Half of the channels pass (or are filtered and strided), the other half goes through a bottleneck; shuffle."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch = oup // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(*_depthwise(inp, stride), *_pointwise(inp, branch))
        self.branch2 = nn.Sequential(
            *_pointwise(inp if stride > 1 else branch, branch), *_depthwise(branch, stride), *_pointwise(branch, branch)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


def _pointwise(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


class ShuffleNetV2(nn.Module):
    """Stem, three stages, 1x1 convolution, mean over the map, classifier.

    Args:
        width: Channels of the stem; all others scale with it and stay even.
        num_classes: Outputs of the classifier.
        repeats: Blocks per stage.
    """

    def __init__(self, width: int = 24, num_classes: int = 1000, repeats: tuple[int, ...] = (4, 8, 4)) -> None:
        super().__init__()

        def scaled(published: int) -> int:
            return max(2, 2 * round(published * width / 48))

        self.conv1 = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        channels = width
        for i, (published, count) in enumerate(zip((116, 232, 464), repeats, strict=True), start=2):
            blocks = [InvertedResidual(channels, scaled(published), 2)]
            channels = scaled(published)
            blocks += [InvertedResidual(channels, channels, 1) for _ in range(count - 1)]
            setattr(self, f"stage{i}", nn.Sequential(*blocks))
        self.conv5 = nn.Sequential(*_pointwise(channels, scaled(1024)))
        self.fc = nn.Linear(scaled(1024), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        x = self.conv5(x)
        x = x.mean([2, 3])
        return self.fc(x)


def shufflenet_v2(width: int = 24, num_classes: int = 1000, repeats: tuple[int, ...] = (4, 8, 4)) -> ShuffleNetV2:
    return ShuffleNetV2(width, num_classes, repeats)
