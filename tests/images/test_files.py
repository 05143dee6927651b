"""Real files: zarr arrays and TIFF pyramids, written here and streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from skimage import data
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import streamplan
from streamplan import Source, open_slide
from streamplan.errors import SourceError
from tests.runtime.comparison import assert_near
from tests.runtime.test_sources import net


def photograph() -> np.ndarray[Any, Any]:
    """A real one, 256 x 300."""
    return np.ascontiguousarray(data.astronaut()[:256, 100:400])


def pyramid(path: Path, image: np.ndarray[Any, Any]) -> Path:
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, subifds=1, **options)
        writer.write(image[::2, ::2], subfiletype=1, **options)
    return path


def gradients(model: nn.Module, output: Tensor) -> dict[str, Tensor | None]:
    output.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def test_zarr_in_and_out(tmp_path: Path) -> None:
    image = photograph()
    stored = zarr.create_array(tmp_path / "image.zarr", shape=image.shape, chunks=(64, 50, 3), dtype="uint8")
    stored[:] = image
    model = net()
    whole = torch.from_numpy(image).permute(2, 0, 1)[None]
    expected = model(whole)
    streamed = streamplan.compile(model, whole.shape, (64, 128), dtype=torch.uint8)
    source = Source(zarr.open_array(tmp_path / "image.zarr", mode="r"), "HWC")
    out = zarr.create_array(tmp_path / "map.zarr", shape=expected.shape, chunks=(1, 2, 100, 100), dtype="float64")
    streamed.predict(source, out=out)
    assert_near(torch.from_numpy(np.asarray(out[:])), expected.detach(), "map", 1e-12)
    expected_gradients = gradients(model, expected)
    for name, gradient in gradients(model, streamed(source)).items():
        assert_near(gradient, expected_gradients[name], name, 1e-10)


@pytest.mark.parametrize("level", [0, 1])
def test_a_level_of_a_slide(level: int, tmp_path: Path) -> None:
    image = photograph()
    path = pyramid(tmp_path / "slide.tif", image)
    expected = torch.from_numpy(image[:: 2**level, :: 2**level].copy()).permute(2, 0, 1)[None]
    source = open_slide(path, level)
    assert source.shape == tuple(expected.shape)
    assert torch.equal(source.read(()), expected)
    model = net()
    streamed = streamplan.compile(model, source.shape, 64, dtype=torch.uint8)
    assert_near(streamed(source).detach(), model(expected).detach(), "map", 1e-12)


def test_slides_that_are_none(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "slide.tif", photograph())
    for level in (2, -1):
        with pytest.raises(SourceError, match=f"level={level} is not a level"):
            open_slide(path, level)
    (tmp_path / "text.tif").write_text("no slide")
    with pytest.raises(SourceError, match="is not a slide"):
        open_slide(tmp_path / "text.tif")
    with pytest.raises(FileNotFoundError):
        open_slide(tmp_path / "none.tif")


class Slides(Dataset[Source]):
    """Opens slides where it is asked to, in workers too."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Source:
        return open_slide(self._paths[index])


def test_slides_from_workers_of_a_loader(tmp_path: Path) -> None:
    """Another process sends the path, not the file."""
    image = photograph()
    paths = [pyramid(tmp_path / f"{number}.tif", image) for number in range(2)]
    loader = DataLoader(Slides(paths), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for source in loader:
        assert torch.equal(source.read(()), torch.from_numpy(image).permute(2, 0, 1)[None])


def test_a_read_only_zarr_array_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "map.zarr", shape=(3, 8, 8), chunks=(3, 8, 8), dtype="float32")
    out = zarr.open_array(tmp_path / "map.zarr", mode="r")
    with pytest.raises(SourceError, match="out cannot be written"):
        streamplan.compile(nn.Conv2d(3, 3, 1), (1, 3, 8, 8), 4).predict(torch.zeros(1, 3, 8, 8), out=out)
