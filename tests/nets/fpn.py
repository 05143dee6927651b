"""Feature pyramid on ResNet-18: Lin et al., "Feature pyramid networks for object detection", 2017.

Named as in torchvision: `body`, `fpn.inner_blocks`, `fpn.layer_blocks`; returns a dict of five maps.
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.resnet import BasicBlock, ResNet


class Body(nn.Module):
    """ResNet without its head; returns what each stage returns."""

    def __init__(self, width: int, num_blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        for name, module in ResNet(BasicBlock, num_blocks, width).named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, module)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        out = OrderedDict()
        for i in range(4):
            x = getattr(self, f"layer{i + 1}")(x)
            out[str(i)] = x
        return out


class FeaturePyramidNetwork(nn.Module):
    """From coarse to fine: 1x1 of each stage plus the coarser map, enlarged; a 3x3 on each sum."""

    def __init__(self, in_channels: list[int], channels: int) -> None:
        super().__init__()
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, channels, 1)) for c in in_channels)
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in in_channels
        )

    def forward(self, x: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        names, maps = list(x.keys()), list(x.values())
        last_inner = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](last_inner)]
        for i in range(len(maps) - 2, -1, -1):
            inner_lateral = self.inner_blocks[i](maps[i])
            inner_top_down = F.interpolate(last_inner, size=inner_lateral.shape[-2:], mode="nearest")
            last_inner = inner_lateral + inner_top_down
            results.insert(0, self.layer_blocks[i](last_inner))
        names.append("pool")
        results.append(F.max_pool2d(results[-1], kernel_size=1, stride=2, padding=0))
        return OrderedDict(zip(names, results, strict=True))


class BackboneWithFPN(nn.Module):
    """Body and pyramid.

    Args:
        width: Channels of the stem; every map of the pyramid has four times as many.
        num_blocks: Blocks per stage of the body.
    """

    def __init__(self, width: int = 64, num_blocks: tuple[int, int, int, int] = (2, 2, 2, 2)) -> None:
        super().__init__()
        self.body = Body(width, num_blocks)
        self.fpn = FeaturePyramidNetwork([width * 2**i for i in range(4)], 4 * width)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(self.body(x))


def fpn_resnet18(width: int = 64, num_blocks: tuple[int, int, int, int] = (2, 2, 2, 2)) -> BackboneWithFPN:
    return BackboneWithFPN(width, num_blocks)
