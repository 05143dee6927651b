"""Nodes that apply others one after the other: `Chain` and, with shared weights, `Shared`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tests.strategies.recipe import Node, Signal


@dataclass(frozen=True, repr=False)
class Chain(Node):
    """Applies its parts in order; an empty one returns its input itself."""

    parts: tuple[Node, ...]

    def after(self, signal: Signal) -> Signal:
        for part in self.parts:
            signal = part.after(signal)
        return signal

    def module(self, signal: Signal) -> nn.Module:
        modules = []
        for part in self.parts:
            modules.append(part.module(signal))
            signal = part.after(signal)
        return nn.Sequential(*modules)

    @property
    def is_fresh(self) -> bool:
        return bool(self.parts) and self.parts[-1].is_fresh


@dataclass(frozen=True, repr=False)
class Shared(Node):
    """Applies one part, which keeps its input's size, several times with the same weights."""

    part: Node
    times: int

    def after(self, signal: Signal) -> Signal:
        assert self.part.after(signal) == signal
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _SharedModule(self.part.module(signal), self.times)


class _SharedModule(nn.Module):
    def __init__(self, part: nn.Module, times: int) -> None:
        super().__init__()
        self.part = part
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.part(x)
        return x
