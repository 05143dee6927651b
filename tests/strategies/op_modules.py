"""The same operations spelled as functions and methods, as user code mixes them with torch's modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[type[nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAX_POOLS: tuple[type[nn.Module], ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVG_POOLS: tuple[type[nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
MAX_POOL_FUNCTIONS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
AVG_POOL_FUNCTIONS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)


class FunctionalConv1d(nn.Conv1d):
    """`F.conv1d` on own weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class FunctionalConv2d(nn.Conv2d):
    """`F.conv2d` on own weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class FunctionalConv3d(nn.Conv3d):
    """`F.conv3d` on own weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


FUNCTIONAL_CONVS: tuple[type[nn.Module], ...] = (FunctionalConv1d, FunctionalConv2d, FunctionalConv3d)


class FunctionalNorm(nn.Module):
    """`F.batch_norm` with the statistics of a BatchNorm module that is never called."""

    def __init__(self, ndim: int, channels: int, affine: bool) -> None:
        super().__init__()
        self.norm: Any = NORMS[ndim - 1](channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        mean, variance = norm.running_mean, norm.running_var
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, self.training, norm.momentum, norm.eps)


class Called(nn.Module):
    """Applies `function(x, **options)`."""

    def __init__(self, function: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self.function = function
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **self.options)


class Method(nn.Module):
    """Applies `x.name()`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = getattr(x, self.name)()
        return result


def silence_uneven_same_padding() -> None:
    """Uses up a warning that torch gives once per process, about the copy that uneven "same" padding costs.

    Even kernels with padding="same" are legal and drawn on purpose; a test suite that turns warnings into errors would
    fail in whichever test met the first of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        F.conv1d(torch.zeros(1, 1, 4), torch.zeros(1, 1, 2), padding="same")


silence_uneven_same_padding()
