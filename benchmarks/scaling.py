"""How time and memory grow: with the tile at one image size, and with the image at one tile size.

    python -m benchmarks.scaling --figures docs/images           # measures, writes JSON, draws
    python -m benchmarks.scaling --draw --figures docs/images    # draws again from the JSON
    python -m benchmarks.scaling --quick                         # tiny nets, to see that everything runs

The paper's net and ResNet-50, plain beside streamed. Each method at each size has two processes of its own: one whose
training steps are timed, and one whose memory is measured, in which freed memory leaves the process at once. That takes
time, so neither number can be had with the other. What plans project is kept beside them, on a finer grid of sizes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import streamplan
from benchmarks.machine import machine_facts
from benchmarks.memory import MALLOC_ENVIRONMENT
from benchmarks.methods import plan_options
from benchmarks.nets import build_net
from benchmarks.processes import Server
from benchmarks.results import RESULTS, SCRATCH
from benchmarks.scaling_figures import draw
from benchmarks.spec import Spec

Result = dict[str, Any]
_GIB = 2**30
_RESERVED_BYTES = 2 * _GIB
"""Left to the rest of the machine when the plain net is run."""


@dataclass(frozen=True, order=True)
class Point:
    """A method at a size; images and tiles are squares."""

    image: int
    """Extent along either axis."""
    method: str
    """`plain`, `reuse` or `recompute`."""
    tile: int | None = None


@dataclass(frozen=True)
class Scaling:
    """What is measured and projected of one net."""

    net: str
    options: dict[str, int]
    image: int
    """Extent at which tiles are varied."""
    tile: int
    """Extent at which images are varied."""
    measured_tiles: dict[str, tuple[int, ...]]
    measured_images: tuple[int, ...]
    projected_tiles: dict[str, tuple[int, ...]]
    projected_images: tuple[int, ...]

    def measured(self) -> tuple[Point, ...]:
        """Points to measure, small images first."""
        of_tiles = [Point(self.image, method, tile) for method, tiles in self.measured_tiles.items() for tile in tiles]
        of_images = [
            point
            for image in self.measured_images
            for point in (Point(image, "plain"), Point(image, "reuse", self.tile))
        ]
        return tuple(
            sorted({*of_tiles, *of_images, Point(self.image, "plain")}, key=lambda p: (p.image, p.method, p.tile or 0))
        )

    def projected(self) -> tuple[Point, ...]:
        """Points to project; each tells of the plain net, too."""
        of_tiles = [Point(self.image, method, tile) for method, tiles in self.projected_tiles.items() for tile in tiles]
        return tuple(dict.fromkeys([*of_tiles, *(Point(image, "reuse", self.tile) for image in self.projected_images)]))

    def spec(self, point: Point, num_threads: int) -> Spec:
        """What a worker is asked to do."""
        return Spec(
            "step",
            self.net,
            self.options,
            (point.image, point.image),
            point.method,
            point.tile,
            num_threads=num_threads,
        )


def _full(net: str, smallest_recomputed: int) -> Scaling:
    return Scaling(
        net,
        {},
        image=1024,
        tile=256,
        measured_tiles={"reuse": (128, 256, 512), "recompute": (640, 832)},
        measured_images=(512, 1024, 2048, 4096),
        projected_tiles={
            "reuse": (64, 128, 192, 256, 384, 512, 768, 1024),
            "recompute": tuple(range(smallest_recomputed, 1025, 128)),
        },
        projected_images=(512, 1024, 1536, 2048, 3072, 4096, 8192),
    )


FULL = (_full("tupac", 384), _full("resnet50", 640))
QUICK = (
    Scaling(
        "tupac",
        {"width": 2},
        image=256,
        tile=64,
        measured_tiles={"reuse": (64,), "recompute": (240,)},
        measured_images=(256,),
        projected_tiles={"reuse": (32, 64, 128), "recompute": (240, 256)},
        projected_images=(128, 256, 512),
    ),
)


def project(scaling: Scaling) -> Iterator[Result]:
    """What plans tell of their points."""
    net = build_net(scaling.spec(Point(scaling.image, "plain"), 1), torch.float32)
    for point in scaling.projected():
        found = _description(point)
        try:
            plan = streamplan.plan(
                net, (1, 3, point.image, point.image), point.tile, **plan_options(net, scaling.spec(point, 1))
            )
        except streamplan.StreamPlanError as error:
            yield {**found, "reason": error.what}
            continue
        forecast = plan.forecast
        assert forecast is not None
        yield {
            **found,
            "peak_bytes": forecast.memory.peak_bytes,
            "plain_peak_bytes": forecast.plain_memory.peak_bytes,
            "time_ratio": forecast.time.ratio,
            "time_source": forecast.time.source,
        }


def measure(scaling: Scaling, point: Point, num_steps: int, num_threads: int, allowed_bytes: int) -> Result:
    """Steps of one point, timed and measured, or why there are none.

    Where tiles are varied, and on smaller images, another step comes before those that are timed, to warm up.
    """
    found: Result = {**_description(point), "steps": [], "memory_steps": []}
    spec = scaling.spec(point, num_threads)
    if point.method == "plain":
        needed = plain_peak_bytes(scaling, point.image)
        if needed > allowed_bytes:
            return {**found, "reason": f"projected {needed / _GIB:.1f} GiB, allowed {allowed_bytes / _GIB:.1f} GiB"}
    num_before = 1 if point.image <= scaling.image else 0
    for kind, count in (("steps", num_before + num_steps), ("memory_steps", 1)):
        with Server(spec, gives_memory_back=kind == "memory_steps") as server:
            for _ in range(count):
                result = server.ask("step")
                if result["status"] != "ok":
                    return {**_description(point), "steps": [], "memory_steps": [], "reason": result["reason"]}
                found[kind].append(result)
    return {**found, "steps": found["steps"][num_before:]}


def plain_peak_bytes(scaling: Scaling, image: int) -> int:
    """Projected peak of the plain net."""
    net = build_net(scaling.spec(Point(image, "plain"), 1), torch.float32)
    options = plan_options(net, scaling.spec(Point(image, "reuse", scaling.tile), 1))
    forecast = streamplan.plan(net, (1, 3, image, image), scaling.tile, **options).forecast
    assert forecast is not None
    return forecast.plain_memory.peak_bytes


def available_bytes() -> int:
    """Memory that the machine can give; Linux only."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def run(scalings: Sequence[Scaling], arguments: argparse.Namespace) -> None:
    """Project, then measure; everything is written as soon as it is known, and the next run may keep it."""
    start = time.monotonic()
    kept = json.loads(arguments.out.read_text(encoding="utf-8"))["nets"] if arguments.resume else []
    facts = {
        "machine": machine_facts("cpu", arguments.threads),
        "malloc_environment": MALLOC_ENVIRONMENT,
        "memory_limit_gib": arguments.memory_limit,
    }
    nets = kept or [
        {
            "net": scaling.net,
            "options": scaling.options,
            "image": scaling.image,
            "tile": scaling.tile,
            "projected": list(project(scaling)),
            "measured": [],
        }
        for scaling in scalings
    ]
    for net in nets:
        net["measured"] = [point for point in net["measured"] if point["steps"]]
    for point, index in in_order(scalings):
        if any(_is(point, found) for found in nets[index]["measured"]):
            continue
        if time.monotonic() - start > 60 * arguments.minutes:
            reason = "the time was over; --resume goes on"
            found: Result = {**_description(point), "steps": [], "memory_steps": [], "reason": reason}
        else:
            num_steps = arguments.steps if point.image <= scalings[index].image else 1
            allowed = min(arguments.memory_limit * _GIB, available_bytes() - _RESERVED_BYTES)
            found = measure(scalings[index], point, num_steps, arguments.threads, allowed)
        nets[index]["measured"].append(found)
        _report(scalings[index].net, found)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({**facts, "nets": nets}, indent=1) + "\n", encoding="utf-8")


def in_order(scalings: Sequence[Scaling]) -> list[tuple[Point, int]]:
    """Points with the numbers of their nets: the largest images last, and what is at another tile size before them."""
    points = [(point, index) for index, scaling in enumerate(scalings) for point in scaling.measured()]

    def key(each: tuple[Point, int]) -> tuple[bool, bool, int]:
        point, index = each
        is_large = point.image > 2 * scalings[index].image
        is_beside = point.method == "plain" if is_large else point.tile not in (None, scalings[index].tile)
        return is_large, is_beside, point.image

    return sorted(points, key=key)


def _description(point: Point) -> Result:
    return {"image": point.image, "method": point.method, "tile": point.tile}


def _is(point: Point, found: Result) -> bool:
    return all(found[name] == value for name, value in _description(point).items())


def _report(net: str, found: Result) -> None:
    seconds = ", ".join(f"{step['seconds']:.2f} s" for step in found["steps"])
    mebibytes = ", ".join(f"{step['peak_bytes'] / 2**20:.0f} MiB" for step in found.get("memory_steps", ()))
    said = found.get("reason") or f"{seconds}; {mebibytes}"
    print(f"{net} {found['method']} tile {found['tile']} image {found['image']}: {said}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Measure unless only drawing is asked for, and draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a net of few channels on small images")
    parser.add_argument("--resume", action="store_true", help="keep what the results have, and measure the rest")
    parser.add_argument("--draw", action="store_true", help="draw what was measured before")
    parser.add_argument("--minutes", type=float, default=20, help="no measurement is begun later than that (20)")
    parser.add_argument("--steps", type=int, default=2, help="timed per point; one on the largest images (2)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--memory-limit", type=int, default=12, help="GiB that the plain net may take (12)")
    parser.add_argument("--out", type=Path, help=f"of the results ({RESULTS}/scaling.json; {SCRATCH} if quick)")
    parser.add_argument("--figures", type=Path, default=SCRATCH, help=f"folder of the figures ({SCRATCH})")
    given = parser.parse_args(arguments)
    given.out = given.out or (SCRATCH / "quick-scaling.json" if given.quick else RESULTS / "scaling.json")
    if not given.draw:
        run(QUICK if given.quick else FULL, given)
    for path in draw(json.loads(given.out.read_text(encoding="utf-8")), given.figures):
        print(f"written: {path}")


if __name__ == "__main__":
    main()
