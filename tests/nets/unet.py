"""U-Nets in two and three dimensions: Ronneberger, Fischer and Brox, "U-Net", 2015; Cicek et al., "3D U-Net", 2016.

One encoder, three ways up (transposed convolution, linear or nearest upsampling) and three ways to meet the skip:

- "none": extents must be divisible by 2^depth;
- "pad": zero-pad the upsampled map by the odd difference, half before and the rest after, as widely used code does;
- "crop": convolutions without padding and a centre crop of the skip, as published.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UpKind = Literal["transpose", "linear", "nearest"]
MatchKind = Literal["none", "pad", "crop"]

_CONV: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[int, type[nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_LINEAR_MODE = {2: "bilinear", 3: "trilinear"}


class DoubleConv(nn.Module):
    """Twice: 3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, channels: int, ndim: int, padding: int) -> None:
        super().__init__()
        conv, norm = _CONV[ndim], _NORM[ndim]
        self.double_conv = nn.Sequential(
            conv(in_channels, channels, kernel_size=3, padding=padding, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
            conv(channels, channels, kernel_size=3, padding=padding, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.double_conv(x)


class Down(nn.Module):
    """Max pool 2, then a double convolution."""

    def __init__(self, in_channels: int, channels: int, ndim: int, padding: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(_POOL[ndim](2), DoubleConv(in_channels, channels, ndim, padding))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """Upsample by 2, meet the skip, concatenate, double convolution."""

    def __init__(
        self, in_channels: int, channels: int, ndim: int, up: UpKind, match: MatchKind, align_corners: bool
    ) -> None:
        super().__init__()
        self.match = match
        up_channels = in_channels
        if up == "transpose":
            up_channels = in_channels // 2
            self.up: nn.Module = _TRANSPOSED[ndim](in_channels, up_channels, kernel_size=2, stride=2)
        elif up == "linear":
            self.up = nn.Upsample(scale_factor=2, mode=_LINEAR_MODE[ndim], align_corners=align_corners)
        else:
            self.up = nn.Upsample(scale_factor=2, mode="nearest")
        padding = 0 if match == "crop" else 1
        self.conv = DoubleConv(up_channels + channels, channels, ndim, padding)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)
        if self.match == "pad":
            pads: list[int] = []
            for axis in range(x.dim() - 1, 1, -1):
                diff = skip.size()[axis] - x.size()[axis]
                pads += [diff // 2, diff - diff // 2]
            x = F.pad(x, pads)
        elif self.match == "crop":
            for axis in range(2, x.dim()):
                before = (skip.size(axis) - x.size(axis)) // 2
                skip = skip.narrow(axis, before, x.size(axis))
        return self.conv(torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """Encoder-decoder with skips; `num_classes` maps come out, as large as the input (except with "crop").

    Args:
        in_channels: Channels of the input.
        num_classes: Channels of the output.
        width: Channels at full resolution; doubled with each level.
        depth: Number of levels below full resolution.
        ndim: Spatial dimensions, 2 or 3.
        up: How the decoder upsamples.
        match: How upsampled maps and skips of unequal extent meet.
        align_corners: Grid convention of linear upsampling.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        width: int = 64,
        depth: int = 4,
        ndim: int = 2,
        up: UpKind = "transpose",
        match: MatchKind = "none",
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        padding = 0 if match == "crop" else 1
        channels = [width * 2**level for level in range(depth + 1)]
        self.inc = DoubleConv(in_channels, width, ndim, padding)
        self.downs = nn.ModuleList(Down(a, b, ndim, padding) for a, b in pairwise(channels))
        self.ups = nn.ModuleList(
            Up(b, a, ndim, up, match, align_corners) for a, b in reversed(list(pairwise(channels)))
        )
        self.outc = _CONV[ndim](width, num_classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inc(x)
        skips = []
        for down in self.downs:
            skips.append(x)
            x = down(x)
        for up in self.ups:
            x = up(x, skips.pop())
        return self.outc(x)


def unet(width: int = 64, depth: int = 4, num_classes: int = 2) -> UNet:
    """Transposed convolutions, extents divisible by 2^depth."""
    return UNet(num_classes=num_classes, width=width, depth=depth)


def unet_valid(width: int = 64, depth: int = 4, num_classes: int = 2) -> UNet:
    """As published: no padding, cropped skips, output smaller than input."""
    return UNet(in_channels=1, num_classes=num_classes, width=width, depth=depth, match="crop")


def unet_bilinear(width: int = 64, depth: int = 4, num_classes: int = 2, align_corners: bool = True) -> UNet:
    """Bilinear upsampling and padding of the odd difference: any extent of at least 2^depth."""
    return UNet(
        num_classes=num_classes, width=width, depth=depth, up="linear", match="pad", align_corners=align_corners
    )


def unet_nearest(width: int = 64, depth: int = 4, num_classes: int = 2) -> UNet:
    """Nearest upsampling and padding of the odd difference."""
    return UNet(num_classes=num_classes, width=width, depth=depth, up="nearest", match="pad")


def unet3d(width: int = 32, depth: int = 3, num_classes: int = 2, up: UpKind = "transpose") -> UNet:
    """Three-dimensional; one input channel, padding of the odd difference."""
    return UNet(1, num_classes, width=width, depth=depth, ndim=3, up=up, match="pad")
