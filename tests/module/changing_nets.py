"""Nets whose Python does something else at every call; each copy of this module has globals and classes of its own.

`KINDS` lists the nets; `Changing` is the one whose parts a test changes between calls.
"""

from __future__ import annotations

import contextvars
import functools
import itertools
import random
import threading
from collections import Counter, OrderedDict, defaultdict, deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

COUNTS = {"calls": 0}
TICKS = 0
SEEN: list[int] = []
KEPT: list[Tensor] = []
NUMBERS = itertools.count(1)
GENERATOR = np.random.default_rng(3)
LOCAL = threading.local()
CONTEXT = contextvars.ContextVar("CONTEXT", default=0)
GRIDS: dict[int, Tensor] = {}
KINDS: list[str] = []


def conv(channels: int, filters: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, kernel, padding=kernel // 2)


class Base(nn.Module):
    """Two convolutions and a head; what a subclass is about is done in `factor`, which scales the map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = conv(2, 3), conv(3, 2), nn.Linear(2, 2)
        self.norm, self.drop = nn.BatchNorm2d(2), nn.Dropout(0.5)
        self.register_buffer("offset", torch.ones(2, 1, 1))
        self.table = torch.ones(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(torch.relu(self.first(x))) * self.factor(x)
        y = self.norm(self.around(y) + self.offset * self.table)
        y = self.head(self.drop(y.mean((2, 3))))
        self.end()
        return y

    def factor(self, x: Tensor) -> Any:
        return 1.0

    def around(self, y: Tensor) -> Tensor:
        return y

    def end(self) -> None:
        """Called last."""

    def __init_subclass__(cls) -> None:
        KINDS.append(cls.__name__)


class CountsInADict(Base):
    def factor(self, x: Tensor) -> Any:
        COUNTS["calls"] += 1
        return 1 + COUNTS["calls"] // 3


class CountsInAGlobal(Base):
    def factor(self, x: Tensor) -> Any:
        global TICKS  # noqa: PLW0603 - what is tested
        TICKS += 1
        return 1 + TICKS % 3


class CountsInAHelper(Base):
    def factor(self, x: Tensor) -> Any:
        return 1 + tick() // 2


def tick() -> int:
    SEEN.append(len(SEEN))
    return len(SEEN)


def _closure() -> Any:
    calls = 0

    def count() -> int:
        nonlocal calls
        calls += 1
        return calls

    return count


_COUNT = _closure()


class CountsInAClosure(Base):
    def factor(self, x: Tensor) -> Any:
        return 1 + _COUNT() // 3


class CountsInADefault(Base):
    def factor(self, x: Tensor, memory: dict[str, int] = {"n": 0}) -> Any:  # noqa: B006 - what is tested
        memory["n"] += 1
        return 1 + memory["n"] // 3


class CountsInItsClass(Base):
    calls = 0
    seen: list[int] = []  # noqa: RUF012 - what is tested

    def factor(self, x: Tensor) -> Any:
        type(self).calls += 1
        self.seen.append(1)
        return 1 + self.calls // 2 + len(self.seen) // 3


class CountsInItsFunction(Base):
    def factor(self, x: Tensor) -> Any:
        function = CountsInItsFunction.factor
        function.calls = getattr(function, "calls", 0) + 1
        return 1 + function.calls // 3


class CountsInAThread(Base):
    def factor(self, x: Tensor) -> Any:
        LOCAL.calls = getattr(LOCAL, "calls", 0) + 1
        CONTEXT.set(CONTEXT.get() + 1)
        return 1 + LOCAL.calls // 3 + CONTEXT.get() // 2


class CountsInContainers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.ring = deque([1, 2, 3], maxlen=3)
        self.counter, self.sums, self.seen = Counter(), defaultdict(int), set()
        self.inner = SimpleNamespace(calls=0, log=[{"n": 0}])
        self.sizes: OrderedDict[int, int] = OrderedDict()
        self.array = np.zeros(2)

    def factor(self, x: Tensor) -> Any:
        self.ring.rotate()
        self.counter["x"] += 1
        self.sums[x.shape[-1]] += 2
        self.seen.add(len(self.seen))
        self.inner.calls += 1
        self.inner.log[0]["n"] += self.ring[0]
        self.sizes[x.shape[-1]] = self.inner.calls
        self.array += 0.5
        return self.ring[0] + self.sums[x.shape[-1]] // 3 + len(self.sizes) + float(self.array[0] // 1)


class Iterates(Base):
    def __init__(self) -> None:
        super().__init__()
        self.steps = itertools.cycle([1, 2, 5])
        self.rest = iter(range(100))

    def factor(self, x: Tensor) -> Any:
        return 1 + next(self.steps) + next(self.rest) // 2 + next(NUMBERS) // 3


class Draws(Base):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.state, self.random = np.random.default_rng(1), np.random.RandomState(2), random.Random(3)

    def factor(self, x: Tensor) -> Any:
        legacy = np.random.rand()
        own = self.generator.random() + self.state.rand() + self.random.random() + GENERATOR.random()
        return (2.0 if random.random() < 0.5 else 3.0) + legacy + own


class SkipsAtRandom(Base):
    def around(self, y: Tensor) -> Tensor:
        return y if random.random() < 0.5 else y + self.drop(y)


class ReadsSwitches(Base):
    def factor(self, x: Tensor) -> Any:
        value = 2.0 if torch.is_grad_enabled() else 3.0
        value *= 5.0 if x.requires_grad else 7.0
        value *= 1.5 if torch.is_inference_mode_enabled() else 1.0
        return value * (1.0 if self.first.weight.requires_grad else 1.25) * (1.1 if self.training else 1.0)


class Caches(Base):
    def __init__(self) -> None:
        super().__init__()
        self.grids: dict[int, Tensor] = {}

    def factor(self, x: Tensor) -> Any:
        width = x.shape[-1]
        if width not in self.grids:
            self.grids[width] = torch.arange(width, dtype=x.dtype)
        if width not in GRIDS:
            GRIDS[width] = torch.arange(width, dtype=x.dtype) / width
        return self.grids[width] + GRIDS[width] + grid(width)


@functools.lru_cache
def grid(width: int) -> Tensor:
    return torch.arange(width, dtype=torch.float64) * 2


class KeepsWhatItOwns(Base):
    def factor(self, x: Tensor) -> Any:
        self.latest, self.pair = self.table, [self.first, self.offset]
        self.size = tuple(x.shape)
        return 1.0


class KeepsTheFrame(Base):
    def factor(self, x: Tensor) -> Any:
        before = getattr(self, "frame", None)
        self.frame = x.mean()
        return 1.0 if before is None else before


class KeepsTheFrameOutside(Base):
    def factor(self, x: Tensor) -> Any:
        KEPT.append(x.mean())
        return KEPT[-2] if len(KEPT) > 1 else 1.0


class Swallows(Base):
    def factor(self, x: Tensor) -> Any:
        try:
            return float(x.detach().numpy().max()) + 1
        except Exception:  # noqa: BLE001 - what is tested
            return 7.0


class SwallowsSizes(Base):
    def factor(self, x: Tensor) -> Any:
        try:
            return self.first(x[:, :1])
        except RuntimeError:
            return 2.0


class ReadsItsTable(Base):
    def factor(self, x: Tensor) -> Any:
        try:
            return float(self.table.numpy().sum())
        except Exception:  # noqa: BLE001 - what is tested
            return 7.0


class Seeds(Base):
    def factor(self, x: Tensor) -> Any:
        torch.manual_seed(3)
        return torch.rand(())


class SetsBefore(Base):
    def factor(self, x: Tensor) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        self.norm.eps = 0.1 * self.calls
        self.drop.p, self.drop.training = min(0.9, 0.1 * self.calls), True
        return 1.0


class SetsAfter(Base):
    def end(self) -> None:
        self.norm.eps += 0.25


class SetsAndSetsBack(Base):
    def factor(self, x: Tensor) -> Any:
        self.drop.train()
        return 1.0

    def end(self) -> None:
        self.drop.eval()


class CallsALayerTwice(Base):
    def around(self, y: Tensor) -> Tensor:
        self.last.dilation = self.last.padding = (2, 2)
        z = self.last(self.first(y))
        self.last.dilation = self.last.padding = (1, 1)
        return z


class Freezes(Base):
    def factor(self, x: Tensor) -> Any:
        self.first.requires_grad_(not self.first.weight.requires_grad)
        return 1.0


class Hooks(Base):
    def factor(self, x: Tensor) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2:
            self.last.register_forward_hook(lambda module, args, out: out * 2)
        return 1.0


class Clamps(Base):
    def factor(self, x: Tensor) -> Any:
        self.first.weight.data.clamp_(-0.1, 0.1)
        return 1.0


class ClampsItsHead(Base):
    def around(self, y: Tensor) -> Tensor:
        self.head.weight.data.clamp_(-0.3, 0.3)
        return y


class CountsInABuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def factor(self, x: Tensor) -> Any:
        self.calls.add_(1.0)
        return 2.0


class Unit(nn.Module):
    """A convolution with a gain, of the instance and of the class."""

    k = 1.5

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gain = conv(3, 3), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.gain * self.k + x


class Changing(nn.Module):
    """A net of all that a test changes."""

    weights = {"z": 1.0}  # noqa: RUF012 - what is tested

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(2, 3)
        self.body = nn.Sequential(conv(3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.0), conv(3, 3))
        self.units = nn.ModuleList([Unit(), Unit()])
        self.named = nn.ModuleDict({"p": conv(3, 3, 1), "q": conv(3, 3, 1)})
        self.register_parameter("lora", None)
        self.gains = nn.ParameterDict({"k": nn.Parameter(torch.ones(3, 1, 1))})
        self.kernel = nn.Parameter(torch.randn(3, 3, 3, 3) / 5)
        self.tied = self.kernel
        self.register_buffer("scale", torch.ones(3, 1, 1))
        self.config = SimpleNamespace(scale=1.0, order=["p", "q"], array=np.ones(2), deep={"s": [1.0]}, flags={"x"})
        self.act = F.relu
        self.pool, self.norm, self.head = nn.AvgPool2d(2), nn.BatchNorm2d(3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        if self.lora is not None:
            y = y * self.lora
        y = self.body(y)
        for unit in self.units:
            y = unit(y)
        for name in (*self.named, *self.config.order):
            y = y + self.named[name](y) * (1 + len(name) / 10) if name in self.named else y
        for name in self.gains:
            y = y * self.gains[name]
        y = y * self.config.scale * float(self.config.array.sum()) * self.config.deep["s"][0] * self.weights["z"]
        y = y * self.scale * (2 if "x" in self.config.flags else 1) * (1 + COUNTS["calls"])
        y = self.act(F.conv2d(F.conv2d(y, self.kernel, padding=1), self.tied, padding=1))
        y = F.silu(self.norm(self.pool(y)))  # the mean of what is normalised over one image has no gradient
        return self.head(y.mean((2, 3)))
