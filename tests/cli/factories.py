"""Nets for the command line, and things that are none."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions and a resident head."""

    def __init__(self, width: int = 4, norm: str = "none", num_classes: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if norm == "batch" else nn.Identity()
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.down(torch.relu(self.norm(self.stem(x)))))
        return self.fc(x.mean((2, 3)))


class TwoImages(nn.Module):
    """Two images in, one map out."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return self.left(image) * torch.tanh(self.right(other))


class Global(nn.Module):
    """Nothing to stream: the first operation reads the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


BUILT_ON: list[str] = []
"""Devices that `remember_device` was called for."""


def remember_device() -> nn.Module:
    model = Small()
    BUILT_ON.append(model.stem.weight.device.type)
    return model


def reads_values() -> nn.Module:
    """Cannot be made without data."""
    widths = [int(width.item()) for width in torch.tensor([2, 4])]
    BUILT_ON.append("cpu")
    return nn.Sequential(nn.Conv2d(3, widths[0], 3), nn.Conv2d(widths[0], widths[1], 3))


def talkative() -> nn.Module:
    print("building")  # noqa: T201 - what a user's factory may do
    return Small()


def fails() -> nn.Module:
    raise RuntimeError("the weights are elsewhere")


def makes_a_list() -> list[int]:
    return [1]


INSTANCE = Small()
ZOO = SimpleNamespace(small=Small)
NUMBER = 3
