"""AlexNet: Krizhevsky, Sutskever and Hinton, "ImageNet classification with deep convolutional neural networks", 2012.

With its local response normalisation and the grouped convolutions of its two halves, in one tower.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AlexNet(nn.Module):
    """Five convolutions with overlapping pools, three linear layers; images of 227 x 227 unless told otherwise.

    Args:
        width: Channels of the first convolution; an even number.
        num_classes: Outputs of the classifier.
        image_size: Extents of the images, which the first linear layer depends on.
    """

    def __init__(self, width: int = 96, num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> None:
        super().__init__()

        def scaled(published: int) -> int:
            return 2 * max(1, published * width // 192)

        second, third, fifth, hidden = scaled(256), scaled(384), scaled(256), scaled(4096)
        self.features = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=11, stride=4),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(width, second, kernel_size=5, padding=2, groups=2),
            nn.ReLU(inplace=True),
            nn.LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(second, third, kernel_size=3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(third, third, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(third, fifth, kernel_size=3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )
        left = [((((n - 11) // 4 + 1 - 3) // 2 + 1 - 3) // 2 + 1 - 3) // 2 + 1 for n in image_size]
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(fifth * left[0] * left[1], hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def alexnet(width: int = 96, num_classes: int = 1000, image_size: tuple[int, int] = (227, 227)) -> AlexNet:
    return AlexNet(width, num_classes, image_size)
