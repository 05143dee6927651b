"""Training and prediction, tile by tile: Adam, mini-batches by accumulation, one label per slide."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu, spearmanr
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

import streamplan
from slide_study.stored import Batch, draw_turns


@dataclass(frozen=True)
class Schedule:
    """How a net is trained; in the paper 16 slides, 1e-4 and 0.99, until convergence."""

    num_epochs: int
    num_accumulated: int = 2
    """Calls whose gradients make one step of the optimiser."""
    slides_per_call: int = 4
    """Over which BatchNorm takes its statistics."""
    learning_rate: float = 1e-3
    decay: float = 0.9
    """Of the learning rate, per epoch."""

    @property
    def batch_size(self) -> int:
        """Slides per step of the optimiser."""
        return self.num_accumulated * self.slides_per_call


@dataclass(frozen=True)
class Task:
    """What is learned."""

    loss: Callable[[Tensor, Tensor], Tensor]
    """Of predictions and labels, both (slides, 1)."""
    score: Callable[[Sequence[float], Sequence[float]], float]
    """Of predictions and labels; the higher the better."""
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Trained:
    """What training gave."""

    state: dict[str, Any]
    """Weights of the epoch with the best tuning score."""
    losses: tuple[float, ...]
    """Mean training loss of each epoch."""
    scores: tuple[float, ...]
    """On the tuning set after each epoch."""


def train(
    streamed: streamplan.StreamedModule,
    train_set: tuple[Any, Sequence[float]],
    tuning_set: tuple[Any, Sequence[float]],
    schedule: Schedule,
    task: Task,
    seed: int,
) -> Trained:
    """Train a streamed net.

    Args:
        streamed: The net; it is left with the weights of the last epoch.
        train_set: Slides (slides, rows, columns, 3) and their labels.
        tuning_set: Likewise; it chooses the epoch whose weights are kept.
        schedule: Its batches divide the training set; what is left over waits for another epoch.
        task: What it is to learn.
        seed: Of the order of slides and of their turns.
    """
    generator = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(streamed.parameters(), lr=schedule.learning_rate, weight_decay=task.weight_decay)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, schedule.decay)
    losses: list[float] = []
    scores: list[float] = []
    best: dict[str, Any] = {}
    for _ in range(schedule.num_epochs):
        losses.append(_train_epoch(streamed, train_set, schedule, task, optimizer, generator))
        if not np.isfinite(losses[-1]):
            raise FloatingPointError(f"the loss of epoch {len(losses)} is {losses[-1]}; a lower learning rate may help")
        scheduler.step()
        scores.append(task.score(predict(streamed, tuning_set[0], schedule.slides_per_call), tuning_set[1]))
        if scores[-1] == max(scores):
            best = copy.deepcopy(streamed.state_dict())
    return Trained(best, tuple(losses), tuple(scores))


def _train_epoch(
    streamed: streamplan.StreamedModule,
    train_set: tuple[Any, Sequence[float]],
    schedule: Schedule,
    task: Task,
    optimizer: torch.optim.Optimizer,
    generator: np.random.Generator,
) -> float:
    """One pass over the slides; its mean loss."""
    array, labels = train_set
    streamed.train()
    order = generator.permutation(array.shape[0]).tolist()
    losses = []
    for start in range(0, len(order) - schedule.batch_size + 1, schedule.batch_size):
        optimizer.zero_grad()
        for call in range(schedule.num_accumulated):
            first = start + call * schedule.slides_per_call
            numbers = order[first : first + schedule.slides_per_call]
            batch = Batch(array, numbers, draw_turns(len(numbers), generator))
            prediction = streamed(streamplan.Source(batch, "HWC", batch=True))
            target = torch.tensor([[labels[number]] for number in numbers])
            loss = task.loss(prediction, target)
            (loss / schedule.num_accumulated).backward()
            losses.append(loss.item())
        optimizer.step()
    return float(np.mean(losses))


def predict(streamed: streamplan.StreamedModule, array: Any, slides_per_call: int) -> list[float]:
    """The predictions for all slides of an array (slides, rows, columns, 3), in eval mode."""
    streamed.eval()
    found: list[float] = []
    for first in range(0, array.shape[0], slides_per_call):
        batch = Batch(array, range(first, min(first + slides_per_call, array.shape[0])))
        found += streamed.predict(streamplan.Source(batch, "HWC", batch=True))[:, 0].tolist()
    return found


def correlation(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """Spearman's rank-order correlation; 0 where all predictions are alike, which is where it is not defined."""
    if len(set(predictions)) < 2:
        return 0.0
    return float(spearmanr(predictions, labels).statistic)


def area_under_curve(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Area under the ROC curve: how often a positive slide is predicted higher than a negative one."""
    statistic = mannwhitneyu(positive, negative).statistic
    return float(statistic) / (len(positive) * len(negative))


def _area_by_label(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """The same for slides labelled 1 and 0."""
    pairs = list(zip(predictions, labels, strict=True))
    return area_under_curve([p for p, label in pairs if label], [p for p, label in pairs if not label])


REGRESSION = Task(huber_loss, correlation)
"""As the paper for TUPAC16: Huber loss with delta 1."""
CLASSIFICATION = Task(binary_cross_entropy_with_logits, _area_by_label, weight_decay=1e-6)
"""As the paper for CAMELYON17: weight decay in the place of BatchNorm. Its loss is not named."""
