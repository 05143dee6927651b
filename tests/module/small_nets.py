"""Nets of a few layers for the tests of this folder, at module level so that they can be pickled."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Two strided stages with BatchNorm, then a resident head with a BatchNorm of its own."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.BatchNorm1d(channels)
        self.fc = nn.Linear(channels, 5)
        self.register_buffer("scale", torch.tensor(1.5))
        self.register_buffer("offset", torch.tensor(0.25), persistent=False)
        self.num_classes = 5

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x)) * self.scale
        return self.fc(self.norm(self.pool(x).flatten(1) + self.offset))

    def classes(self) -> int:
        return self.num_classes


class Heads(nn.Module):
    """Returns a dict with a map, a vector and a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 2, stride=2)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        fine = torch.relu(self.conv(x))
        coarse = self.down(fine)
        return {"maps": (fine, coarse), "logits": self.fc(coarse.mean((2, 3)))}


class TwoImages(nn.Module):
    """Two images in, one map out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(1, 4, 5, padding=2)
        self.out = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return self.out(torch.relu(self.left(image)) * torch.tanh(self.right(other)))


class Masked(nn.Module):
    """An optional mask and an optional scale."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        x = torch.relu(self.conv(image)) * scale
        if mask is not None:
            x = x * mask
        return self.out(x)


class Normed(nn.Module):
    """BatchNorm behind every convolution and one in the head; a bias before them would have no gradient but noise."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24, 3, bias=False), nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.nn.functional.adaptive_avg_pool2d(self.features(x), (2, 3)))


class WithImageInHead(nn.Module):
    """The resident part reads the image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) * x.std()
