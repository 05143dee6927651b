"""Classification by input size: slides with marks of one kind against slides without, in nets without BatchNorm.

The paper's CAMELYON17 experiment in miniature: its nets, layer-sequential unit-variance (LSUV) initialisation over ten
batches, weight decay, and the areas under ROC curves of its table 5. Extents, channels and mini-batches are those of
the study; the paper does not name its loss, and here it is the binary cross entropy. Without
BatchNorm the study's learning rate was too high, and its 128 slides were learned by heart where most marks cannot be
seen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import streamplan
from slide_study.nets import NUM_LAYERS, SlideNet
from slide_study.runs import save_runs
from slide_study.slides import PERIODS, draw_slide
from slide_study.stored import Batch, SlideSet, channel_statistics, store_set
from slide_study.study import NUM_BANDS, only, store_by_kind
from slide_study.training import CLASSIFICATION, Schedule, area_under_curve, predict, train

RUNS = "classification.json"
"""What was found, in the folder of the experiment."""
_SEEDS = {"train": 10, "tuning": 11}
"""By set; those of the test sets are the study's."""


@dataclass(frozen=True)
class Settings:
    """What the experiment is made of."""

    extent: int
    """Of the slides; the largest input size."""
    width: int
    """Channels of the first group; 32 in the paper."""
    num_train: int
    """Half of them without marks, the others with each kind in turn."""
    num_tuning: int
    num_test: int
    """Without marks, and for each kind as many with marks of that kind."""
    num_batches: int
    """Over which the initial variances are 1; ten in the paper."""
    seed: int
    """Of weights and order of slides."""
    schedule: Schedule


FULL = Settings(512, 8, 512, 32, 32, 10, 0, Schedule(num_epochs=8, learning_rate=3e-4))
QUICK = Settings(256, 4, 12, 6, 2, 1, 0, Schedule(num_epochs=1))


@dataclass(frozen=True)
class Run:
    """One net, trained and tested."""

    size: int
    num_layers: int
    area: float
    """Under the ROC curve: slides with marks of any kind against slides without."""
    areas: tuple[float, ...]
    """The same for slides with marks of one kind, by kind."""
    is_initialised: bool
    """Whether all variances came within LSUV's tolerance."""
    losses: tuple[float, ...]
    tuning_areas: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Slides:
    """All slides of the experiment."""

    train: SlideSet
    tuning: SlideSet
    negative: SlideSet
    positive: tuple[SlideSet, ...]
    """By kind."""


def store_slides(folder: Path, settings: Settings) -> Slides:
    """Draw and write the slides; the same ones at every call."""

    def store(name: str, count: int) -> SlideSet:
        densities = [only((i // 2) % len(PERIODS) + 1 if i % 2 else 0, i + 1, count) for i in range(count)]
        drawn = (draw_slide(settings.extent, (_SEEDS[name], i), given) for i, given in enumerate(densities))
        return store_set(folder / name, drawn)

    negative, positive = store_by_kind(folder, settings.extent, settings.num_test)
    return Slides(store("train", settings.num_train), store("tuning", settings.num_tuning), negative, positive)


def run_classification(folder: Path, settings: Settings) -> list[Run]:
    """Train and test a net at each input size; what was found goes into the folder."""
    slides = store_slides(folder / "classified_slides", settings)
    runs = []
    for depth, size in enumerate(slides.train.sizes, 1):
        runs.append(_run(slides, settings, depth, size))
        print(_line(runs[-1]), flush=True)
        save_runs(folder / RUNS, settings, runs)
    return runs


def _run(slides: Slides, settings: Settings, depth: int, size: int) -> Run:
    started = time.perf_counter()
    torch.manual_seed(settings.seed)
    array, num_slides = slides.train.arrays[size], settings.schedule.slides_per_call
    mean, std = channel_statistics(array)
    net = SlideNet(settings.width, depth, mean, std, is_normalised=False)
    shape = (num_slides, 3, size, size)
    streamed = streamplan.compile(net, shape, (size // NUM_BANDS, size), dtype=torch.uint8)
    report = streamplan.init.lsuv_(streamed, _batches(array, num_slides, settings.num_batches))
    train_set, tuning_set = ((part.arrays[size], _classes(part)) for part in (slides.train, slides.tuning))
    trained = train(streamed, train_set, tuning_set, settings.schedule, CLASSIFICATION, settings.seed)
    net.load_state_dict(trained.state)
    negative, *positive = (
        predict(streamed, part.arrays[size], num_slides) for part in (slides.negative, *slides.positive)
    )
    return Run(
        size,
        NUM_LAYERS[depth],
        area_under_curve([found for kind in positive for found in kind], negative),
        tuple(area_under_curve(kind, negative) for kind in positive),
        report.is_converged,
        trained.losses,
        trained.scores,
        time.perf_counter() - started,
    )


def _batches(array: Any, num_slides: int, count: int) -> list[streamplan.Source]:
    """The first batches of a set, read when a tile needs them: those with the faintest marks."""
    starts = range(0, count * num_slides, num_slides)
    return [streamplan.Source(Batch(array, range(i, i + num_slides)), "HWC", batch=True) for i in starts]


def _classes(slides: SlideSet) -> list[float]:
    """1 for slides with marks, 0 for those without."""
    return [float(any(densities)) for densities in slides.densities]


def _line(run: Run) -> str:
    areas = ", ".join(f"{area:.3f}" for area in run.areas)
    return (
        f"{run.size:5} x {run.size:<5} {run.num_layers} layers  LSUV {'' if run.is_initialised else 'not '}converged"
        f"  AUC {run.area:.3f}, by kind {areas}  {run.seconds:.0f} s"
    )


def table(runs: Sequence[Run]) -> str:
    """Areas under ROC curves, as Markdown."""
    kinds = " | ".join(f"{period} px" for period in PERIODS)
    lines = [
        f"| input size | layers | AUC, any marks against none | {kinds} |",
        "|---|---|---|" + "---|" * len(PERIODS),
    ]
    for run in runs:
        areas = " | ".join(f"{area:.3f}" for area in run.areas)
        lines.append(f"| {run.size} x {run.size} | {run.num_layers} | {run.area:.3f} | {areas} |")
    return "\n".join(lines)
