"""The source paper's experiments on whole slides, in miniature, and one step of its largest net at its full size.

    python examples/whole_slide.py --quick             # all three, small; under a minute
    python examples/whole_slide.py study               # scores by input size; under an hour on two cores
    python examples/whole_slide.py classify            # areas under ROC curves by input size; under an hour
    python examples/whole_slide.py draw                # tables and pictures of what was run
    python examples/whole_slide.py step --size 8192    # a training step of the 28-layer net, projected and measured
    python examples/whole_slide.py step --slide a.tif --level 1 --label 0.7
    python examples/whole_slide.py predict --weights whole_slide/weights_512_seed_0.pt --slide a.tif

Nets and optimisers are those of the TUPAC16 and CAMELYON17 experiments of Pinckaers, van Ginneken and Litjens,
"Streaming convolutional neural networks for end-to-end learning with multi-megapixel images", 2020. The slides are
synthetic: see `slide_study/slides.py`. `docs/whole_slide.md` has the results of the full forms.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from slide_study import classify
from slide_study.drawing import save_areas, save_marks, save_scores
from slide_study.nets import NUM_LAYERS, PAPER_SIZES, PAPER_WIDTH
from slide_study.runs import load_runs
from slide_study.slides import draw_slide
from slide_study.step import SlideFile, in_a_process_of_its_own, memory_table, plan_step
from slide_study.stored import store_slide
from slide_study.study import FULL, QUICK, RUNS, Run, load_net, run_study, table

import streamplan

_STEP_SEED = (8192,)
"""Of the slide that `step` and `predict` take where none is given; no slide of the study has it."""
_QUICK_SIZE, _QUICK_WIDTH = 512, 8


def study(arguments: argparse.Namespace) -> None:
    """Train and test nets at three input sizes; a table and two pictures."""
    draw_study(arguments, run_study(arguments.folder, QUICK if arguments.quick else FULL))


def draw_study(arguments: argparse.Namespace, runs: Sequence[Run]) -> None:
    """The table and the pictures of a study."""
    print(f"\n{table(runs)}\n")
    save_marks(arguments.figures / "whole-slide-marks.png")
    save_scores(arguments.figures / "whole-slide-scores.png", runs)
    print(f"pictures in {arguments.figures}")


def classification(arguments: argparse.Namespace) -> None:
    """Train and test classifiers at three input sizes; a table and a picture."""
    settings = classify.QUICK if arguments.quick else classify.FULL
    draw_classification(arguments, classify.run_classification(arguments.folder, settings))


def draw_classification(arguments: argparse.Namespace, runs: Sequence[classify.Run]) -> None:
    """The table and the picture of classifiers."""
    print(f"\n{classify.table(runs)}\n")
    save_areas(arguments.figures / "whole-slide-areas.png", runs)
    print(f"picture in {arguments.figures}")


def draw(arguments: argparse.Namespace) -> None:
    """Tables and pictures of what was run in a folder."""
    regressions, classifiers = (arguments.folder / name for name in (RUNS, classify.RUNS))
    if not regressions.exists() and not classifiers.exists():
        raise SystemExit(f"nothing to draw in {arguments.folder}: `study` or `classify` writes it")
    if regressions.exists():
        draw_study(arguments, load_runs(regressions, Run))
    if classifiers.exists():
        draw_classification(arguments, load_runs(classifiers, classify.Run))


def step(arguments: argparse.Namespace) -> None:
    """One training step on one slide, projected and measured."""
    size = arguments.size or (_QUICK_SIZE if arguments.quick else max(PAPER_SIZES.values()))
    slide, label = find_slide(arguments, size)
    extents = slide.open().shape[-2:]
    depth = arguments.depth or max((d for d, least in PAPER_SIZES.items() if min(extents) >= least), default=1)
    width = arguments.width or (_QUICK_WIDTH if arguments.quick else PAPER_WIDTH)
    if arguments.tile_size or arguments.quick:
        options = {"tile_size": arguments.tile_size or size // 4}
    else:
        options = {"memory_budget": arguments.memory_budget}
    plan = plan_step(slide, width, depth, **options)
    print(
        f"{NUM_LAYERS[depth]} layers of up to {16 * width} channels on {extents[0]} x {extents[1]} pixels\n\n{plan}\n"
    )
    found = in_a_process_of_its_own(slide, label, width, depth, plan.to_json())
    print(f"{memory_table(plan, found)}\n\nloss {found.loss:.4f}, {found.seconds:.1f} s for the step")


def predict(arguments: argparse.Namespace) -> None:
    """The prediction of a trained net for one slide."""
    if arguments.weights is None:
        raise SystemExit("predict needs --weights, a file that `study` has written")
    net = load_net(arguments.weights)
    slide, label = find_slide(arguments, arguments.size or FULL.extent)
    source = slide.open()
    streamed = streamplan.compile(net, example_inputs=source, tile_size=arguments.tile_size or 256)
    print(f"prediction {streamed.predict(source).item():.3f}, label {label:.3f}")


def find_slide(arguments: argparse.Namespace, size: int) -> tuple[SlideFile, float]:
    """The slide that is asked for, or a synthetic one of some size, and its label."""
    if arguments.slide is not None:
        return SlideFile(arguments.slide, arguments.level), arguments.label
    slide, path = draw_slide(size, _STEP_SEED), arguments.folder / f"slide_{size}.zarr"
    store_slide(path, slide)
    return SlideFile(path), slide.label


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "task",
        nargs="?",
        choices=("study", "classify", "draw", "step", "predict"),
        help="study, classify and step unless given",
    )
    parser.add_argument("--quick", action="store_true", help="everything small: under a minute")
    parser.add_argument("--folder", type=Path, default=Path("whole_slide"), help="where slides and results go")
    parser.add_argument("--figures", type=Path, help="where pictures go; with the results unless given")
    parser.add_argument("--slide", type=Path, help="a TIFF pyramid or a zarr array of bytes; synthetic unless given")
    parser.add_argument("--level", type=int, default=0, help="of the pyramid; 0 is the full resolution")
    parser.add_argument("--label", type=float, default=0.0, help="of the slide that is given")
    parser.add_argument("--size", type=int, help="pixels along each axis of the synthetic slide, a multiple of 32")
    parser.add_argument("--width", type=int, help="channels of the first group; the paper's 32 unless given")
    parser.add_argument("--depth", type=int, choices=NUM_LAYERS, help="1, 2, 3 for 22, 25, 28 layers; by the size")
    parser.add_argument("--memory-budget", default="2GiB", help="what a step may take, for the plan")
    parser.add_argument("--tile-size", type=int, help="instead of a memory budget")
    parser.add_argument("--weights", type=Path, help="of a net that `study` has trained, to predict with")
    arguments = parser.parse_args()
    arguments.figures = arguments.figures or arguments.folder
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if arguments.task in (None, "study"):
        study(arguments)
    if arguments.task in (None, "classify"):
        classification(arguments)
    if arguments.task == "draw":
        draw(arguments)
    if arguments.task in (None, "step"):
        step(arguments)
    if arguments.task == "predict":
        predict(arguments)


if __name__ == "__main__":
    main()
