"""What a net is made of, as data: a `Recipe` holds a tree of `Node`s that predict their output and build themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, fields
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.randomize import randomize_


class Signal(NamedTuple):
    """Size of a value between two operations, without its batch."""

    channels: int
    extents: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.extents)


class Printed:
    """A repr that is a Python expression and leaves out what has its default value; for frozen dataclasses."""

    def __repr__(self) -> str:
        shown = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                shown.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Node(Printed, ABC):
    """A part of a net."""

    @abstractmethod
    def after(self, signal: Signal) -> Signal:
        """Returns the size of the output for an input of size `signal`."""

    @abstractmethod
    def module(self, signal: Signal) -> nn.Module:
        """Builds the part for inputs of size `signal`; its weights are still to be drawn."""

    def outputs(self, signal: Signal) -> tuple[Signal, ...]:
        """Returns the sizes of all outputs; only a net with several has more than one."""
        return (self.after(signal),)

    @property
    def is_fresh(self) -> bool:
        """Whether nobody else reads the output and autograd does not need it: it may be overwritten in place."""
        return False


@dataclass(frozen=True, repr=False)
class Head(Printed):
    """Global average pool, flatten, linear."""

    features: int
    spelling: Literal["module", "function", "mean"] = "module"

    def module(self, signal: Signal) -> nn.Module:
        return _HeadModule(self, signal)


class _HeadModule(nn.Module):
    def __init__(self, recipe: Head, signal: Signal) -> None:
        super().__init__()
        self.spelling = recipe.spelling
        self.ndim = signal.ndim
        if recipe.spelling == "module":
            self.pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[signal.ndim - 1](1)
            self.flatten = nn.Flatten()
        self.fc = nn.Linear(signal.channels, recipe.features)

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == "module":
            x = self.flatten(self.pool(x))
        elif self.spelling == "function":
            pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[self.ndim - 1]
            x = torch.flatten(pool(x, 1), 1)
        else:
            x = x.mean(dim=tuple(range(2, 2 + self.ndim)))
        return self.fc(x)


@dataclass(frozen=True, repr=False)
class Recipe(Printed):
    """A random net, in full: equal recipes build equal nets."""

    family: str
    """Strategy that drew it."""
    batch: int
    channels: int
    """Input channels."""
    extents: tuple[int, ...]
    """Input extents."""
    body: Node
    head: Head | None = None
    """Global pool and classifier; never streamable."""
    seed: int = 0
    """Seed of weights, running statistics and `draw_input`."""

    @property
    def ndim(self) -> int:
        return len(self.extents)

    @property
    def input_size(self) -> tuple[int, ...]:
        """(B, C, *extents)."""
        return (self.batch, self.channels, *self.extents)

    @property
    def body_outputs(self) -> tuple[Signal, ...]:
        """Sizes at the end of the body, before any head."""
        return self.body.outputs(Signal(self.channels, self.extents))

    @property
    def output_sizes(self) -> tuple[tuple[int, ...], ...]:
        """Predicted sizes of all outputs, batch included, in the order that `flatten_outputs` returns them."""
        if self.head is not None:
            return ((self.batch, self.head.features),)
        return tuple((self.batch, signal.channels, *signal.extents) for signal in self.body_outputs)

    def build(self) -> nn.Module:
        """Builds the net: float64, eval mode, weights drawn from the seed and scaled to outputs of unit size."""
        model = RecipeNet(self).double().eval()
        return randomize_(model, self.seed, sample=self.draw_input())

    def draw_input(self) -> Tensor:
        """Returns a float64 input, the same one each time."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        return torch.randn(self.input_size, generator=generator, dtype=torch.float64)


class RecipeNet(nn.Module):
    """The net of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        signal = Signal(recipe.channels, recipe.extents)
        self.body = recipe.body.module(signal)
        self.head = None if recipe.head is None else recipe.head.module(recipe.body.after(signal))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.head is not None:
            x = self.head(x)
        return x


def flatten_outputs(outputs: Tensor | tuple[Tensor, ...] | list[Tensor] | dict[str, Tensor]) -> list[Tensor]:
    """Returns the outputs of a net as a list, whatever container it returned them in."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return list(outputs.values()) if isinstance(outputs, dict) else list(outputs)
