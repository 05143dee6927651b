"""NFNet-F0: Brock et al., "High-performance large-scale image recognition without normalization", 2021.

Named as in timm. Weights are standardised whenever they are used, in one of two spellings: by `F.batch_norm` on the
weight itself, or by mean and variance. Squeeze-and-excitation can be left out; the rest is local.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GAMMA = 1.7015043497085571
"""1 / standard deviation of GELU of a standard normal variable."""


class ScaledStdConv2d(nn.Conv2d):
    """Convolution with standardised weights, by `F.batch_norm`."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, channels, kernel_size, stride, (kernel_size - 1) // 2, groups=groups)
        self.gain = nn.Parameter(torch.ones(channels, 1, 1, 1))
        self.scale = self.weight[0].numel() ** -0.5
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=self.eps,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ScaledStdConv2dByHand(ScaledStdConv2d):
    """The same with mean and variance spelled out, as in the paper."""

    def forward(self, x: Tensor) -> Tensor:
        mean = torch.mean(self.weight, dim=[1, 2, 3], keepdim=True)
        var = torch.var(self.weight, dim=[1, 2, 3], unbiased=False, keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(var + self.eps) * (self.gain * self.scale)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class GammaAct(nn.Module):
    """GELU that keeps the variance."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x).mul_(_GAMMA)


class SqueezeExcite(nn.Module):
    """Channels weighted by a function of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(1, channels // 2), 1)
        self.fc2 = nn.Conv2d(max(1, channels // 2), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x_se = x.mean((2, 3), keepdim=True)
        x_se = self.fc2(F.relu(self.fc1(x_se), inplace=True))
        return x * x_se.sigmoid()


class DownsampleAvg(nn.Module):
    """Shortcut of a strided block."""

    def __init__(self, conv: type[ScaledStdConv2d], in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        if stride > 1:
            self.pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
        self.conv = conv(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(x))


class NormFreeBlock(nn.Module):
    """Bottleneck of four convolutions, scaled by `beta` before and `alpha` after."""

    def __init__(self, conv: type[ScaledStdConv2d], settings: dict[str, Any]) -> None:
        super().__init__()
        in_channels, channels, stride = settings["in_channels"], settings["channels"], settings["stride"]
        inner, groups = channels // 2, settings["groups"]
        self.alpha, self.beta = settings["alpha"], settings["beta"]
        self.downsample: DownsampleAvg | None = None
        if in_channels != channels or stride != 1:
            self.downsample = DownsampleAvg(conv, in_channels, channels, stride)
        self.act1 = GammaAct()
        self.conv1 = conv(in_channels, inner, 1)
        self.act2 = GammaAct()
        self.conv2 = conv(inner, inner, 3, stride=stride, groups=groups)
        self.act2b = GammaAct()
        self.conv2b = conv(inner, inner, 3, groups=groups)
        self.act3 = GammaAct()
        self.conv3 = conv(inner, channels, 1)
        self.attn_last = SqueezeExcite(channels) if settings["squeeze"] else None
        self.skipinit_gain = nn.Parameter(torch.tensor(settings["skipinit"]))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(x) * self.beta
        shortcut = x
        if self.downsample is not None:
            shortcut = self.downsample(out)
        out = self.conv1(out)
        out = self.conv2(self.act2(out))
        out = self.conv2b(self.act2b(out))
        out = self.conv3(self.act3(out))
        if self.attn_last is not None:
            out = 2.0 * self.attn_last(out)
        out.mul_(self.skipinit_gain)
        return out * self.alpha + shortcut


class NFNet(nn.Module):
    """Stem of four convolutions, four stages, 1x1 convolution, global average pool, classifier.

    Args:
        width: Channels of the first stage; an even number.
        num_classes: Outputs of the classifier.
        depths: Blocks per stage.
        squeeze: Whether blocks have squeeze-and-excitation.
        by_hand: Whether weights are standardised by mean and variance instead of `F.batch_norm`.
        skipinit: First value of every `skipinit_gain`.
    """

    def __init__(
        self,
        width: int = 256,
        num_classes: int = 1000,
        depths: tuple[int, ...] = (1, 2, 6, 3),
        *,
        squeeze: bool = True,
        by_hand: bool = False,
        skipinit: float = 0.0,
    ) -> None:
        super().__init__()
        conv = ScaledStdConv2dByHand if by_hand else ScaledStdConv2d
        self.stem = nn.Sequential()
        channels = 3
        for i, (part, stride) in enumerate(((8, 2), (4, 1), (2, 1), (1, 2)), start=1):
            after = max(1, width // 2 // part)
            self.stem.add_module(f"conv{i}", conv(channels, after, 3, stride=stride))
            if i < 4:
                self.stem.add_module(f"act{i + 1}", GammaAct())
            channels = after

        stages = []
        variance = 1.0
        for i, (factor, depth) in enumerate(zip((1, 2, 6, 6), depths, strict=True)):
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                settings = {
                    "in_channels": channels, "channels": width * factor, "stride": stride, "groups": factor,
                    "alpha": 0.2, "beta": variance**-0.5, "squeeze": squeeze, "skipinit": skipinit,
                }  # fmt: skip
                blocks.append(NormFreeBlock(conv, settings))
                channels = width * factor
                variance = (1.0 if j == 0 else variance) + 0.2**2
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.final_conv = conv(channels, 2 * channels, 1)
        self.final_act = GammaAct()
        self.head = nn.Linear(2 * channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))
        x = self.final_act(self.final_conv(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def nfnet_f0(
    width: int = 256, num_classes: int = 1000, depths: tuple[int, ...] = (1, 2, 6, 3), **options: Any
) -> NFNet:
    return NFNet(width, num_classes, depths, **options)
