"""How long planning takes: a large image for the first time, and another size of a compiled module.

    python -m benchmarks.planning                # writes benchmarks/results/planning.json
    python -m benchmarks.planning --quick        # one process per net, on a small image

Every repeat of every net has a process of its own, with one thread. In it all cuts of a 65536 x 65536 image are costed,
which traces the net, and its copy is compiled for 8192 x 8192 pixels and given other sizes, one after the other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import streamplan
from benchmarks.machine import machine_facts
from benchmarks.processes import ROOT
from benchmarks.results import RESULTS, SCRATCH
from benchmarks.summary import summarize
from streamplan.module.requests import resolve_arguments
from tests.nets.densenet import densenet201
from tests.nets.resnet import resnet18, resnet50, resnet152

NETS = {"resnet18": resnet18, "resnet50": resnet50, "resnet152": resnet152, "densenet201": densenet201}
_REPEATS, _EXTENT = 3, 65536
_QUICK_REPEATS, _QUICK_EXTENT = 1, 1024
_NUM_SIZES = 8
"""Other sizes that a process plans; the first, which takes longer, is left out."""


def measure(name: str, extent: int) -> dict[str, Any]:
    """Seconds of one net in this process.

    Args:
        name: Of the net, from `NETS`.
        extent: Pixels along each axis of the image that is planned first; an eighth of it is compiled.
    """
    torch.set_num_threads(1)
    model = NETS[name]().eval()
    started = time.perf_counter()
    plan = streamplan.plan(model, (1, 3, extent, extent), tile_size=extent // 16)
    seconds = time.perf_counter() - started
    small = extent // 8
    streamed = streamplan.compile(NETS[name]().eval(), (1, 3, small, small), small // 4)
    new_sizes = []
    for number in range(_NUM_SIZES):
        arguments = resolve_arguments(
            model, (1, 3, small + 64 * (number + 1), small + 32 * number), None, torch.float32
        )
        started = time.perf_counter()
        streamed._executable_for(arguments)  # what a call with such an image begins with
        new_sizes.append(time.perf_counter() - started)
    return {"net": name, "num_cuts": len(plan.cuts), "plan_seconds": seconds, "new_size_seconds": new_sizes[1:]}


def _in_a_process_of_its_own(name: str, extent: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.planning", "--net", name, "--extent", str(extent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Medians over processes, and the spread, as Markdown."""
    lines = ["| net | cuts | plan, s | another size, ms |", "|---|---|---|---|"]
    for name in dict.fromkeys(run["net"] for run in runs):
        same = [run for run in runs if run["net"] == name]
        plan = summarize([run["plan_seconds"] for run in same])
        size = summarize([1000 * seconds for run in same for seconds in run["new_size_seconds"]])
        assert plan is not None
        assert size is not None
        lines.append(
            f"| {name} | {same[0]['num_cuts']} | {plan.median:.2f} ({plan.min:.2f} to {plan.max:.2f})"
            f" | {size.median:.0f} ({size.min:.0f} to {size.max:.0f}) |"
        )
    return "\n".join(lines)


def _completed(given: argparse.Namespace) -> argparse.Namespace:
    """What is left out on the line: fewer or smaller measurements do not replace those of the page."""
    given.repeats = given.repeats or (_QUICK_REPEATS if given.quick else _REPEATS)
    given.extent = given.extent or (_QUICK_EXTENT if given.quick else _EXTENT)
    is_whole = given.repeats >= _REPEATS and given.extent == _EXTENT
    given.out = given.out or (RESULTS / "planning.json" if is_whole else SCRATCH / "quick-planning.json")
    return given


def main() -> None:
    """Measure one net here, or all nets in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=NETS, help="measure this one, in this process, and print JSON")
    parser.add_argument("--quick", action="store_true", help="one process per net, on a small image")
    parser.add_argument("--repeats", type=int, help=f"processes per net ({_REPEATS})")
    parser.add_argument("--extent", type=int, help=f"of the large image, a multiple of 512 ({_EXTENT})")
    parser.add_argument(
        "--out", type=Path, help=f"of the results ({RESULTS}/planning.json; {SCRATCH} if less is measured)"
    )
    arguments = _completed(parser.parse_args())
    if arguments.net is not None:
        print(json.dumps(measure(arguments.net, arguments.extent)))
        return
    runs = [_in_a_process_of_its_own(name, arguments.extent) for _ in range(arguments.repeats) for name in NETS]
    facts = {**machine_facts("cpu", 1), "extent": arguments.extent}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"machine": facts, "runs": runs}, indent=1) + "\n", encoding="utf-8")
    print(table(runs))


if __name__ == "__main__":
    main()
