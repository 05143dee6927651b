"""`benchmarks.scaling`: which points there are, what the figures show, and that everything runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import scaling
from benchmarks.processes import ROOT
from benchmarks.scaling import FULL, QUICK, Point
from benchmarks.scaling_figures import draw, plain_projected, projected

GIB = 2**30


def step(seconds: float, gib: float) -> dict[str, Any]:
    return {"status": "ok", "seconds": seconds, "peak_bytes": int(gib * GIB)}


def point(image: int, method: str, tile: int | None, steps: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """One whose memory is that of its first step."""
    return {"image": image, "method": method, "tile": tile, "steps": steps, "memory_steps": steps[:1], **more}


def net() -> dict[str, Any]:
    """Plain at 512 takes 2, 3 and 10 seconds; the tile of 128 recomputes half of the plain step."""
    plans = [
        {
            "image": image,
            "method": "reuse",
            "tile": 128,
            "time_ratio": 1.5,
            "peak_bytes": GIB,
            "plain_peak_bytes": plain,
        }
        for image, plain in ((512, 2 * GIB), (1024, 8 * GIB))
    ]
    refused = {"image": 512, "method": "recompute", "tile": 64, "reason": "tile size 64 x 64 is too small"}
    plain = point(512, "plain", None, [step(2, 2.1), step(10, 2.2), step(3, 2)])
    streamed = point(512, "reuse", 128, [step(4, 1), step(6, 1.25)])
    skipped = point(1024, "plain", None, [], reason="projected 8.0 GiB")
    measured = [plain, streamed, skipped]
    return {"net": "resnet50", "image": 512, "tile": 128, "projected": [*plans, refused], "measured": measured}


def test_points() -> None:
    for each in FULL:
        points = each.measured()
        assert len(points) == len(set(points))
        assert Point(each.image, "plain") in points
        assert Point(4096, "reuse", each.tile) in points
        spec = each.spec(Point(1024, "recompute", 640), 1)
        assert (spec.method, spec.tile_size, spec.image_size) == ("recompute", 640, (1024, 1024))


def test_the_largest_images_come_last() -> None:
    points = [point for point, _ in scaling.in_order(FULL)]
    assert sorted(points) == sorted(point for each in FULL for point in each.measured())
    assert points.index(Point(2048, "reuse", 256)) < points.index(Point(1024, "reuse", 128))
    assert {point.image for point in points[-4:]} == {4096}
    assert [point.method for point in points[-4:]] == ["reuse", "reuse", "plain", "plain"]


def test_projected_values() -> None:
    given = net()
    assert plain_projected(given, 512, "seconds") == 3
    assert plain_projected(given, 1024, "seconds") == 12  # four times the pixels
    assert projected(given, given["projected"][1], "seconds") == 18
    assert projected(given, given["projected"][1], "peak_bytes") == 1
    assert plain_projected(given, 1024, "peak_bytes") == 8
    given["measured"] = []
    assert projected(given, given["projected"][0], "seconds") is None


def test_figures_show_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path: figures.append(self))
    assert [path.name for path in draw({"nets": [net()]}, tmp_path)] == ["scaling-tile.png", "scaling-input.png"]
    (of_tiles, _), (of_images, memory) = (figure.axes for figure in figures)
    assert lines(of_tiles)["streamed, halos carried, projected"] == [(128, 4.5)]
    assert bars(of_tiles)["streamed, halos carried, measured"] == [(128, 4, 5, 6)]
    assert bars(of_tiles)["plain, measured"] == [(512, 2, 3, 10)]
    assert lines(of_images)["plain, projected"] == [(512, 3), (1024, 12)]
    assert bars(of_images)["streamed, halos carried, measured"] == [(512, 4, 5, 6)]
    assert lines(memory)["plain, projected"] == [(512, 2), (1024, 8)]
    assert bars(memory)["streamed, halos carried, measured"] == [(512, 1, 1, 1)]


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    return {
        str(line.get_label()): [(float(x), float(y)) for x, y in line.get_xydata()]  # type: ignore[union-attr]
        for line in axes.lines
        if not str(line.get_label()).startswith("_")
    }


def bars(axes: Axes) -> dict[str, list[tuple[float, float, float, float]]]:
    """Position, least, median and most of each point."""
    found = {}
    for container in axes.containers:
        middle, _, (segments,) = container
        points = zip(middle.get_xydata(), segments.get_segments(), strict=True)
        found[str(container.get_label())] = [
            (float(x), float(segment[0][1]), float(y), float(segment[1][1])) for (x, y), segment in points
        ]
    return found


def test_a_plain_net_that_does_not_fit_is_not_run() -> None:
    (quick,) = QUICK
    found = scaling.measure(quick, Point(256, "plain"), 1, 1, allowed_bytes=1000)
    assert found["steps"] == []
    assert found["reason"].startswith("projected 0.0 GiB, allowed")


@pytest.mark.more
def test_everything_runs_goes_on_and_is_drawn_again(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    given = ["--quick", "--out", str(out), "--figures", str(tmp_path), "--steps", "1"]
    subprocess.run([sys.executable, "-m", "benchmarks.scaling", *given], cwd=ROOT, check=True, capture_output=True)
    results = json.loads(out.read_text())
    (found,) = results["nets"]
    assert [len(point["steps"]) for point in found["measured"]] == [1, 1, 1]
    assert all(point["steps"][0]["seconds"] > 0 for point in found["measured"])
    first = figures_in(tmp_path)
    assert len(first) == 2
    scaling.main([*given, "--draw"])
    assert figures_in(tmp_path) == first
    lost = found["measured"].pop()
    out.write_text(json.dumps(results))
    scaling.main([*given, "--resume", "--minutes", "0"])
    (again,) = json.loads(out.read_text())["nets"]
    assert again["projected"] == found["projected"]
    assert again["measured"][:2] == found["measured"]
    assert again["measured"][2] == {
        **lost,
        "steps": [],
        "memory_steps": [],
        "reason": "the time was over; --resume goes on",
    }
    assert figures_in(tmp_path) != first


def figures_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}
