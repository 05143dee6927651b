"""One-operation nets for the contract test of the rules: each spelling of an operation as a tiny module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """A net whose forward is the given function, called with the net itself; submodules and parameters by keyword."""

    def __init__(self, function: Callable[..., Any], **members: Any) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            setattr(self, name, member)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


@dataclass(frozen=True)
class Example:
    """A net that applies one operation, and the sizes of its inputs."""

    op: str
    """Canonical operation that the net must contain, streamed."""
    name: str
    """What is special about it."""
    build: Callable[[], nn.Module]
    sizes: tuple[tuple[int, ...], ...]

    @property
    def id(self) -> str:
        return f"{self.op}-{self.name}"

    def model(self) -> nn.Module:
        """The net in float64 and eval mode; the same weights each time."""
        torch.manual_seed(1)
        return self.build().double().eval()

    def inputs(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(2)
        return [torch.randn(size, generator=generator, dtype=torch.float64) for size in self.sizes]


SIZE_1D = (2, 3, 11)
SIZE_2D = (2, 3, 7, 9)
SIZE_3D = (2, 3, 5, 4, 6)


def example(op: str, name: str, build: Callable[[], nn.Module], *sizes: tuple[int, ...]) -> Example:
    return Example(op, name, build, sizes or (SIZE_2D,))


def function(
    op: str, name: str, call: Callable[..., Any], *sizes: tuple[int, ...], **shapes: tuple[int, ...]
) -> Example:
    """A net of one function; keyword arguments are shapes of parameters it reads as `net.<name>`."""

    def build() -> nn.Module:
        return Net(call, **{key: nn.Parameter(torch.randn(shape)) for key, shape in shapes.items()})

    return example(op, name, build, *sizes)
