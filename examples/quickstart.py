"""Stream three nets, forward and backward, on a real photograph, and compare with the plain nets.

    python examples/quickstart.py

The photograph is the 1411 x 1411 retina image that ships with scikit-image; the nets are MONAI's, unmodified. For each
net the script prints the plan, takes one gradient step streamed and one plain, each in a process of its own so that
their peak memory can be compared, and verifies in float64 on a crop that both compute the same.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import BasicUNet, DenseNet121, resnet18
from skimage import data
from torch import Tensor, nn

import streamplan


@dataclass(frozen=True)
class Case:
    """One net of the demonstration."""

    title: str
    build: Callable[[], nn.Module]
    tile_size: int
    """Input samples a tile advances by along each axis."""
    crop: int
    """Extent of the crop on which exactness is judged; small enough for float64, large enough for several tiles."""
    crop_tile_size: int


CASES = {
    "resnet18": Case(
        "ResNet-18, streamed up to its global pooling",
        lambda: resnet18(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, num_classes=5),
        tile_size=480,
        crop=641,
        crop_tile_size=224,
    ),
    "unet": Case(
        "U-Net, local to its end: streamed whole, segmentation map included",
        lambda: BasicUNet(2, in_channels=3, out_channels=2, features=(16, 16, 32, 64, 128, 16), norm="batch"),
        tile_size=480,
        crop=336,
        crop_tile_size=128,
    ),
    "densenet121": Case(
        "DenseNet-121, streamed up to its last map although one position of that reads the whole image",
        lambda: DenseNet121(spatial_dims=2, in_channels=3, out_channels=5),
        tile_size=480,
        crop=385,
        crop_tile_size=128,
    ),
}


def build(name: str) -> nn.Module:
    """A net with reproducible weights, in eval mode: its BatchNorms use their running statistics."""
    torch.manual_seed(0)
    return CASES[name].build().eval()


def load_photograph() -> Tensor:
    """The retina image as (1, 3, 1411, 1411) in [0, 1]."""
    pixels = torch.from_numpy(data.retina())
    return (pixels.permute(2, 0, 1)[None].float() / 255).contiguous()


def take_step(name: str, mode: str) -> dict[str, Any]:
    """One forward and backward pass; seconds, peak memory above the start in bytes, and the loss."""
    case, model, image = CASES[name], build(name), load_photograph()
    run: nn.Module = model
    if mode == "streamed":
        run = streamplan.compile(model, tuple(image.shape), case.tile_size, progress=sys.stderr.isatty())
    at_start = peak_bytes()
    started = time.perf_counter()
    loss = run(image).square().mean()
    loss.backward()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": peak_bytes() - at_start, "loss": loss.item()}


def peak_bytes() -> int:
    """Largest resident set size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; getrusage would count the parent's memory of before the new program was loaded
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_a_process_of_its_own(name: str, mode: str) -> dict[str, Any]:
    """Run `take_step` in a new process; its progress bar goes to this terminal."""
    command = [sys.executable, __file__, "--net", name, "--mode", mode]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output)
    return result


def demonstrate(name: str) -> None:
    """Plan, step and verify one net."""
    case, image = CASES[name], load_photograph()
    print(f"\n=== {case.title}\n")
    plan = streamplan.plan(build(name), tuple(image.shape), case.tile_size)
    print(plan)
    streamed, plain = in_a_process_of_its_own(name, "streamed"), in_a_process_of_its_own(name, "plain")
    print(f"\n{'':10}{'seconds':>9}{'peak memory above start':>25}{'loss (float32)':>18}")
    for label, step in (("plain", plain), ("streamed", streamed)):
        print(f"{label:10}{step['seconds']:9.1f}{step['bytes'] / 2**20:21.0f} MiB{step['loss']:18.8f}")
    ratios = streamed["seconds"] / plain["seconds"], streamed["bytes"] / plain["bytes"]
    print(f"streamed / plain: {ratios[0]:.2f}x the time, {ratios[1]:.2f}x the memory")
    start = (image.shape[-1] - case.crop) // 2
    crop = image[..., start : start + case.crop, start : start + case.crop]
    report = streamplan.verify(build(name), inputs=crop, tile_size=case.crop_tile_size, plan=plan)
    print(f"\nExactness on a {case.crop} x {case.crop} crop, tiles of {case.crop_tile_size}:\n{report}")


def main() -> None:
    """Demonstrate all nets, or run one step of one net for its parent process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=CASES, help="this net only")
    parser.add_argument("--mode", choices=("plain", "streamed"), help="one step, as JSON (used by the script itself)")
    arguments = parser.parse_args()
    if arguments.mode:
        print(json.dumps(take_step(arguments.net, arguments.mode)))
        return
    for name in [arguments.net] if arguments.net else CASES:
        demonstrate(name)


if __name__ == "__main__":
    main()
