"""The paper's first experiment: does a net train the same, streamed and conventionally, from one initialisation?

    pip install 'streamplan[demo,plot]'
    python examples/imagenette.py --quick
    python examples/imagenette.py --data imagenette2-320 --folder demo-output

Source: Pinckaers, van Ginneken and Litjens, "Streaming convolutional neural networks for end-to-end learning with
multi-megapixel images", 2020: table 1 and the section "Experiments on ImageNette". Without --data the images are
photographs that ship with scikit-image. The script prints a table, and writes two figures and the losses of every step.
docs/imagenette.md tells what came out.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice, product, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from imagenette_figures import save_curves, save_differences
from imagenette_images import Images, batches, photographs, read_folder, tuning_batches
from torch import Tensor, nn

import streamplan
from streamplan.errors import StreamPlanError

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-6
"""The paper's, for stochastic gradient descent; it names no momentum."""
DTYPES = {"float32": torch.float32, "float64": torch.float64}
PARTED = 1e-3
"""Two curves part at the first step whose losses differ by more than this, relative to the conventional one."""


# ------------------------------------------------------------------------------------------------------------- the net


class PaperNet(nn.Module):
    """The net of table 1: five blocks of a convolution and a max-pool, and a fully connected layer.

    The table names neither padding nor activations. Here convolutions keep the extent, as in the notebook that the
    authors published, and are followed by ReLU, for which He et al. (2015) made their initialisation.

    Args:
        extent: Rows and columns of the image in samples, a multiple of 160.
        num_classes: Outputs.
    """

    def __init__(self, extent: int = 320, num_classes: int = 10) -> None:
        super().__init__()
        channels, pools = (3, 16, 32, 64, 128, 256), (2, 2, 2, 2, 10)
        blocks = [
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(pool))
            for inputs, outputs, pool in zip(channels[:-1], channels[1:], pools, strict=True)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels[-1] * (extent // math.prod(pools)) ** 2, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, 3, extent, extent)."""
        logits: Tensor = self.classifier(self.blocks(x).flatten(1))
        return logits


def initialised_net(extent: int, num_classes: int, seed: int) -> PaperNet:
    """A float64 net with the initialisation of He et al. (2015); float32 nets start from its numbers, rounded."""
    generator = torch.Generator().manual_seed(seed)
    net = PaperNet(extent, num_classes).double()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.bias)
    return net


# --------------------------------------------------------------------------------------------- ways to compute the net


class InHalves(nn.Module):
    """A net on one half of its batch and then on the other: other orders of the same sums, without tiles.

    Args:
        net: From images to logits.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Logits of all images."""
        return torch.cat([self.net(half) for half in x.chunk(2)])


@dataclass(frozen=True)
class Variant:
    """One way to compute the net."""

    num_layers: int = 0
    """Layers of table 1 that are streamed, two for each block; 0 for the conventional net."""
    tile_size: int = 0
    halo: Literal["recompute", "reuse"] = "recompute"
    """Whether tiles compute their halos again, as in the paper, or carry them."""
    is_in_halves: bool = False
    is_main: bool = False
    """Whether it trains for all steps and is drawn; the others train for fewer and are in the table alone."""

    @property
    def title(self) -> str:
        """What it is called in tables and figures."""
        if not self.num_layers:
            return "conventional, batch in halves" if self.is_in_halves else "conventional"
        tiles = f"streamed, {self.num_layers} layers, tiles of {self.tile_size}"
        return f"{tiles}, carried" if self.halo == "reuse" else tiles

    def wrap(self, net: nn.Module, size: tuple[int, ...]) -> nn.Module:
        """The module to train, which shares the net's parameters, for inputs of a size."""
        if self.num_layers:
            last = f"blocks.{self.num_layers // 2 - 1}"
            return streamplan.compile(net, size, self.tile_size, cut=last, halo=self.halo)
        return InHalves(net) if self.is_in_halves else net


REFERENCE = Variant(is_main=True)
PAPERS = Variant(4, 32, is_main=True)
CONTROL = Variant(is_in_halves=True, is_main=True)
VARIANTS = (
    REFERENCE,
    PAPERS,
    CONTROL,
    Variant(4, 32, "reuse"),
    Variant(8, 64),
    Variant(8, 32, "reuse"),
    Variant(10, 96, "reuse"),
)


# ------------------------------------------------------------------------------------------------------------ training


@dataclass(frozen=True)
class Form:
    """How much is trained."""

    extent: int = 320
    """Rows and columns of the images in samples."""
    batch_size: int = 32
    steps: tuple[int, int] = (60, 12)
    """Steps of the main variants in float32 and in float64, which takes about three times as long."""
    steps_of_others: tuple[int, int] = (10, 3)
    """Steps of the other variants, if the main ones take as many."""
    tuning_every: int = 10
    """Steps from one look at the tuning set to the next."""
    seed: int = 0
    """Of the initialisation, of the order of the images and of their crops."""
    device: str = "cpu"

    def num_steps(self, dtype: str, is_main: bool) -> int:
        """Steps of a variant."""
        index = list(DTYPES).index(dtype)
        return self.steps[index] if is_main else min(self.steps_of_others[index], self.steps[index])


QUICK = Form(batch_size=2, steps=(5, 5), steps_of_others=(2, 2), tuning_every=5)


@dataclass(frozen=True)
class Run:
    """What one training leaves behind."""

    title: str
    dtype: str
    losses: tuple[float, ...]
    """Of every step, before its update."""
    tuning: tuple[tuple[int, float, float], ...]
    """After how many steps; mean loss and share of right answers on the tuning set."""
    parameters: dict[int, Tensor]
    """After how many steps; all parameters, one after the other."""
    seconds_per_step: float


def train(model: nn.Module, images: Images, form: Form, dtype: str, num_steps: int) -> Run:
    """Train a model, plain or streamed: this function cannot tell which.

    Returns:
        The run, without a title.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    stops = {num_steps, form.num_steps(dtype, is_main=False), min(form.steps)}
    losses, tuning, parameters, seconds = [], [], {}, 0.0
    for pixels, labels in islice(batches(images.training, form.batch_size, form.extent, form.seed), num_steps):
        start = time.perf_counter()
        loss = F.cross_entropy(model(pixels.to(form.device, DTYPES[dtype])), labels.to(form.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds += time.perf_counter() - start
        if len(losses) in stops:
            parameters[len(losses)] = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        if len(losses) % form.tuning_every == 0:
            tuning.append((len(losses), *evaluate(model, images, form, dtype)))
    return Run("", dtype, tuple(losses), tuple(tuning), parameters, seconds / num_steps)


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, form: Form, dtype: str) -> tuple[float, float]:
    """Mean loss and share of right answers on the tuning set."""
    loss, num_right, num_images = 0.0, 0, 0
    for pixels, labels in tuning_batches(images.tuning, form.batch_size, form.extent):
        logits = model(pixels.to(form.device, DTYPES[dtype])).cpu()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        num_right += int((logits.argmax(1) == labels).sum())
        num_images += len(labels)
    return loss / num_images, num_right / num_images


def run_variant(dtype: str, variant: Variant, images: Images, form: Form) -> Run:
    """Train one variant from the initialisation that all share."""
    net = initialised_net(form.extent, len(images.classes), form.seed).to(form.device, DTYPES[dtype])
    model = variant.wrap(net, (form.batch_size, 3, form.extent, form.extent))
    run = train(model, images, form, dtype, form.num_steps(dtype, variant.is_main))
    losses = f"loss {run.losses[0]:.4f} to {run.losses[-1]:.4f}"
    print(f"{dtype}  {variant.title:43}{len(run.losses):3} steps of {run.seconds_per_step:.2f} s, {losses}", flush=True)
    return replace(run, title=variant.title)


def run_all(images: Images, form: Form, num_jobs: int) -> list[Run]:
    """Train all variants in both dtypes, so many at a time, each in a process of its own if it is more than one."""
    dtypes, variants = zip(*product(DTYPES, VARIANTS), strict=True)
    if num_jobs == 1:
        return [run_variant(*job, images, form) for job in zip(dtypes, variants, strict=True)]
    with ProcessPoolExecutor(num_jobs, mp_context=get_context("spawn")) as pool:
        return list(pool.map(run_variant, dtypes, variants, repeat(images), repeat(form)))


# ---------------------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Comparison:
    """How far a run is from the conventional one after as many steps."""

    title: str
    dtype: str
    num_steps: int
    differences: tuple[float, ...]
    """Of the losses, step by step, over the conventional ones."""
    parameters: float
    """Largest difference of a parameter after the last step, over the largest parameter."""

    @property
    def largest_step(self) -> int | None:
        """The step, from 1, with the largest difference; None if no loss differs."""
        return self.differences.index(max(self.differences)) + 1 if any(self.differences) else None

    @property
    def parted_step(self) -> int | None:
        """The first step, from 1, with a difference above `PARTED`; None if there is none."""
        return next((step for step, found in enumerate(self.differences, 1) if found > PARTED), None)


def compare(run: Run, reference: Run) -> Comparison:
    """Compare a run with the conventional one, over the steps that both took."""
    pairs = list(zip(run.losses, reference.losses, strict=False))
    found, expected = (one.parameters[len(pairs)].double() for one in (run, reference))
    return Comparison(
        run.title,
        run.dtype,
        len(pairs),
        differences=tuple(abs(loss - conventional) / abs(conventional) for loss, conventional in pairs),
        parameters=float((found - expected).abs().max() / expected.abs().max()),
    )


def print_table(comparisons: Sequence[Comparison]) -> None:
    """One line for each comparison; differences are relative."""
    print(f"\n{'':59}{'difference of the loss':^42}{'':9}{'parameters':>12}")
    print(f"{'':52}{'steps':>7}{'first':>12}{'last':>10}{'largest':>10}{'at step':>10}{'parted':>9}{'at the end':>12}")
    for one in comparisons:
        losses = (one.differences[0], one.differences[-1], max(one.differences))
        largest_step, parted_step = (step or "-" for step in (one.largest_step, one.parted_step))
        print(
            f"{one.dtype:9}{one.title:43}{one.num_steps:7}{losses[0]:12.1e}{losses[1]:10.1e}{losses[2]:10.1e}"
            f"{largest_step:>10}{parted_step:>9}{one.parameters:12.1e}"
        )


def save(folder: Path, form: Form, runs: Sequence[Run], comparisons: Sequence[Comparison]) -> None:
    """Write two figures, and every number as JSON."""
    drawn = [run for run in runs if run.title in {REFERENCE.title, PAPERS.title}]
    save_curves(
        folder / "imagenette-curves.png",
        {
            dtype: {run.title: (run.losses, [point[:2] for point in run.tuning]) for run in drawn if run.dtype == dtype}
            for dtype in DTYPES
        },
    )
    save_differences(
        folder / "imagenette-difference.png",
        {(one.dtype, one.title): one.differences for one in comparisons if one.title in {PAPERS.title, CONTROL.title}},
        PARTED,
    )
    numbers = {
        "form": asdict(form),
        "runs": [{name: value for name, value in asdict(run).items() if name != "parameters"} for run in runs],
        "comparisons": [asdict(one) for one in comparisons],
    }
    (folder / "imagenette.json").write_text(json.dumps(numbers, indent=1), encoding="utf-8")


def positive(text: str) -> int:
    """A number of steps or images."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="batches of 2 and a few steps: some 20 s on one core")
    parser.add_argument("--data", type=Path, help="folder/class/image.jpg, or folder/train/class and folder/val/class")
    parser.add_argument("--folder", type=Path, default=Path("demo-output"), help="where figures and numbers go")
    parser.add_argument(
        "--steps", type=positive, nargs=2, metavar=("FLOAT32", "FLOAT64"), help="steps of the drawn curves"
    )
    parser.add_argument("--extent", type=int, choices=range(320, 1921, 160), metavar="N", help="320, 480, ...")
    parser.add_argument("--batch-size", type=positive, help="images in a batch")
    parser.add_argument("--seed", type=int, help="of initialisation, order and crops")
    parser.add_argument("--jobs", type=positive, default=1, help="variants trained at a time; set OMP_NUM_THREADS, too")
    parser.add_argument("--device", help="cpu or cuda")
    return parser.parse_args()


def main() -> None:
    """Train every variant in both dtypes, compare, draw."""
    arguments = parse_arguments()
    names = ("steps", "extent", "batch_size", "seed", "device")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    form = replace(QUICK if arguments.quick else Form(), **given)
    try:
        images = read_folder(arguments.data) if arguments.data else photographs()
        num_training, num_tuning = len(images.training), len(images.tuning)
        print(f"{num_training} images to train on, {num_tuning} for tuning, {len(images.classes)} classes", flush=True)
        runs = run_all(images, form, arguments.jobs)
    except StreamPlanError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    references = {run.dtype: run for run in runs if run.title == REFERENCE.title}
    narrow = replace(references["float32"], title="conventional, from float64")
    comparisons = [compare(run, references[run.dtype]) for run in runs if run is not references[run.dtype]]
    comparisons.append(compare(narrow, references["float64"]))
    print_table(comparisons)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    save(arguments.folder, form, runs, comparisons)


if __name__ == "__main__":
    main()
