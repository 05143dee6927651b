"""Where a net looks on a large image: the gradient of a class by every pixel, blurred, capped and laid over the image.

    python examples/saliency.py
    python examples/saliency.py --image slide.svs --level 1 --spot 9000 12000 --crop 256 --out saliency.png

A small ResNet is trained for a minute to tell crops that show one spot of the image from crops that do not; nothing
tells it where in a crop the spot is. Then the gradient of its score of "shows it" by the whole image is computed tile
by tile, and kept in a file. Unless another image is named, it is the photograph of a retina that ships with
scikit-image, and the spot is its brightest one, the optic disc.

The map follows Pinckaers et al., "Streaming convolutional neural networks for end-to-end learning with multi-megapixel
images" (2020), section "Saliency maps": Gaussian blur with a sigma of 50 pixels in 8192, values above the 99th
percentile capped, the upper half laid over the image.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import zarr
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from monai.networks.nets import ResNet
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from skimage import data, io
from skimage.filters import gaussian
from skimage.measure import block_reduce
from torch import Tensor, nn

import streamplan

SIGMA_SHARE = 50 / 8192
"""Standard deviation of the blur, as a share of the image's extent: the paper's, the same for its three sizes."""
PERCENTILE = 99
"""Of the blurred gradient; larger values are capped there."""
LARGEST_DRAWN = 2048
"""Pixels along an axis: a larger image is drawn, and its gradient blurred, by the means of blocks."""
BAND = 1024
"""Rows that are read at a time where all of an array is read."""
SLIDES = (".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif")
Numbers = NDArray[np.float32]


class OnBytes(nn.Module):
    """A net on an image of bytes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Of (batch, 3, rows, columns)."""
        result: Tensor = self.net(x.float() / 255 - 0.5)
        return result


def small_resnet() -> nn.Module:
    """A ResNet of few channels that ends in a global maximum, as the paper's net does."""
    net = ResNet(
        "basic",
        layers=[1, 1, 1, 1],
        block_inplanes=[8, 16, 32, 64],
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        num_classes=2,
    )
    net.avgpool = nn.AdaptiveMaxPool2d(1)
    return OnBytes(net)


def open_image(path: Path | None, level: int, step: int) -> streamplan.Source:
    """An image of (1, 3, rows, columns) bytes; `step` takes every so many pixels of the photograph."""
    if path is None:
        return streamplan.Source(np.ascontiguousarray(data.retina()[::step, ::step]), "HWC")
    if path.suffix in SLIDES:
        return streamplan.open_slide(path, level)
    array: Any = zarr.open_array(path, mode="r") if path.is_dir() else io.imread(path)[..., :3]
    return streamplan.Source(array, "HWC")


def block_means(read: Callable[[slice], Numbers], num_rows: int, factor: int) -> Numbers:
    """Means of blocks of `factor` x `factor` pixels of an array that is read in bands of rows."""
    rows = max(factor, BAND // factor * factor)
    bands = (read(slice(start, min(start + rows, num_rows))) for start in range(0, num_rows, rows))
    return np.concatenate([_means(band, factor) for band in bands])


def _means(band: Numbers, factor: int) -> Numbers:
    if factor == 1:
        return band
    edges = [(0, -extent % factor) for extent in band.shape[:2]] + [(0, 0)] * (band.ndim - 2)
    blocks = (factor, factor, *(1 for _ in band.shape[2:]))
    result: Numbers = block_reduce(np.pad(band, edges, mode="edge"), blocks, np.mean)
    return result


def thumbnail(image: streamplan.Source, factor: int) -> Numbers:
    """The image as (rows, columns, 3) numbers in [0, 1]."""

    def read(rows: slice) -> Numbers:
        band = image.read((slice(None), slice(None), rows))[0]
        return np.asarray(band.permute(1, 2, 0).float() / 255)

    return block_means(read, image.shape[2], factor)


class Crops:
    """Crops of an image, with or without a spot.

    Args:
        image: The image.
        spot: Row and column.
        extent: Of a crop, along either axis.
        seed: Of their positions.
    """

    def __init__(self, image: streamplan.Source, spot: tuple[int, int], extent: int, seed: int) -> None:
        self._image = image
        self._spot = spot
        self._extent = extent
        self._random = np.random.default_rng(seed)

    def batch(self, num_crops: int) -> tuple[Tensor, Tensor]:
        """Crops, and for each 1 if it shows the spot and 0 if it is far from it; about as many of either."""
        labels = self._random.integers(0, 2, num_crops)
        crops = [self._crop(is_shown=bool(label)) for label in labels]
        return torch.cat(crops), torch.from_numpy(labels)

    def _crop(self, *, is_shown: bool) -> Tensor:
        while True:
            corner = [self._corner(axis, near=is_shown) for axis in (0, 1)]
            distances = [abs(corner[axis] + self._extent // 2 - self._spot[axis]) for axis in (0, 1)]
            if is_shown or max(distances) > self._extent:
                break
        rows, columns = (slice(start, start + self._extent) for start in corner)
        turned = self._image.read((slice(None), slice(None), rows, columns))
        return torch.rot90(turned, int(self._random.integers(4)), (2, 3))

    def _corner(self, axis: int, *, near: bool) -> int:
        last = self._image.shape[2 + axis] - self._extent
        if not near:
            return int(self._random.integers(0, last + 1))
        away = self._extent * 3 // 8
        centre = self._spot[axis] + self._random.integers(-away, away + 1)
        return int(np.clip(centre - self._extent // 2, 0, last))


def train(model: nn.Module, crops: Crops, num_steps: int) -> None:
    """Teach the plain net to tell crops with the spot from others."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(num_steps):
        batch, labels = crops.batch(8)
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def share_right(model: nn.Module, crops: Crops, num_crops: int) -> float:
    """How many of some crops the net gets right."""
    batch, labels = crops.batch(num_crops)
    with torch.no_grad():
        return float((model(batch).argmax(1) == labels).float().mean())


def saliency(gradient: Any, factor: int) -> Numbers:
    """The map of the paper from an array of (rows, columns, channels).

    Simonyan et al. (2013) take the largest absolute value over the channels; blur and cap are the paper's.
    """
    magnitude = block_means(lambda rows: np.abs(gradient[rows]).max(2), gradient.shape[0], factor)
    blurred = gaussian(magnitude, SIGMA_SHARE * max(magnitude.shape))
    return np.minimum(blurred, np.percentile(blurred, PERCENTILE))


def draw(picture: Numbers, found: Numbers, spot: tuple[float, float], radius: float, path: Path) -> None:
    """Draw the image, and the image with the upper half of the map over it: stronger is brighter and more opaque."""
    median = float(np.median(found))
    strength = np.clip((found - median) / (found.max() - median), 0, 1)
    over = mpl.colormaps["winter"](strength)
    over[..., 3] = np.where(found > median, 0.1 + 0.9 * strength, 0)
    rows, columns = picture.shape[:2]
    figure = Figure(figsize=(7, 3.5 * rows / columns + 0.35), dpi=100, layout="constrained")
    for axes, title in zip(
        figure.subplots(1, 2), ("image, and the spot it learned", "upper half of the saliency"), strict=True
    ):
        axes.imshow(picture)
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()
    left, right = figure.axes
    left.add_patch(Circle(spot[::-1], radius, fill=False, color="white", linewidth=1.5))
    right.imshow(over)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def peak_gib() -> float:
    """Largest resident set of this process so far, in GiB; Linux only."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert match is not None
    return int(match[1]) / 2**20


def main() -> None:
    """Train, differentiate, draw."""
    arguments = parse_arguments()
    torch.manual_seed(0)
    image = open_image(arguments.image, arguments.level, 4 if arguments.quick else 1)
    rows, columns = image.shape[2:]
    factor = -(-max(rows, columns) // LARGEST_DRAWN)
    picture = thumbnail(image, factor)
    if arguments.spot is None:
        grey = gaussian(picture.mean(2), max(picture.shape) / 40)
        row, column = np.unravel_index(int(grey.argmax()), grey.shape)
        arguments.spot = int(row) * factor, int(column) * factor
    extent = arguments.crop or max(32, min(rows, columns) // 6)
    model = small_resnet()
    start = time.perf_counter()
    train(model, Crops(image, arguments.spot, extent, seed=0), arguments.steps)
    right = share_right(model, Crops(image, arguments.spot, extent, seed=1), 64)
    print(
        f"trained on crops of {extent} x {extent} in {time.perf_counter() - start:.1f} s; "
        f"{right:.0%} of 64 others right"
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shape = (rows, columns, 3)
        gradient = open_memmap(Path(folder) / "gradient.npy", "w+", np.float32, shape)
        size = (1, 3, rows, columns)
        tile_size = arguments.tile_size or (160 if arguments.quick else 512)
        streamed = streamplan.compile(model, size, tile_size, dtype=torch.uint8, progress=True)
        print(f"{rows} x {columns} pixels in {streamed.plan.num_tiles} tiles")
        streamplan.input_gradient(streamed, image, target=1, out=streamplan.Source(gradient, "HWC"))
        print(f"gradient: {time.perf_counter() - start:.1f} s, peak {peak_gib():.2f} GiB")
        found = saliency(gradient, factor)
    spot, radius = tuple(at / factor for at in arguments.spot), extent / 2 / factor
    distance = np.hypot(*(axis - at for axis, at in zip(np.indices(found.shape), spot, strict=True)))
    capped = found == found.max()
    print(
        f"{(distance[capped] <= radius).mean():.0%} of the pixels that are capped, the strongest percent, "
        f"lie within {extent // 2} pixels of the spot, where {(distance <= radius).mean():.1%} of all pixels lie"
    )
    draw(picture, found, spot, radius, arguments.out)
    print(f"written: {arguments.out}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--image", type=Path, help="an RGB image file, a TIFF slide, or a zarr array of (rows, columns, 3) bytes"
    )
    parser.add_argument("--level", type=int, default=0, help="of a slide")
    parser.add_argument("--spot", type=int, nargs=2, metavar=("ROW", "COLUMN"), help="the brightest spot unless given")
    parser.add_argument("--crop", type=int, help="extent of the crops it is trained on; a sixth of the image")
    parser.add_argument("--steps", type=int, default=300, help="of training")
    parser.add_argument("--tile-size", type=int, help="pixels that a tile may read along each axis (512; 160 if quick)")
    parser.add_argument("--quick", action="store_true", help="every fourth pixel of the photograph")
    parser.add_argument("--out", type=Path, default=Path("demo-output/saliency.png"), help="where the picture goes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
