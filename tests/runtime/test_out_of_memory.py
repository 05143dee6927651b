"""Memory that really runs out, in every phase, and projections against counted allocations."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

import streamplan
from streamplan.errors import OutOfMemoryError, StreamPlanError
from streamplan.planning.memory import CallMemory, Phase, project_memory
from streamplan.runtime.progress import Progress
from streamplan.runtime.shortage import DeviceOutOfMemoryError, _shortage, is_out_of_memory
from tests.golden import assert_matches_golden
from tests.nets.resnet import resnet18
from tests.nets.unet import unet_bilinear
from tests.runtime.alive import alive_bytes
from tests.runtime.exhaustion import BUDGETS, ENVIRONMENT, MIB
from tests.runtime.test_memory import net

ROOT = Path(__file__).parents[2]


def exhaust(phase: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.runtime.exhaustion", phase],
        cwd=ROOT,
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited as on Linux")
@pytest.mark.parametrize(
    ("phase", "said", "tiles", "largest", "remedy"),
    [
        ("forward", ("forward",), range(4), "activations of one tile", "smaller tiles along axis"),
        ("backward", ("recomputation", "backward"), range(4), "activations of one tile, with autograd", "tile_size="),
        ("head", ("head",), None, "activations of the resident part", "torch.utils.checkpoint"),
    ],
)
def test_exhaustion(phase: str, said: tuple[str, ...], tiles: range | None, largest: str, remedy: str) -> None:
    found = exhaust(phase)
    assert {"OutOfMemoryError", "StreamPlanError", "RuntimeError"} <= set(found["bases"])
    assert found["cause"] == "RuntimeError"
    assert found["phase"] in said
    assert (found["tile"] is None) if tiles is None else (found["tile"] in tiles)
    # The numbers: more was needed than there was, and the largest item and its remedy come first.
    assert sum(found["projected"].values()) > BUDGETS[phase]
    assert next(iter(found["projected"])) == largest
    assert sorted(found["projected"].values(), reverse=True) == list(found["projected"].values())
    assert 0.9 * found["limit"] < found["measured"]["address space"] <= found["limit"]
    assert found["measured"]["its limit"] == found["limit"]
    assert f"do:    1. {remedy}" in found["message"] or (phase == "backward" and remedy in found["message"])
    assert "can't allocate memory" in found["message"]
    # Nothing of the call is left, though the error is still there; the next calls are right.
    assert found["num_watched"] or phase == "forward"
    assert found["num_alive"] == 0
    assert found["grown"] < 8 * MIB
    assert not found["has_gradients"]
    assert found["error_after"] < 1e-6
    assert found["finer_error"] in ("", None)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], int, int, str]] = {
    "chain": (net, (1024, 96), 64, 64, "latest"),
    "resnet": (lambda: resnet18(width=16, num_classes=3).eval(), (512, 256), 128, 512, "layer4"),
    "unet": (lambda: unet_bilinear(width=8, depth=2).eval(), (512, 256), 64, 64, "latest"),
}


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("name", NETS)
def test_projections_are_near_what_is_counted(name: str, halo: str) -> None:
    """The image is there before and does not count. A forward pass is all estimate, a step mostly not.

    Tensors are counted, not the work space that the processor's kernels take beside them.
    """
    build, extents, num_rows, num_read, cut = NETS[name]
    model, size = build(), (1, 3, *extents)
    rows = num_rows if halo == "reuse" else min(extents[0], num_rows + num_read)
    streamed = streamplan.compile(model, size, (rows, extents[1]), halo=halo, keep_tiles=0, cut=cut)  # type: ignore[arg-type]
    image = torch.rand(size)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        streamed(image)
        counted = alive_bytes(model, streamed, image)
        projected = projected_bytes(streamed, model, image, "forward")
    assert 0.6 * counted < projected < 1.6 * counted, (projected, counted)
    counted = alive_bytes(model, streamed, image)
    projected = projected_bytes(streamed, model, image, "backward")
    assert 0.9 * counted < projected < 1.4 * counted, (projected, counted)


def projected_bytes(streamed: Any, model: nn.Module, image: torch.Tensor, phase: Phase) -> int:
    executable, cpu = next(iter(streamed._executables.values())), torch.device("cpu")
    progress = executable._progress([image], cpu, None)
    executable._prepare(model, [image], cpu, progress)
    items = project_memory(executable.segment.memory, progress.memory, phase, 0, "device")
    return sum(item.num_bytes for item in items if item.what != "image")


def test_the_message() -> None:
    """Of a GPU that this machine need not have: what was measured there is made up, what is projected is not."""
    model = resnet18(width=16, num_classes=3).eval()
    streamed = streamplan.compile(model, (1, 3, 4096, 4096), (512, 2048), cut="layer3", keep_tiles=2)
    (executable,) = streamed._executables.values()
    memory = CallMemory("cuda", 3 * 4096**2 * 4, "device", False, 1 << 20, 3 << 20, is_differentiated=True)
    progress = Progress(streamed._plan.num_tiles, memory, None, "forward", (1, 0), 2)
    texts = []
    for phase in get_args(Phase):
        progress.phase, progress.index = phase, None if phase in ("preparation", "head") else (1, 0)
        items = project_memory(executable.segment.memory, memory, phase, progress.num_done, "device")
        cause = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nsome advice")
        measured = {"allocated": 3 << 30, "its peak": 4 << 30, "reserved": 5 << 30, "free": 1 << 20, "in all": 6 << 30}
        error = _shortage(cause, items, measured, progress, "cuda:0")
        assert isinstance(error, DeviceOutOfMemoryError)
        texts.append(str(error))
    assert_matches_golden("\n\n".join(texts), "error_out_of_memory")


@pytest.mark.parametrize("kind", [OutOfMemoryError, DeviceOutOfMemoryError])
def test_errors_survive_pickling(kind: type[OutOfMemoryError]) -> None:
    error = kind("no memory", phase="forward", tile=3, projected={"cut": 5}, measured={}, do="less")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.tile, copy.projected) == (kind, str(error), 3, {"cut": 5})
    assert isinstance(error, StreamPlanError)
    assert isinstance(error, torch.OutOfMemoryError) is (kind is DeviceOutOfMemoryError)


def test_other_errors_pass() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(OutOfMemoryError("out of memory", phase="head", tile=None, projected={}, measured={}))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
