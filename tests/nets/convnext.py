"""ConvNeXt-T: Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, "A ConvNet for the 2020s", 2022.

In two spellings: as torchvision writes it (`convnext_tiny`), and as the authors' code does (`convnext_tiny_original`),
whose norms between stages take mean and variance over the channels of channels-first maps by hand.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (3, 3, 9, 3)
"""Blocks per stage."""


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of a channels-first map."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    """`torch.permute` as a layer."""

    def __init__(self, dims: list[int]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return torch.permute(x, self.dims)


class CNBlock(nn.Module):
    """7x7 depthwise, norm and two linear layers over channels, scaled and added to the input."""

    def __init__(self, channels: int, layer_scale: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels, bias=True),
            Permute([0, 2, 3, 1]),
            nn.LayerNorm(channels, eps=1e-6),
            nn.Linear(channels, 4 * channels, bias=True),
            nn.GELU(),
            nn.Linear(4 * channels, channels, bias=True),
            Permute([0, 3, 1, 2]),
        )
        self.layer_scale = nn.Parameter(torch.ones(channels, 1, 1) * layer_scale)

    def forward(self, input: Tensor) -> Tensor:
        result = self.layer_scale * self.block(input)
        result += input
        return result


class ConvNeXt(nn.Module):
    """Patch stem, four stages with 2x2 convolutions between them, global average pool, norm, classifier.

    Args:
        width: Channels of the first stage; doubled three times.
        num_classes: Outputs of the classifier.
        depths: Blocks per stage.
        layer_scale: First value of every layer scale.
    """

    def __init__(
        self, width: int = 96, num_classes: int = 1000, depths: tuple[int, ...] = DEPTHS, layer_scale: float = 1e-6
    ) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, width, kernel_size=4, stride=4), LayerNorm2d(width, eps=1e-6))
        layers: list[nn.Module] = [stem]
        channels = width
        for i, depth in enumerate(depths):
            if i > 0:
                norm = LayerNorm2d(channels, eps=1e-6)
                layers.append(nn.Sequential(norm, nn.Conv2d(channels, 2 * channels, kernel_size=2, stride=2)))
                channels *= 2
            layers.append(nn.Sequential(*[CNBlock(channels, layer_scale) for _ in range(depth)]))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            LayerNorm2d(channels, eps=1e-6), nn.Flatten(1), nn.Linear(channels, num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))


class ChannelNorm(nn.Module):
    """Layer norm of either layout, channels first by hand; `LayerNorm` in the authors' code."""

    def __init__(self, channels: int, eps: float = 1e-6, data_format: str = "channels_last") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self.data_format = data_format
        self.normalized_shape = (channels,)

    def forward(self, x: Tensor) -> Tensor:
        if self.data_format == "channels_last":
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Block(nn.Module):
    """The block of the authors' code."""

    def __init__(self, dim: int, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = ChannelNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(layer_scale * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        input = x
        x = self.dwconv(x)
        x = x.permute(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = self.gamma * x
        x = x.permute(0, 3, 1, 2)
        return input + x


class OriginalConvNeXt(nn.Module):
    """The net of the authors' code; arguments as `ConvNeXt`."""

    def __init__(
        self, width: int = 96, num_classes: int = 1000, depths: tuple[int, ...] = DEPTHS, layer_scale: float = 1e-6
    ) -> None:
        super().__init__()
        dims = [width * 2**i for i in range(len(depths))]
        stem = nn.Sequential(nn.Conv2d(3, width, kernel_size=4, stride=4), _channels_first(width))
        self.downsample_layers = nn.ModuleList([stem])
        for before, after in pairwise(dims):
            layer = nn.Sequential(_channels_first(before), nn.Conv2d(before, after, kernel_size=2, stride=2))
            self.downsample_layers.append(layer)
        self.stages = nn.ModuleList(
            nn.Sequential(*[Block(dim, layer_scale) for _ in range(depth)])
            for dim, depth in zip(dims, depths, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.head = nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(len(self.stages)):
            x = self.downsample_layers[i](x)
            x = self.stages[i](x)
        x = self.norm(x.mean([-2, -1]))
        return self.head(x)


def _channels_first(channels: int) -> ChannelNorm:
    return ChannelNorm(channels, eps=1e-6, data_format="channels_first")


def convnext_tiny(
    width: int = 96, num_classes: int = 1000, depths: tuple[int, ...] = DEPTHS, layer_scale: float = 1e-6
) -> ConvNeXt:
    return ConvNeXt(width, num_classes, depths, layer_scale)


def convnext_tiny_original(
    width: int = 96, num_classes: int = 1000, depths: tuple[int, ...] = DEPTHS, layer_scale: float = 1e-6
) -> OriginalConvNeXt:
    return OriginalConvNeXt(width, num_classes, depths, layer_scale)
