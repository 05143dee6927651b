"""examples/imagenette.py: its quick form, on its own photographs and on a folder, and what its parts claim."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module beside the script, found as the script finds it."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import imagenette_images

    return imagenette_images


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import imagenette

    return imagenette


def run_script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "imagenette.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def write_images(folder: Path, num_images: int, seed: int = 0) -> None:
    """Files of noise: coloured, grey and with transparency."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(num_images):
        channels, suffix = ((3, "jpg"), (1, "JPEG"), (4, "png"))[number % 3]
        pixels = generator.integers(0, 256, (50, 40 + number, channels), dtype=np.uint8).squeeze()
        PIL.Image.fromarray(pixels).save(folder / f"{number}.{suffix}")


def assert_figures(folder: Path) -> None:
    for name in ("curves", "difference"):
        with PIL.Image.open(folder / f"imagenette-{name}.png") as figure:
            assert figure.size[0] > 900


@pytest.mark.slow
@pytest.mark.more
def test_the_quick_form(tmp_path: Path) -> None:
    """Losses of float64 agree at every step, those of float32 at the first: later steps multiply what was rounded."""
    done = run_script("--quick", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "imagenette.json").read_text())
    runs = {(run["dtype"], run["title"]): run["losses"] for run in numbers["runs"]}
    for dtype in ("float32", "float64"):
        conventional = runs[dtype, "conventional"]
        assert 0 < min(conventional) < conventional[0] / 2, "the net does not train"
        for title in ("streamed, 4 layers, tiles of 32", "streamed, 8 layers, tiles of 32, carried"):
            losses = runs[dtype, title]
            assert len(losses) >= 2
            assert losses[0] == pytest.approx(conventional[0], rel=1e-9 if dtype == "float64" else 1e-5), title
            if dtype == "float64":
                assert losses == pytest.approx(conventional[: len(losses)], rel=1e-9), title
    found = {(one["dtype"], one["title"]): one for one in numbers["comparisons"]}
    assert len(found) == 13, "six variants in two dtypes, and float32 against float64"
    for (dtype, title), one in found.items():
        if dtype == "float64":
            assert max(one["differences"]) < 1e-9, title
            assert one["parameters"] < 1e-9, title
        assert title in done.stdout
    assert_figures(tmp_path)


@pytest.mark.slow
def test_a_folder_of_images(tmp_path: Path) -> None:
    for number, name in enumerate(("cats", "dogs", "newts")):
        write_images(tmp_path / "data" / "train" / name, 3, seed=number)
        write_images(tmp_path / "data" / "val" / name, 2, seed=10 + number)
    done = run_script(
        "--data", tmp_path / "data", "--steps", "1", "1", "--batch-size", "1", "--folder", tmp_path / "new" / "output"
    )
    assert done.returncode == 0, done.stderr
    assert "9 images to train on, 6 for tuning, 3 classes" in done.stdout
    comparisons = json.loads((tmp_path / "new" / "output" / "imagenette.json").read_text())["comparisons"]
    assert all(max(one["differences"]) < 1e-12 for one in comparisons if one["dtype"] == "float64")
    assert_figures(tmp_path / "new" / "output")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ([], "holds no class of images"),
        (["cats"], "holds one class of images"),
        (["train/cats", "val/cats"], "holds one class of images"),
        (["train/cats", "train/dogs"], "holds no class of images"),  # train alone is taken for a class
        (["train/cats", "train/dogs", "val/newts"], "holds no images to look at"),
    ],
)
def test_folders_that_cannot_be_used(images: Any, tmp_path: Path, layout: list[str], expected: str) -> None:
    for name in layout:
        write_images(tmp_path / name, 5)
    with pytest.raises(images.ImageFolderError, match=expected) as caught:
        images.read_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n  do:" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--data", "nowhere"], "ImageFolderError: nowhere is not a folder"),
        (["--steps", "0", "1"], "0 is not 1 or more"),
    ],
)
def test_mistakes_on_the_command_line(
    script: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["imagenette.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code not in {None, 0}
    assert expected in f"{caught.value.code}{capsys.readouterr().err}"


def test_a_file_that_is_no_image(images: Any, tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_images(tmp_path / name, 4)
        (tmp_path / name / "9.png").write_bytes(b"no image")
    found = images.read_folder(tmp_path)
    with pytest.raises(images.ImageFolderError, match=r"9\.png cannot be read"):
        list(images.tuning_batches(found.tuning, 2, 32))


def test_every_fifth_image_is_for_tuning(images: Any, tmp_path: Path) -> None:
    for name, number in (("cats", 11), ("dogs", 5)):
        write_images(tmp_path / name, number)
    found = images.read_folder(tmp_path)
    assert (len(found.training), len(found.tuning)) == (13, 3)
    assert {example.pixels for example in found.training}.isdisjoint(example.pixels for example in found.tuning)
    assert [example.label for example in found.tuning] == [0, 0, 1]


def test_photographs_are_ten_and_their_parts_disjoint(images: Any) -> None:
    from skimage import data

    found = images.photographs()
    assert len(found.classes) == len(found.training) == len(found.tuning) == 10
    rocket = torch.from_numpy(data.rocket()).permute(2, 0, 1)
    label = found.classes.index("rocket")
    parts = [next(one.pixels for one in some if one.label == label) for some in (found.training, found.tuning)]
    assert torch.equal(torch.cat(parts, dim=2), rocket)
    assert all(one.pixels.dtype == torch.uint8 and one.pixels.shape[0] == 3 for one in found.training)


def test_a_seed_fixes_the_batches(images: Any) -> None:
    examples = images.photographs().training

    def draw(seed: int) -> list[tuple[Tensor, Tensor]]:
        return list(islice(images.batches(examples, 4, 32, seed), 5))

    first, again, other = draw(0), draw(0), draw(1)
    for (pixels, labels), (pixels_again, labels_again) in zip(first, again, strict=True):
        assert torch.equal(pixels, pixels_again)
        assert torch.equal(labels, labels_again)
    assert not torch.equal(first[0][0], other[0][0])
    labels = torch.cat([labels for _, labels in first]).tolist()
    assert sorted(labels[:10]) == sorted(labels[10:]) == list(range(10)), "an image came twice before all had come"


def test_crops_are_those_of_the_paper(images: Any) -> None:
    """A ramp tells where a crop lies: rows in the first channel, columns in the second, 250 of either."""
    rows, columns = torch.meshgrid(torch.arange(250), torch.arange(250), indexing="ij")
    ramp = torch.stack([rows, columns, torch.zeros_like(rows)]).to(torch.uint8)
    generator = torch.Generator().manual_seed(0)
    areas, aspects = [], []
    for _ in range(300):
        crop = images.random_resized_crop(ramp, 320, generator)
        assert crop.shape == (3, 320, 320)
        values = (crop * torch.tensor(images.STD)[:, None, None] + torch.tensor(images.MEAN)[:, None, None]) * 255
        slopes = (values[0, 200, 0] - values[0, 120, 0]) / 80, (values[1, 0, 200] - values[1, 0, 120]) / 80
        height, width = (float(slope) * 320 for slope in slopes)
        areas.append(height * width / 250**2)
        aspects.append(width / height)
    assert min(areas) == pytest.approx(0.08, abs=0.02)
    assert max(areas) == pytest.approx(1, abs=0.1)
    assert 0.4 < sum(areas) / 300 < 0.56, "not spread evenly from 8 % to 100 %"  # crops that do not fit are drawn again
    assert 0.73 < min(aspects) < 0.78
    assert 1.29 < max(aspects) < 1.37
    assert sum(map(math.log, aspects)) / 300 == pytest.approx(0, abs=0.03)


def test_a_long_image_is_cropped_in_its_centre(images: Any) -> None:
    strip = torch.zeros(3, 10, 1000, dtype=torch.uint8)
    strip[:, :, 493:507] = 255  # 10 rows with an aspect of 4/3 are 13 columns
    crop = images.random_resized_crop(strip, 32, torch.Generator().manual_seed(0))
    assert crop.min() > 2


def test_centres(images: Any) -> None:
    pixels = torch.zeros(3, 400, 600, dtype=torch.uint8)
    pixels[:, 40:360, 140:460] = 255
    assert images.centre_crop(pixels, 320).min() > 2
    assert images.centre_crop(pixels[:, :200, :100], 320).shape == (3, 320, 320)


def test_the_net_is_that_of_table_1(script: Any) -> None:
    net = script.PaperNet()
    convolutions = [(3, 16), (16, 32), (32, 64), (64, 128), (128, 256)]
    expected = sum(9 * inputs * outputs + outputs for inputs, outputs in convolutions) + 10 * (4 * 256 + 1)
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert net.blocks(torch.zeros(1, 3, 320, 320)).shape == (1, 256, 2, 2)


def test_initialisation_is_hes(script: Any) -> None:
    weight = script.initialised_net(320, 10, seed=3).blocks[4][0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.01)


def test_comparisons(script: Any) -> None:
    def run(losses: tuple[float, ...], parameters: list[float]) -> Any:
        return script.Run("", "float64", losses, (), {len(losses): torch.tensor(parameters)}, 1.0)

    reference = run((4.0, 2.0, 1.0), [1.0, -2.0])
    found = script.compare(run((4.0, 2.001, 0.9), [1.5, -2.0]), reference)
    assert found.differences == pytest.approx((0, 0.0005, 0.1))
    assert (found.parted_step, found.largest_step, found.parameters) == (3, 3, 0.25)
    assert script.compare(reference, reference).parted_step is None
