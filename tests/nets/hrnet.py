"""HRNet-W32: Wang et al., "Deep high-resolution representation learning for visual recognition", 2019.

The body with its four outputs, named as in the authors' code. Coarser branches join finer ones by a 1x1 convolution and
nearest upsampling, finer ones join coarser ones by strided 3x3 convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn

from tests.nets.resnet import BasicBlock, Bottleneck


def _strided(in_channels: int, channels: int, *, relu: bool, stride: int = 2) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class HighResolutionModule(nn.Module):
    """Residual blocks on every branch, then every branch added to every other."""

    def __init__(self, channels: list[int], num_blocks: int) -> None:
        super().__init__()
        self.num_branches = len(channels)
        self.branches = nn.ModuleList(
            nn.Sequential(*[BasicBlock(c, c, 1, None) for _ in range(num_blocks)]) for c in channels
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fusion(channels, i, j) for j in range(len(channels))) for i in range(len(channels))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        for i in range(self.num_branches):
            x[i] = self.branches[i](x[i])
        x_fuse = []
        for i in range(len(self.fuse_layers)):
            y = x[0] if i == 0 else self.fuse_layers[i][0](x[0])
            for j in range(1, self.num_branches):
                y = y + (x[j] if i == j else self.fuse_layers[i][j](x[j]))
            x_fuse.append(self.relu(y))
        return x_fuse


def _fusion(channels: list[int], i: int, j: int) -> nn.Module:
    """What takes branch `j` to the size of branch `i`."""
    if j > i:
        return nn.Sequential(
            nn.Conv2d(channels[j], channels[i], 1, 1, 0, bias=False),
            nn.BatchNorm2d(channels[i]),
            nn.Upsample(scale_factor=2 ** (j - i), mode="nearest"),
        )
    if j == i:
        return nn.Identity()
    steps = [_strided(channels[j], channels[j], relu=True) for _ in range(i - j - 1)]
    return nn.Sequential(*steps, _strided(channels[j], channels[i], relu=False))


class HRNet(nn.Module):
    """Stem of stride 4, then stages of two, three and four parallel branches; returns all four.

    Args:
        width: Channels of the finest branch; the others have 2, 4 and 8 times as many, the stem twice as many.
        num_modules: Modules of the second, third and fourth stage.
        num_blocks: Residual blocks per branch of a module, and bottlenecks of the first stage.
    """

    def __init__(self, width: int = 32, num_modules: tuple[int, ...] = (1, 4, 3), num_blocks: int = 4) -> None:
        super().__init__()
        stem = 2 * width
        self.conv1 = nn.Conv2d(3, stem, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, stem, kernel_size=3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        wide = stem * Bottleneck.expansion
        downsample = nn.Sequential(nn.Conv2d(stem, wide, 1, bias=False), nn.BatchNorm2d(wide))
        blocks = [Bottleneck(stem, stem, 1, downsample)]
        blocks += [Bottleneck(wide, stem, 1, None) for _ in range(num_blocks - 1)]
        self.layer1 = nn.Sequential(*blocks)

        before = [wide]
        for stage, count in enumerate(num_modules, start=2):
            channels = [width * 2**i for i in range(stage)]
            setattr(self, f"transition{stage - 1}", _transition(before, channels))
            modules = [HighResolutionModule(channels, num_blocks) for _ in range(count)]
            setattr(self, f"stage{stage}", nn.Sequential(*modules))
            before = channels

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        branches = [self.layer1(x)]
        for stage in (2, 3, 4):
            transition = getattr(self, f"transition{stage - 1}")
            widened = [
                branches[min(i, len(branches) - 1)] if layer is None else layer(branches[min(i, len(branches) - 1)])
                for i, layer in enumerate(transition)
            ]
            branches = getattr(self, f"stage{stage}")(widened)
        return branches


def _transition(before: list[int], after: list[int]) -> nn.ModuleList:
    """Layers from the branches of one stage to those of the next; None where a branch stays as it is."""
    layers: list[nn.Module | None] = []
    for i, channels in enumerate(after):
        if i >= len(before):
            layers.append(nn.Sequential(_strided(before[-1], channels, relu=True)))
        elif before[i] != channels:
            layers.append(_strided(before[i], channels, relu=True, stride=1))
        else:
            layers.append(None)
    return nn.ModuleList(layers)


def hrnet(width: int = 32, num_modules: tuple[int, ...] = (1, 4, 3), num_blocks: int = 4) -> HRNet:
    return HRNet(width, num_modules, num_blocks)
