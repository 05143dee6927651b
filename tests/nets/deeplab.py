"""DeepLabv3 with ResNet-50: Chen, Papandreou, Schroff and Adam, "Rethinking atrous convolution", 2017.

Structured and named as in torchvision, without its auxiliary head. The last two stages are dilated instead of strided;
one branch of the pyramid is a global average pool.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.resnet import Bottleneck, ResNet


class Backbone(nn.Module):
    """ResNet-50 of stride 8, without its head."""

    def __init__(self, width: int, num_blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        net = ResNet(Bottleneck, num_blocks, width)
        for name, module in net.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, module)
        _dilate(net.layer3, first=1, rest=2)
        _dilate(net.layer4, first=2, rest=4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _dilate(stage: nn.Sequential, first: int, rest: int) -> None:
    """Replaces the stride of a stage by dilation, that of the first block and that of the others."""
    for i, block in enumerate(stage):
        dilation = first if i == 0 else rest
        block.conv2.stride, block.conv2.padding, block.conv2.dilation = (1, 1), (dilation,) * 2, (dilation,) * 2
        if block.downsample is not None:
            block.downsample[0].stride = (1, 1)


class ASPPConv(nn.Sequential):
    """Dilated 3x3 convolution, norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, dilation: int) -> None:
        conv = nn.Conv2d(in_channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels), nn.ReLU())


class ASPPPooling(nn.Sequential):
    """Global average pool and 1x1 convolution, back to the size of the map."""

    def __init__(self, in_channels: int, channels: int) -> None:
        conv = nn.Conv2d(in_channels, channels, 1, bias=False)
        super().__init__(nn.AdaptiveAvgPool2d(1), conv, nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        for module in self:
            x = module(x)
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


class ASPP(nn.Module):
    """Parallel convolutions of several dilations and a global pool, concatenated and projected."""

    def __init__(self, in_channels: int, channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        first = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        dilated = [ASPPConv(in_channels, channels, rate) for rate in rates]
        self.convs = nn.ModuleList([first, *dilated, ASPPPooling(in_channels, channels)])
        self.project = nn.Sequential(
            nn.Conv2d(len(self.convs) * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout(0.5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class DeepLabV3(nn.Module):
    """Maps (B, 3, H, W) to (B, num_classes, H, W).

    Args:
        width: Channels of the backbone's stem; the head has four times as many.
        num_classes: Output channels.
        num_blocks: Blocks per stage of the backbone.
        rates: Dilations of the pyramid.
    """

    def __init__(
        self,
        width: int = 64,
        num_classes: int = 21,
        num_blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        rates: tuple[int, ...] = (12, 24, 36),
    ) -> None:
        super().__init__()
        channels = 4 * width
        self.backbone = Backbone(width, num_blocks)
        self.classifier = nn.Sequential(
            ASPP(32 * width, channels, rates),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        input_shape = x.shape[-2:]
        x = self.classifier(self.backbone(x))
        return {"out": F.interpolate(x, size=input_shape, mode="bilinear", align_corners=False)}


def deeplabv3(
    width: int = 64,
    num_classes: int = 21,
    num_blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
    rates: tuple[int, ...] = (12, 24, 36),
) -> DeepLabV3:
    return DeepLabV3(width, num_classes, num_blocks, rates)
