"""The Imagenette net: Pinckaers, van Ginneken and Litjens, "Streaming convolutional neural networks", 2020.

Table 1 of the paper: five 3x3 convolutions, each followed by a max pool, the last one 10x10, then a fully connected
layer. The table leaves activations and padding open: ReLU after each convolution; without padding a 320 x 320 image
becomes 16 x 16 before the last pool and 1 x 1 after it, with padding 20 x 20 and 2 x 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImagenetteNet(nn.Module):
    """Maps (B, 3, image_size, image_size) to (B, num_classes).

    Args:
        width: Channels of the first convolution, 16 in the paper; doubled four times.
        num_classes: Outputs of the classifier.
        image_size: Extent of the images, which the fully connected layer depends on.
        padding: Zero padding of the convolutions, 0 or 1.
        last_pool: Window and stride of the last max pool.
    """

    def __init__(
        self, width: int = 16, num_classes: int = 10, image_size: int = 320, padding: int = 0, last_pool: int = 10
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        in_channels, extent = 3, image_size
        for i, pool in enumerate((2, 2, 2, 2, last_pool)):
            channels = width * 2**i
            layers += [nn.Conv2d(in_channels, channels, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(pool)]
            in_channels, extent = channels, (extent - 2 + 2 * padding) // pool
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(in_channels * extent**2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = torch.flatten(x, 1)
        return self.fc(x)


def imagenette(
    width: int = 16, num_classes: int = 10, image_size: int = 320, padding: int = 0, last_pool: int = 10
) -> ImagenetteNet:
    return ImagenetteNet(width, num_classes, image_size, padding, last_pool)
