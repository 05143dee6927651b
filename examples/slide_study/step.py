"""One training step on one large slide, projected and measured.

The plan is made from shapes alone, before there is a net or an optimiser. The step then follows it in a process of its
own, whose peak resident memory, less what it had before the net was made, is what is measured: parameters, state of the
optimiser and regions of the slide are in it, and so is all that kernels and Python take besides tensors. What the
allocator would keep of freed tensors is not: the process gives it back.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import zarr
from torch.nn.functional import huber_loss

import streamplan
from slide_study.nets import SlideNet

_PAPER_RATE = 1e-4
"""Learning rate of the paper."""
_GIVES_MEMORY_BACK = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}
"""glibc's allocator keeps freed tensors of tiles for later; with these settings they go back to the system at once."""


@dataclass(frozen=True)
class SlideFile:
    """Where a slide is."""

    path: Path
    """A zarr array (rows, columns, 3) of bytes, or a TIFF pyramid."""
    level: int = 0
    """Of the pyramid."""

    def open(self) -> streamplan.Source:
        """The slide; nothing is read before a tile needs it."""
        if self.path.suffix == ".zarr":
            return streamplan.Source(zarr.open_array(self.path, mode="r"), "HWC")
        return streamplan.open_slide(self.path, self.level)


@dataclass(frozen=True)
class Step:
    """What one step took."""

    loss: float
    seconds: float
    peak_bytes: int
    """Resident memory of the process, above what it had before the net was made."""
    base_bytes: int
    """What it had then: Python, torch, and the libraries that read slides."""


def plan_step(slide: SlideFile, width: int, depth: int, **options: Any) -> streamplan.Plan:
    """The plan of a step, made from shapes.

    Args:
        slide: Its size is looked up, and nothing else.
        width: Channels of the first group.
        depth: Repetitions of the fifth group.
        **options: `tile_size` or `memory_budget`, as for `streamplan.plan`.
    """
    with torch.device("meta"):
        net = SlideNet(width, depth)
    return streamplan.plan(
        net, example_inputs=slide.open(), batch_norm="resident", optimizer="adam", device="cpu", **options
    )


def take_step(slide: SlideFile, label: float, width: int, depth: int, plan_text: str) -> Step:
    """Forward pass, Huber loss, backward pass and a step of Adam; peak memory is that of this process so far."""
    source = slide.open()
    base = memory_bytes("VmRSS")
    torch.manual_seed(0)
    net = SlideNet(width, depth)
    plan = streamplan.Plan.from_json(plan_text)
    streamed = streamplan.compile(net, plan=plan, device="cpu", progress=sys.stderr.isatty())
    optimizer = torch.optim.Adam(net.parameters(), lr=_PAPER_RATE)
    started = time.perf_counter()
    loss = huber_loss(streamed(source), torch.tensor([[label]]), delta=1.0)
    loss.backward()
    optimizer.step()
    seconds = time.perf_counter() - started
    return Step(loss.item(), seconds, memory_bytes("VmHWM") - base, base)


def in_a_process_of_its_own(*arguments: Any) -> Step:
    """`take_step` in a new process, which gives freed memory back."""
    before = dict(os.environ)
    os.environ.update(_GIVES_MEMORY_BACK)  # read when a process starts
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(take_step, arguments)
    finally:
        os.environ.clear()
        os.environ.update(before)


def memory_bytes(field: str) -> int:
    """A line of this process's status: `VmRSS` is what it has, `VmHWM` the most it had; Linux only."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def memory_table(plan: streamplan.Plan, step: Step) -> str:
    """Projected and measured, as Markdown."""
    assert plan.forecast is not None
    memory, gib = plan.forecast.memory, 2**30
    rows = [
        ("plain net, projected", plan.forecast.plain_memory.peak_bytes),
        ("streamed, projected", memory.peak_bytes),
        ("streamed, measured above start", step.peak_bytes),
        ("process before the net was made", step.base_bytes),
    ]
    lines = ["| memory of a training step | GiB |", "|---|---|"]
    lines += [f"| {what} | {num_bytes / gib:.2f} |" for what, num_bytes in rows]
    return "\n".join(lines)
