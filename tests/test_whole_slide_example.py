"""examples/whole_slide.py: its nets are the paper's, its slides are what they claim, it runs as its users run it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import zarr
from skimage import data
from torch import nn
from torch.nn.functional import huber_loss

import streamplan
from tests.nets.tupac import tupac
from tests.runtime.comparison import assert_near

EXAMPLES = Path(__file__).parents[1] / "examples"
TABLE_2 = (
    *(32, 32, "pool", 64, 64, "pool", 128, 128, "pool", 256, 256, "pool"),
    *(512, 512, "pool", 512, 512, "pool", 512, 512, "pool", "connected"),
)
"""The paper's, without dropout and with the fifth group once: channels of convolutions, pools, the last layer."""


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run(*arguments: str | Path) -> str:
    command = [sys.executable, EXAMPLES / "whole_slide.py", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_number(name: str, printed: str) -> float:
    """A number of float32, printed with few digits: the last one may be rounded either way."""
    (found,) = re.findall(rf"\b{name} (-?[\d.]+),", printed)
    return float(found)


def pyramid(path: Path) -> np.ndarray[Any, Any]:
    """A photograph and its half, as a tiled pyramid; the half is returned."""
    image = np.ascontiguousarray(data.astronaut()[:320, :384])
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, subifds=1, **options)
        writer.write(image[::2, ::2], subfiletype=1, **options)
    return np.ascontiguousarray(image[::2, ::2])


@pytest.mark.parametrize("num_layers", [22, 25, 28])
def test_layers_are_those_of_table_2(num_layers: int) -> None:
    from slide_study.nets import NUM_LAYERS, SlideNet, count_layers

    depth = next(depth for depth, count in NUM_LAYERS.items() if count == num_layers)
    with torch.device("meta"):
        net = SlideNet(depth=depth)
    found: list[int | str] = []
    has_norm = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.kernel_size == (3, 3)
            found.append(layer.out_channels)
            has_norm.append(False)
        elif isinstance(layer, nn.BatchNorm2d):
            has_norm[-1] = True
        elif isinstance(layer, nn.MaxPool2d | nn.AdaptiveMaxPool2d):
            found.append("pool")
        elif isinstance(layer, nn.Linear):
            found.append("connected")
    fifth = slice(12, 15)
    assert found == [*TABLE_2[:12], *TABLE_2[fifth] * depth, *TABLE_2[15:]]
    assert len(found) == num_layers == count_layers(net)
    assert has_norm == [False] * (len(has_norm) - 4) + [True] * 4
    assert net.dropout.p == 0.5
    assert net.fc.out_features == 1


def test_classifiers_are_those_nets_without_batch_norm_and_dropout() -> None:
    from slide_study.nets import SlideNet, count_layers

    with torch.device("meta"):
        net, other = SlideNet(is_normalised=False), SlideNet()
    assert count_layers(net) == count_layers(other)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules())
    assert net.dropout.p == 0
    shapes = [[tuple(p.shape) for p in x.parameters() if p.dim() > 1] for x in (net, other)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("depth", [1, 3])
def test_it_is_the_net_of_the_tests(depth: int) -> None:
    from slide_study.nets import SlideNet

    net, other = SlideNet(2, depth).eval(), tupac(2, depth).eval()
    other.load_state_dict(net.state_dict())
    image = torch.randint(0, 256, (1, 3, 256, 320), dtype=torch.uint8)
    assert torch.equal(net(image), other((image.float() - 128) / 64))


@pytest.mark.parametrize(("depth", "extent"), [(1, 160), (3, 320)])
def test_streamed_gradients_are_the_plain_nets(depth: int, extent: int, tmp_path: Path) -> None:
    """Two slides read from zarr, turned, in training mode; the plain net reads them from one tensor."""
    from slide_study.nets import SlideNet
    from slide_study.slides import draw_slide
    from slide_study.stored import Batch, store_set

    slides = store_set(tmp_path, [draw_slide(extent, (9, i)) for i in range(3)])
    batch = Batch(slides.arrays[extent], [2, 0], [3, 4])
    net, target = SlideNet(2, depth).double(), torch.tensor([[0.5], [-3.0]], dtype=torch.float64)
    net.dropout.p = 0
    other = SlideNet(2, depth).double()
    other.load_state_dict(net.state_dict())
    other.dropout.p = 0
    whole = torch.from_numpy(batch[0:2, 0:extent, 0:extent, 0:3]).permute(0, 3, 1, 2)
    expected = huber_loss(other(whole), target)
    expected.backward()
    size = (2, 3, extent, extent)
    streamed = streamplan.compile(net, size, (extent // 4, extent // 2), dtype=torch.uint8, batch_norm="resident")
    assert streamed.plan.num_tiles == 8
    loss = huber_loss(streamed(streamplan.Source(batch, "HWC", batch=True)), target)
    loss.backward()
    assert_near(loss.detach(), expected.detach(), "loss", 1e-10)
    others = dict(other.named_parameters())
    for name, parameter in net.named_parameters():
        assert_near(parameter.grad, others[name].grad, name, 1e-10)
    buffers = dict(other.named_buffers())
    for name, buffer in net.named_buffers():
        assert_near(buffer, buffers[name], name, 1e-10)


def test_slides_are_those_of_their_seed() -> None:
    from slide_study.slides import draw_slide

    whole = slice(0, 256), slice(0, 256)
    one, same, other = draw_slide(256, (1, 2)), draw_slide(256, (1, 2)), draw_slide(256, (1, 3))
    assert one.label == same.label != other.label
    assert np.array_equal(one.pixels(*whole), same.pixels(*whole))
    assert not np.array_equal(one.pixels(*whole), other.pixels(*whole))


def test_the_label_counts_what_is_in_the_pixels() -> None:
    """The densities, found again by comparing with the slide without marks; their sum ranks as the label does."""
    from slide_study.slides import AMPLITUDE, BLOCK, draw_slide

    extent, sums, labels = 256, [], []
    whole = slice(0, extent), slice(0, extent)
    for i in range(12):
        slide = draw_slide(extent, (4, i))
        bare = draw_slide(extent, (4, i), (0.0, 0.0, 0.0)).pixels(*whole).astype(int)
        marks = slide.pixels(*whole).astype(int) - bare
        assert set(np.unique(marks)) <= {-AMPLITUDE, 0, AMPLITUDE}
        first_row = marks[::BLOCK, :, 0].reshape(-1, BLOCK)  # of every block
        periods = [0 if not row.any() else 2 * int(np.argmin(row > 0)) for row in first_row]
        found = tuple(periods.count(period) / len(periods) for period in (2, 4, 8))
        assert found == slide.densities
        sums.append(sum(found))
        labels.append(slide.label)
    assert np.array_equal(np.argsort(sums, kind="stable"), np.argsort(labels, kind="stable"))


def test_labels_have_mean_0_and_standard_deviation_1() -> None:
    from slide_study.slides import draw_slide

    labels = [draw_slide(512, (6, i)).label for i in range(1500)]
    assert abs(np.mean(labels)) < 0.1  # four standard errors
    assert abs(np.std(labels) - 1) < 0.08


@pytest.mark.parametrize(("factor", "periods_left"), [(2, (4, 8)), (4, (8,)), (8, ())])
def test_averaging_wipes_marks_out(factor: int, periods_left: tuple[int, ...]) -> None:
    """Bit by bit: two slides that differ in finer marks alone are the same; coarser marks are still there."""
    from slide_study.slides import PERIODS, averaged, draw_slide

    whole = slice(0, 128), slice(0, 128)
    bare = averaged(draw_slide(128, (5,), (0.0, 0.0, 0.0)).pixels(*whole), factor)
    for kind, period in enumerate(PERIODS):
        densities = tuple(0.5 if number == kind else 0.0 for number in range(3))
        marked = averaged(draw_slide(128, (5,), densities).pixels(*whole), factor)
        assert np.array_equal(marked, bare) == (period not in periods_left)


def test_any_region_of_a_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from slide_study import stored
    from slide_study.slides import draw_slide

    slide = draw_slide(160, (7,))
    whole = slide.pixels(slice(0, 160), slice(0, 160))
    assert np.array_equal(slide.pixels(slice(17, 90), slice(3, 160)), whole[17:90, 3:160])
    monkeypatch.setattr(stored, "_CHUNK", 64)
    assert np.array_equal(stored.store_slide(tmp_path / "slide.zarr", slide)[:], whole)


@pytest.mark.parametrize("turn", range(8))
def test_a_batch_reads_turned_slides(turn: int) -> None:
    from slide_study.stored import Batch

    array = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    expected = array[[2, 0]].copy()
    turned = expected[1].swapaxes(0, 1) if turn & 1 else expected[1]
    turned = np.flipud(turned) if turn & 2 else turned
    expected[1] = np.fliplr(turned) if turn & 4 else turned
    batch = Batch(array, [2, 0], [0, turn])
    assert batch.shape == expected.shape
    regions = slice(0, 2), slice(3, 17), slice(0, 9), slice(1, 3)
    assert np.array_equal(batch[regions], expected[regions])
    assert np.array_equal(batch[1:2, 5:20, 4:20, 0:3], expected[1:2, 5:20, 4:20])


def test_statistics_of_channels() -> None:
    from slide_study.stored import channel_statistics

    array = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    mean, std = channel_statistics(array)
    assert np.allclose(mean, array.mean((0, 1, 2)))
    assert np.allclose(std, array.std((0, 1, 2)))


def test_scores() -> None:
    from slide_study.training import CLASSIFICATION, area_under_curve, correlation

    assert correlation([1.0, 5.0, 2.0], [0.1, 0.9, 0.5]) == pytest.approx(1)
    assert correlation([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]) == pytest.approx(1 - 6 * 2 / (4 * 15))  # no ties
    assert correlation([2.0, 2.0, 2.0], [0.1, 0.9, 0.5]) == 0
    assert area_under_curve([1.0, 3.0], [0.0, 1.0, 2.0]) == pytest.approx((1 + 0.5 + 0 + 3) / 6)
    labels = [0.0, 1.0, 0.0, 1.0, 0.0]
    assert CLASSIFICATION.score([0.0, 1.0, 1.0, 3.0, 2.0], labels) == pytest.approx((1 + 0.5 + 0 + 3) / 6)


def test_the_sets_of_a_study(tmp_path: Path) -> None:
    """Sets differ; slides with and without marks show the same tissue."""
    from dataclasses import replace

    from slide_study.study import QUICK, store_slides

    slides = store_slides(tmp_path, replace(QUICK, extent=128, num_train=2, num_tuning=2, num_test=2, num_positive=2))
    assert len({slides.train.labels, slides.tuning.labels, slides.test.labels}) == 3
    quarters = [part.arrays[32][:] for part in (slides.negative, *slides.positive)]
    assert np.array_equal(quarters[0], quarters[1])
    assert np.array_equal(quarters[0], quarters[2])
    assert not np.array_equal(quarters[0], quarters[3])
    assert not np.array_equal(slides.negative.arrays[128][:], slides.positive[0].arrays[128][:])
    assert all(sum(x) == 0 for x in slides.negative.densities)


def test_the_slides_of_classifiers(tmp_path: Path) -> None:
    """Every other one has no mark, the others have one kind each, in turn; marks get denser within a set."""
    from dataclasses import replace

    from slide_study.classify import QUICK, _classes, store_slides

    slides = store_slides(tmp_path, replace(QUICK, extent=256, num_train=12, num_tuning=6, num_test=2))
    for part, count in ((slides.train, 12), (slides.tuning, 6)):
        kinds = [[kind for kind, density in enumerate(found, 1) if density] for found in part.densities]
        assert kinds == [[i // 2 % 3 + 1] if i % 2 else [] for i in range(count)]
        assert _classes(part) == [0.0, 1.0] * (count // 2)
        marked = [max(found) for found in part.densities if any(found)]
        assert marked == sorted(marked)
    assert not np.array_equal(slides.train.arrays[256][0], slides.tuning.arrays[256][0])


@pytest.mark.more
def test_the_quick_form(tmp_path: Path) -> None:
    from slide_study import classify
    from slide_study.nets import SlideNet
    from slide_study.runs import load_runs
    from slide_study.study import Run, table

    printed = run("--quick", "--folder", tmp_path)
    for size, layers in ((64, 22), (128, 25), (256, 28)):
        assert f"\n| {size} x {size} | {layers} | " in printed
    assert "| streamed, projected | " in printed
    assert "| streamed, measured above start | " in printed
    study = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    for found in study["runs"]:
        assert len(found["losses"]) == study["settings"]["schedule"]["num_epochs"]
        assert np.isfinite(found["losses"]).all()
    quarter, half, _ = (found["areas"] for found in study["runs"])
    assert quarter[:2] == [0.5, 0.5]  # these marks are not there for the net to see
    assert half[0] == 0.5
    regressed = load_runs(tmp_path / "study.json", Run)
    classified = load_runs(tmp_path / "classification.json", classify.Run)
    assert table(regressed) in printed
    assert classify.table(classified) in printed
    assert [(run.size, run.num_layers) for run in classified] == [(64, 22), (128, 25), (256, 28)]
    assert all(run.is_initialised and np.isfinite(run.losses).all() for run in classified)
    assert [run.areas[:kinds] for run, kinds in zip(classified, (2, 1, 0), strict=True)] == [(0.5, 0.5), (0.5,), ()]
    drawn = run("draw", "--folder", tmp_path)
    assert table(regressed) in drawn
    assert classify.table(classified) in drawn
    for name in ("marks", "scores", "areas"):
        assert (tmp_path / f"whole-slide-{name}.png").read_bytes().startswith(b"\x89PNG")
    pyramid(tmp_path / "slide.tif")
    weights = tmp_path / "weights_64_seed_0.pt"
    told = run("predict", "--weights", weights, "--slide", tmp_path / "slide.tif", "--level", "1", "--tile-size", "64")
    stored = torch.load(weights, weights_only=True)
    net = SlideNet(**stored["recipe"])
    net.load_state_dict(stored["state"])
    image = torch.from_numpy(pyramid(tmp_path / "slide.tif")).permute(2, 0, 1)[None]
    assert printed_number("prediction", told) == pytest.approx(net.eval()(image).item(), rel=1e-4, abs=5.1e-4)


def test_runs_of_an_interrupted_experiment_are_drawn(tmp_path: Path) -> None:
    from slide_study import classify
    from slide_study.drawing import save_areas, save_scores
    from slide_study.runs import load_runs, save_runs
    from slide_study.study import Run

    regressed = Run(64, 22, 0, 0.25, 0.5, (0.5, 0.5, 1.0), (1.0,), (0.1,), 2.0)
    classified = classify.Run(64, 22, 0.75, (0.5, 0.5, 1.0), True, (1.0,), (0.1,), 2.0)
    for one, draw in ((regressed, save_scores), (classified, save_areas)):
        save_runs(tmp_path / "runs.json", classify.QUICK, [one])
        assert load_runs(tmp_path / "runs.json", type(one)) == [one]
        draw(tmp_path / "drawn.png", [one])
        assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")
    command = [sys.executable, str(EXAMPLES / "whole_slide.py"), "draw", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "nothing to draw in " in done.stderr


@pytest.mark.slow
def test_a_step_on_a_tiff_pyramid(tmp_path: Path) -> None:
    from slide_study.step import SlideFile, plan_step, take_step

    half = pyramid(tmp_path / "slide.tif")
    options = ("--level", "1", "--label", "2.5", "--width", "2", "--tile-size", "64", "--folder", tmp_path)
    printed = run("step", "--slide", tmp_path / "slide.tif", *options)
    assert "22 layers of up to 32 channels on 160 x 192 pixels" in printed
    zarr.create_array(tmp_path / "slide.zarr", shape=half.shape, dtype="uint8")[:] = half
    slide = SlideFile(tmp_path / "slide.zarr")
    plan = plan_step(slide, width=2, depth=1, tile_size=96)
    same = take_step(slide, 2.5, 2, 1, plan.to_json())
    assert same.loss > 0
    assert printed_number("loss", printed) == pytest.approx(same.loss, rel=1e-4, abs=5.1e-5)
