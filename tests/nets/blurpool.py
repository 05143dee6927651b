"""Antialiased ResNet-18: Zhang, "Making convolutional networks shift-invariant again", 2019.

Named as in the package `antialiased-cnns`: every stride is a reflect-padded binomial filter of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BINOMIALS = {2: (1, 1), 3: (1, 2, 1), 4: (1, 3, 3, 1), 5: (1, 4, 6, 4, 1)}


class BlurPool(nn.Module):
    """A fixed filter, one for all channels, with a stride."""

    filt: Tensor

    def __init__(self, channels: int, filt_size: int = 4, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride
        before, after = (filt_size - 1) // 2, filt_size // 2
        self.pad = nn.ReflectionPad2d([before, after, before, after])
        taps = torch.tensor(_BINOMIALS[filt_size], dtype=torch.float32)
        filt = taps[:, None] * taps[None, :]
        self.register_buffer("filt", (filt / filt.sum())[None, None].repeat(channels, 1, 1, 1))

    def forward(self, inp: Tensor) -> Tensor:
        return F.conv2d(self.pad(inp), self.filt, stride=self.stride, groups=inp.shape[1])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; a stride goes before the second one."""

    def __init__(self, in_channels: int, channels: int, stride: int, filt_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = conv if stride == 1 else nn.Sequential(BlurPool(channels, filt_size, stride), conv)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                BlurPool(in_channels, filt_size, stride),
                nn.Conv2d(in_channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class AntialiasedResNet(nn.Module):
    """ResNet of basic blocks.

    Args:
        width: Channels of the stem and of the first stage.
        num_classes: Outputs of the classifier.
        filt_size: Extent of the blurring filters.
        num_blocks: Blocks per stage.
    """

    def __init__(
        self,
        width: int = 64,
        num_classes: int = 1000,
        filt_size: int = 4,
        num_blocks: tuple[int, int, int, int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Sequential(nn.MaxPool2d(kernel_size=2, stride=1), BlurPool(width, filt_size, stride=2))
        channels = width
        for i, count in enumerate(num_blocks):
            after = width * 2**i
            blocks = [BasicBlock(channels, after, 1 if i == 0 else 2, filt_size)]
            blocks += [BasicBlock(after, after, 1, filt_size) for _ in range(count - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
            channels = after
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def antialiased_resnet18(width: int = 64, num_classes: int = 1000, filt_size: int = 4) -> AntialiasedResNet:
    return AntialiasedResNet(width, num_classes, filt_size)
