"""examples/saliency.py runs, as its users run it, and its map is the one it says."""

from __future__ import annotations

import importlib.util
import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage
from skimage import data, io

SCRIPT = Path(__file__).parents[1] / "examples" / "saliency.py"


def run(*arguments: str) -> str:
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("saliency_example", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.more
def test_the_photograph(tmp_path: Path) -> None:
    said = run("--quick", "--out", str(tmp_path / "map.png"))
    assert "353 x 353 pixels in 9 tiles" in said
    # which spot is the strongest depends on the last digits of the training
    found = re.search(r"\d+% of the pixels that are capped.* where ([\d.]+)% of all", said)
    assert found is not None
    assert float(found[1]) == pytest.approx(100 * math.pi * 29**2 / 353**2, abs=0.1)
    assert io.imread(tmp_path / "map.png").shape[1] == 700


@pytest.mark.slow
def test_a_slide(tmp_path: Path) -> None:
    path = tmp_path / "image.tiff"
    tifffile.imwrite(path, data.astronaut()[:192, :256], tile=(64, 64), photometric="rgb")
    small = ("--steps", "1", "--crop", "48", "--spot", "60", "100", "--tile-size", "128")
    assert "192 x 256 pixels in " in run("--image", str(path), *small, "--out", str(tmp_path / "map.png"))
    assert (tmp_path / "map.png").stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["tiff", "zarr", "png"])
def test_images(example: ModuleType, kind: str, tmp_path: Path) -> None:
    path, cell = tmp_path / f"image.{kind}", data.astronaut()[:192, :256]
    if kind == "tiff":
        tifffile.imwrite(path, cell, tile=(64, 64), photometric="rgb")
    elif kind == "zarr":
        zarr.create_array(path, data=cell)
    else:
        io.imsave(path, cell)
    whole = example.open_image(path, 0, 1).read(())
    assert np.array_equal(whole[0].permute(1, 2, 0).numpy(), cell)


def test_the_map(example: ModuleType) -> None:
    """By scipy on the whole array."""
    gradient = np.random.default_rng(0).normal(size=(300, 200, 3)).astype(np.float32)
    blurred = ndimage.gaussian_filter(np.abs(gradient).max(2), 300 * 50 / 8192, mode="nearest")
    highest = np.sort(blurred.ravel())[-600]
    np.testing.assert_allclose(example.saliency(gradient, 1), np.minimum(blurred, highest), rtol=2e-3)


@pytest.mark.parametrize("factor", [1, 3, 1500])
def test_block_means(example: ModuleType, factor: int) -> None:
    """Blocks that the image does not fill repeat its border."""
    array = np.random.default_rng(0).random((1600, 7, 2))
    found = example.block_means(lambda rows: array[rows], 1600, factor)
    assert found.shape == (-(-1600 // factor), -(-7 // factor), 2)
    np.testing.assert_allclose(found[0, 0], array[:factor, :7][:, np.minimum(np.arange(factor), 6)].mean((0, 1)))
    if factor == 3:
        np.testing.assert_allclose(found[400, 1], array[1200:1203, 3:6].mean((0, 1)))
