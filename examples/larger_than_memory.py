"""A training step and a segmentation of an image that is never in memory: from a zarr array, into a zarr array.

    python examples/larger_than_memory.py --extent 8192 --folder /tmp --dtype bfloat16

The image is a photograph that ships with scikit-image, mirrored until it has the extent asked for, stored as bytes. A
ResNet-18 takes one training step on it; a U-Net labels every pixel of it. Peak memory is that of the whole process.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from monai.networks.nets import BasicUNet, resnet18
from skimage import data
from torch import Tensor, nn

import streamplan

_CHUNK = 1024


class OnBytes(nn.Module):
    """A net on an image of bytes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Of (batch, 3, rows, columns)."""
        result: Tensor = self.net(x.float() / 255 - 0.5)
        return result


class Labels(nn.Module):
    """The likeliest class of every pixel."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Of (batch, 3, rows, columns), as (batch, 1, rows, columns)."""
        return self.net(x).argmax(1, keepdim=True)


def store_image(path: Path, extent: int) -> Any:
    """Write the photograph, mirrored, chunk by chunk."""
    photograph = data.astronaut()
    double = np.concatenate([photograph, photograph[:, ::-1]], 1)
    cell = np.concatenate([double, double[::-1]], 0)
    image = zarr.create_array(
        path, shape=(extent, extent, 3), chunks=(_CHUNK, _CHUNK, 3), dtype="uint8", overwrite=True
    )
    for top in range(0, extent, _CHUNK):
        for left in range(0, extent, _CHUNK):
            height, width = min(_CHUNK, extent - top), min(_CHUNK, extent - left)
            image[top : top + height, left : left + width] = cell[:height, :width]
    return image


def peak_gib() -> float:
    """Largest resident set of this process so far, in GiB; Linux only."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 2**20


def train(image: Any, tile_size: tuple[int, int], dtype: torch.dtype) -> None:
    """One gradient step of a ResNet-18; `dtype` is that of its convolutions."""
    net = resnet18(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, num_classes=2)
    model = OnBytes(net).eval()
    source = streamplan.Source(image, "HWC")
    streamed = streamplan.compile(model, None, tile_size, example_inputs=source, keep_tiles=0, progress=True)
    print(streamed.plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        scores = streamed(source)
    loss = nn.functional.cross_entropy(scores.float(), torch.tensor([1]))
    loss.backward()
    optimizer.step()
    print(f"loss {loss.item():.4f}")


def predict(image: Any, tile_size: tuple[int, int], dtype: torch.dtype, path: Path) -> None:
    """Labels of every pixel by a U-Net."""
    net = BasicUNet(2, in_channels=3, out_channels=4, features=(16, 16, 32, 64, 128, 16), norm="batch")
    model = Labels(OnBytes(net)).eval()
    rows, columns = image.shape[:2]
    labels = zarr.create_array(
        path, shape=(1, 1, rows, columns), chunks=(1, 1, _CHUNK, _CHUNK), dtype="uint8", overwrite=True
    )
    source = streamplan.Source(image, "HWC")
    streamed = streamplan.compile(model, None, tile_size, example_inputs=source, progress=True)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        streamed.predict(source, out=labels)
    corner = labels[0, 0, :64, :64]
    print(f"labels {sorted(set(corner.ravel().tolist()))} in the first 64 x 64 pixels")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extent", type=int, default=2048, help="pixels along each axis")
    parser.add_argument("--folder", type=Path, help="where the arrays go; a temporary folder unless given")
    parser.add_argument("--tile-size", type=int, nargs=2, default=(256, 2048), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the convolutions")
    parser.add_argument("--task", choices=("train", "predict", "both"), default="both")
    parser.add_argument("--json", type=Path, help="where to write seconds and peak memory")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    measured: dict[str, Any] = {"extent": arguments.extent, "tile_size": arguments.tile_size, "dtype": arguments.dtype}
    measured |= {"torch": torch.__version__, "num_threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        image = store_image(folder / "image.zarr", arguments.extent)
        print(f"{arguments.extent} x {arguments.extent} pixels, {peak_gib():.2f} GiB of memory before the first step")
        tile_size = tuple(min(extent, arguments.extent) for extent in arguments.tile_size)
        dtype = getattr(torch, arguments.dtype)
        for task in ("train", "predict") if arguments.task == "both" else (arguments.task,):
            start = time.perf_counter()
            if task == "train":
                train(image, tile_size, dtype)
            else:
                predict(image, tile_size, dtype, folder / "labels.zarr")
            measured[task] = {"seconds": time.perf_counter() - start, "peak_gib_of_process": peak_gib()}
            print(f"{task}: {measured[task]['seconds']:.1f} s, peak {peak_gib():.2f} GiB")
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
