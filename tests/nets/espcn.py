"""ESPCN: Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel network", 2016.

Structured and named as in PyTorch's example of super-resolution: four convolutions, then channels to space.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ESPCN(nn.Module):
    """Maps (B, 1, H, W) to (B, 1, upscale_factor H, upscale_factor W).

    Args:
        width: Channels of the first two convolutions; the third has half as many.
        upscale_factor: Enlargement.
    """

    def __init__(self, width: int = 64, upscale_factor: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, (5, 5), (1, 1), (2, 2))
        self.conv2 = nn.Conv2d(width, width, (3, 3), (1, 1), (1, 1))
        self.conv3 = nn.Conv2d(width, width // 2, (3, 3), (1, 1), (1, 1))
        self.conv4 = nn.Conv2d(width // 2, upscale_factor**2, (3, 3), (1, 1), (1, 1))
        self.pixel_shuffle = nn.PixelShuffle(upscale_factor)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        return self.pixel_shuffle(self.conv4(x))


def espcn(width: int = 64, upscale_factor: int = 3) -> ESPCN:
    return ESPCN(width, upscale_factor)
