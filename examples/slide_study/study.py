"""The study by input size: the same slides at a quarter, half and full extent, nets that deepen with them.

The paper's table 3 in miniature. Nets and protocol are the paper's where the machine allows: 22, 25 and 28
layers, the epoch chosen on a tuning set, Spearman's correlation on a test set. Slides, extents, channels, learning rate
and number of epochs are not; see `docs/whole_slide.md`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import streamplan
from slide_study.nets import NUM_LAYERS, SlideNet
from slide_study.runs import save_runs
from slide_study.slides import MAX_DENSITY, PERIODS, draw_slide
from slide_study.stored import SlideSet, channel_statistics, store_set
from slide_study.training import REGRESSION, Schedule, area_under_curve, correlation, predict, train

RUNS = "study.json"
"""What was found, in the folder of a study."""
NUM_BANDS = 4
"""Tiles of every slide: bands of rows."""
_MIN_DENSITY = MAX_DENSITY / 10
"""Least of a slide that counts as positive."""

_SEEDS = {"train": 0, "tuning": 1, "test": 2, "negative": 3} | {f"period_{period}": 3 for period in PERIODS}
"""By set. Slides with and without marks share theirs, and so their tissue: marks are all that tells them apart."""


@dataclass(frozen=True)
class Settings:
    """What a study is made of."""

    extent: int
    """Of the slides; the largest input size."""
    width: int
    """Channels of the first group; 32 in the paper."""
    num_train: int
    num_tuning: int
    num_test: int
    num_positive: int
    """Slides with marks of one kind alone, for each kind; as many have none."""
    seeds: tuple[int, ...]
    """Of weights, order of slides, and dropout; the slides are the same."""
    schedule: Schedule


FULL = Settings(512, 8, 128, 32, 128, 32, (0, 1), Schedule(num_epochs=8))
QUICK = Settings(256, 4, 16, 4, 8, 4, (0,), Schedule(num_epochs=2))


@dataclass(frozen=True)
class Run:
    """One net, trained and tested."""

    size: int
    num_layers: int
    seed: int
    correlation: float
    """Spearman's, on the test set."""
    ceiling: float
    """The correlation of the label with the part of it that can be seen at this size."""
    areas: tuple[float, ...]
    """Under the ROC curve: slides with marks of one kind, by kind, against slides without."""
    losses: tuple[float, ...]
    tuning_scores: tuple[float, ...]
    seconds: float


@dataclass(frozen=True)
class Slides:
    """All slides of a study."""

    train: SlideSet
    tuning: SlideSet
    test: SlideSet
    negative: SlideSet
    """Without marks."""
    positive: tuple[SlideSet, ...]
    """With marks of one kind alone, by kind."""


def store_slides(folder: Path, settings: Settings) -> Slides:
    """Draw and write the slides; the same ones at every call."""

    def store(name: str, count: int) -> SlideSet:
        return store_set(folder / name, (draw_slide(settings.extent, (_SEEDS[name], i)) for i in range(count)))

    train, tuning, test = settings.num_train, settings.num_tuning, settings.num_test
    negative, positive = store_by_kind(folder, settings.extent, settings.num_positive)
    return Slides(store("train", train), store("tuning", tuning), store("test", test), negative, positive)


def store_by_kind(folder: Path, extent: int, number: int) -> tuple[SlideSet, tuple[SlideSet, ...]]:
    """Slides without marks, and for each kind as many with marks of that kind alone, of the same tissue."""

    def store(name: str, kind: int) -> SlideSet:
        drawn = (draw_slide(extent, (_SEEDS[name], i), only(kind, i + 1, number)) for i in range(number))
        return store_set(folder / name, drawn)

    return store("negative", 0), tuple(store(f"period_{p}", kind) for kind, p in enumerate(PERIODS, 1))


def only(kind: int, number: int, count: int) -> tuple[float, ...]:
    """Densities of a slide with marks of one kind, from 1, or of none for 0; they rise from slide 1 to `count`."""
    density = _MIN_DENSITY + (MAX_DENSITY - _MIN_DENSITY) * number / count
    return tuple(density if other == kind else 0.0 for other in range(1, len(PERIODS) + 1))


def run_study(folder: Path, settings: Settings) -> list[Run]:
    """Train and test all nets; what was found, and weights, go into the folder."""
    started = time.perf_counter()
    slides = store_slides(folder / "slides", settings)
    print(f"slides written in {time.perf_counter() - started:.0f} s to {folder / 'slides'}", flush=True)
    runs = []
    for seed in settings.seeds:
        for depth, size in enumerate(slides.train.sizes, 1):
            runs.append(_run(folder, slides, settings, depth, size, seed))
            print(_line(runs[-1]), flush=True)
            save_runs(folder / RUNS, settings, runs)
    return runs


def _run(folder: Path, slides: Slides, settings: Settings, depth: int, size: int, seed: int) -> Run:
    started = time.perf_counter()
    torch.manual_seed(seed)
    mean, std = channel_statistics(slides.train.arrays[size])
    net = SlideNet(settings.width, depth, mean, std)
    num_slides = settings.schedule.slides_per_call
    streamed = streamplan.compile(
        net, (num_slides, 3, size, size), (size // NUM_BANDS, size), dtype=torch.uint8, batch_norm="resident"
    )
    train_set, tuning_set = ((part.arrays[size], part.labels) for part in (slides.train, slides.tuning))
    trained = train(streamed, train_set, tuning_set, settings.schedule, REGRESSION, seed)
    net.load_state_dict(trained.state)
    recipe = {"width": settings.width, "depth": depth, "mean": mean, "std": std}
    torch.save({"recipe": recipe, "state": trained.state}, folder / f"weights_{size}_seed_{seed}.pt")
    predictions, negative, *positive = (
        predict(streamed, part.arrays[size], num_slides) for part in (slides.test, slides.negative, *slides.positive)
    )
    return Run(
        size,
        NUM_LAYERS[depth],
        seed,
        correlation(predictions, slides.test.labels),
        correlation(_visible(slides.test, size), slides.test.labels),
        tuple(area_under_curve(found, negative) for found in positive),
        trained.losses,
        trained.scores,
        time.perf_counter() - started,
    )


def _visible(slides: SlideSet, size: int) -> list[float]:
    """For each slide, the sum of the densities that averaging to this size leaves."""
    factor = max(slides.sizes) // size
    return [
        sum(density for density, period in zip(densities, PERIODS, strict=True) if period > factor)
        for densities in slides.densities
    ]


def load_net(path: Path) -> SlideNet:
    """A net of a study, from the file of its weights."""
    stored = torch.load(path, weights_only=True)
    net = SlideNet(**stored["recipe"])
    net.load_state_dict(stored["state"])
    return net.eval()


def _line(run: Run) -> str:
    areas = ", ".join(f"{area:.3f}" for area in run.areas)
    return (
        f"seed {run.seed}  {run.size:5} x {run.size:<5} {run.num_layers} layers  Spearman {run.correlation:6.3f}"
        f" (at most {run.ceiling:.3f})  AUC by kind {areas}  {run.seconds:.0f} s"
    )


def table(runs: Sequence[Run]) -> str:
    """Means over seeds, and the range, as Markdown."""
    kinds = " | ".join(f"AUC, marks of {period} px" for period in PERIODS)
    lines = [
        f"| input size | layers | Spearman's correlation, mean (range) | at most | {kinds} |",
        "|---|---|---|---|" + "---|" * len(PERIODS),
    ]
    for size in sorted({run.size for run in runs}):
        same = [run for run in runs if run.size == size]
        found = [run.correlation for run in same]
        areas = [sum(run.areas[kind] for run in same) / len(same) for kind in range(len(PERIODS))]
        lines.append(
            f"| {size} x {size} | {same[0].num_layers} | {sum(found) / len(found):.3f}"
            f" ({min(found):.3f} to {max(found):.3f}) | {same[0].ceiling:.3f} | "
            + " | ".join(f"{area:.3f}" for area in areas)
            + " |"
        )
    return "\n".join(lines)
