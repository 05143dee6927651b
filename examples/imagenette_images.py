"""Images for `imagenette.py`: folders of photographs, random-resized crops, batches that a seed fixes.

Nothing here knows of nets or tiles. Two iterators made with the same arguments give the same batches, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor

from streamplan.errors import StreamPlanError

SUFFIXES = {".jpeg", ".jpg", ".png"}
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
"""Share of the image's area, and width over height, of a random crop: Szegedy et al. (2015), as the paper says."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, in [0, 1]."""
MAX_TUNING_IMAGES = 100
"""Most images the tuning loss is a mean over, evenly taken from all."""


class ImageFolderError(StreamPlanError, ValueError):
    """A folder does not hold images of at least two classes."""


@dataclass(frozen=True)
class Example:
    """A labelled image."""

    pixels: Path | Tensor
    """A file, read when it is needed, or bytes (3, rows, columns)."""
    label: int


@dataclass(frozen=True)
class Images:
    """Labelled images to train on, and others to look at."""

    classes: tuple[str, ...]
    training: tuple[Example, ...]
    tuning: tuple[Example, ...]


def photographs() -> Images:
    """Ten classes of one photograph each: the left three quarters to train on, the right quarter to look at.

    All of them are in scikit-image's wheel. The two grey ones, brick and gravel, get three equal channels.
    """
    names = ("astronaut", "brick", "chelsea", "coffee", "gravel", "hubble_deep_field", "immunohistochemistry")
    arrays = {name: getattr(data, name)() for name in (*names, "retina", "rocket")}
    arrays["motorcycle"] = data.stereo_motorcycle()[0]
    training, tuning = [], []
    for label, array in enumerate(arrays.values()):
        pixels = _channels_first(array if array.ndim == 3 else np.stack([array] * 3, axis=-1))
        border = pixels.shape[-1] * 3 // 4
        training.append(Example(pixels[..., :border], label))
        tuning.append(Example(pixels[..., border:], label))
    return Images(tuple(arrays), tuple(training), tuple(tuning))


def read_folder(folder: Path) -> Images:
    """The images of `folder/class/image.jpg`, or of `folder/train/class` and `folder/val/class`.

    In the first layout every fifth image of a class is kept for tuning.

    Args:
        folder: Where the classes lie, or ImageNette's `train` and `val`.

    Raises:
        ImageFolderError: There is no such folder, it holds fewer than two classes, or nothing to train on or to tune
            with.
    """
    if not folder.is_dir():
        raise ImageFolderError(f"{folder} is not a folder", do="name a folder of images, or leave out --data")
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        training, tuning = _files_by_class(folder / "train"), _files_by_class(folder / "val")
    else:
        files = _files_by_class(folder)
        tuning = {name: paths[4::5] for name, paths in files.items()}
        training = {name: [path for path in paths if path not in tuning[name]] for name, paths in files.items()}
    classes = tuple(sorted(training))
    if len(classes) < 2:
        raise ImageFolderError(
            f"{folder} holds {'one class' if classes else 'no class'} of images",
            why=f"classes found: {', '.join(classes) or 'none'}; a net that tells classes apart needs two or more",
            do=f"lay it out as class/image.jpg, or as train/class/image.jpg and val/class/image.jpg; "
            f"files that count end in {', '.join(sorted(SUFFIXES))}",
        )
    images = Images(classes, _examples(training, classes), _examples(tuning, classes))
    if not images.tuning:
        raise ImageFolderError(
            f"{folder} holds no images to look at beside those to train on",
            why="every fifth image of a class is kept for that, or those of the same classes in val/",
            do="give a class five images or more, or fill val/",
        )
    return images


def batches(examples: Sequence[Example], batch_size: int, extent: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of random-resized crops without end, in an order that goes through all examples before it repeats one.

    Args:
        examples: What to draw from.
        batch_size: Images in a batch.
        extent: Rows and columns of a crop in samples.
        seed: Of the order and of the crops.

    Yields:
        Normalised images, float32 (batch, 3, extent, extent), and labels (batch,).
    """
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    while True:
        while len(queue) < batch_size:
            queue += torch.randperm(len(examples), generator=generator).tolist()
        chosen, queue = [examples[index] for index in queue[:batch_size]], queue[batch_size:]
        crops = [random_resized_crop(_read(example), extent, generator) for example in chosen]
        yield torch.stack(crops), torch.tensor([example.label for example in chosen])


def tuning_batches(examples: Sequence[Example], batch_size: int, extent: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The centres of tuning images, in batches as `batches` gives them, once."""
    stride = math.ceil(len(examples) / MAX_TUNING_IMAGES)
    chosen = examples[::stride]
    for start in range(0, len(chosen), batch_size):
        some = chosen[start : start + batch_size]
        yield (
            torch.stack([centre_crop(_read(example), extent) for example in some]),
            torch.tensor([example.label for example in some]),
        )


def random_resized_crop(pixels: Tensor, extent: int, generator: torch.Generator) -> Tensor:
    """A random part of an image, resized to a square.

    Args:
        pixels: Bytes (3, rows, columns).
        extent: Rows and columns of the result in samples.
        generator: Of the crop's area, aspect and place, each evenly distributed, aspect on a logarithmic scale.

    Returns:
        Normalised float32 (3, extent, extent).
    """
    rows, columns = pixels.shape[1:]
    for _ in range(10):
        area, log_aspect = (_uniform(bounds, generator) for bounds in (AREA, tuple(map(math.log, ASPECT))))
        height = round(math.sqrt(rows * columns * area / math.exp(log_aspect)))
        width = round(math.sqrt(rows * columns * area * math.exp(log_aspect)))
        if 0 < height <= rows and 0 < width <= columns:
            row = int(torch.randint(rows - height + 1, (), generator=generator))
            column = int(torch.randint(columns - width + 1, (), generator=generator))
            break
    else:  # an image so long that hardly any such crop lies in it: the largest one in its centre
        height, width = min(rows, round(columns / ASPECT[0])), min(columns, round(rows * ASPECT[1]))
        row, column = (rows - height) // 2, (columns - width) // 2
    return _normalised(pixels[:, row : row + height, column : column + width], (extent, extent))


def centre_crop(pixels: Tensor, extent: int) -> Tensor:
    """The centre of an image; one whose shorter side is less than the extent is enlarged first.

    Args:
        pixels: Bytes (3, rows, columns).
        extent: Rows and columns of the result in samples.

    Returns:
        Normalised float32 (3, extent, extent).
    """
    rows, columns = pixels.shape[1:]
    scale = max(1.0, extent / min(rows, columns))
    rows, columns = round(rows * scale), round(columns * scale)
    row, column = (rows - extent) // 2, (columns - extent) // 2
    return _normalised(pixels, (rows, columns))[:, row : row + extent, column : column + extent]


def _normalised(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bytes (3, rows, columns) as float32 of another size, with ImageNet's mean and deviation taken out."""
    resized = F.interpolate(pixels[None].float() / 255, size, mode="bilinear", antialias=True)[0]
    return (resized - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def _uniform(bounds: tuple[float, ...], generator: torch.Generator) -> float:
    start, stop = bounds
    return start + (stop - start) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _read(example: Example) -> Tensor:
    """Bytes (3, rows, columns) of an example."""
    if isinstance(example.pixels, Tensor):
        return example.pixels
    try:
        with PIL.Image.open(example.pixels) as image:
            return _channels_first(np.array(image.convert("RGB")))
    except OSError as error:  # what Pillow raises for files that are no images, too
        raise ImageFolderError(
            f"{example.pixels} cannot be read as an image", why=str(error), do="mend it or take it out of the folder"
        ) from error


def _channels_first(pixels: Any) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    """Image files of every subfolder that has some, in the order of their names."""
    found = {}
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in subfolder.iterdir() if path.suffix.lower() in SUFFIXES)
        if files:
            found[subfolder.name] = files
    return found


def _examples(files: dict[str, list[Path]], classes: Sequence[str]) -> tuple[Example, ...]:
    return tuple(Example(path, label) for label, name in enumerate(classes) for path in files.get(name, []))
