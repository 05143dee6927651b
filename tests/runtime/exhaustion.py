"""A process that runs out of memory in a chosen phase: `python -m tests.runtime.exhaustion PHASE`; prints JSON.

The address space is limited to what the process has after a warm-up and a little more. With a low threshold of glibc's
for mappings (see `ENVIRONMENT`), freed tensors leave the address space at once.
"""

from __future__ import annotations

import json
import resource
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import streamplan
from streamplan.errors import OutOfMemoryError
from streamplan.runtime import passes, runners, streaming

ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
MIB = 2**20
BUDGETS = {"forward": 24 * MIB, "backward": 84 * MIB, "head": 120 * MIB}
"""Above what there is after the warm-up. A map of a tile has 16 MiB, and the head asks for 256."""
SIZE, SMALL = (1, 3, 1024, 1024), (1, 3, 128, 96)


class Net(nn.Module):
    """Six maps of one size, a pool, and a head that repeats a small map."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.Tanh()]
        for _ in range(4):
            layers += [nn.Conv2d(16, 16, 1), nn.Tanh()]
        self.body = nn.Sequential(*layers, nn.AvgPool2d(4))
        self.num_repeats = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        mean = x.mean((2, 3), keepdim=True)
        return torch.cat([x - mean] * self.num_repeats, 1).square().mean() if self.num_repeats else mean.square().mean()


def address_space() -> int:
    """Bytes this process has mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmSize"))


def step(model: nn.Module, net: nn.Module, x: Tensor) -> list[Tensor]:
    """Gradients of all parameters."""
    model.zero_grad()
    net(x).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def exhaust(phase: str) -> dict[str, Any]:
    """What comes of a step with too little memory."""
    torch.set_num_threads(1)
    model = Net()
    keep_tiles = {"forward": 0, "backward": 0, "head": 1}[phase]
    model.num_repeats = 64 if phase == "head" else 0
    streamed = streamplan.compile(model, SIZE, (256, 1024), keep_tiles=keep_tiles)
    small = torch.rand(SMALL)
    expected = step(model, model, small)
    step(model, streamed, small)
    image = torch.rand(SIZE)
    alive: list[weakref.ref[Any]] = []
    run_tile, forward_pass = runners.run_tile, streaming.forward_pass

    def watched_tile(*args: Any) -> runners.TileRun:
        run = run_tile(*args)
        alive.extend(
            weakref.ref(part) for part in (run.tile, *run.blocks, *run.tile.handed.values()) if part is not None
        )
        return run

    def watched_pass(*args: Any, **kwargs: Any) -> passes.ForwardResult:
        result = forward_pass(*args, **kwargs)
        alive.extend(weakref.ref(run.tile) for run in result.kept.values())
        alive.append(weakref.ref(result))
        return result

    runners.run_tile, streaming.forward_pass = watched_tile, watched_pass
    model.zero_grad()
    before = address_space()
    resource.setrlimit(resource.RLIMIT_AS, (before + BUDGETS[phase], resource.RLIM_INFINITY))
    loss = error = None
    try:
        loss = streamed(image)
        loss.backward()
    except OutOfMemoryError as found:
        error = found
    has_gradients = any(parameter.grad is not None for parameter in model.parameters())
    del loss
    num_watched, num_alive = len(alive), sum(ref() is not None for ref in alive)
    grown = address_space() - before
    found_after = step(model, streamed, small)  # within the limit, and with the error still at hand
    finer_error = None
    if phase == "forward":
        finer = streamplan.compile(model, SIZE, (32, 256), keep_tiles=0)
        finer_error = "" if step(model, finer, image) else "no gradients"
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert error is not None, "there was enough memory"
    return {
        "bases": [base.__name__ for base in type(error).__mro__],
        "phase": error.phase,
        "tile": error.tile,
        "projected": error.projected,
        "measured": error.measured,
        "message": str(error),
        "cause": type(error.__cause__).__name__,
        "limit": before + BUDGETS[phase],
        "has_gradients": has_gradients,
        "num_watched": num_watched,
        "num_alive": num_alive,
        "grown": grown,
        "error_after": max(float((a - b).abs().max()) for a, b in zip(found_after, expected, strict=True)),
        "finer_error": finer_error,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(exhaust(sys.argv[1])) + "\n")
