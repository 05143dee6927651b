"""Medians, spreads and ratios of samples.

A ratio to plain is the median of the ratios within a repeat, whose two runs were neighbours in time: a machine that is
slower for a while then slows both. `summarize([1.0, 2.0, 6.0])` is 2.0 with a spread of 1.0 to 6.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Summary:
    """A median with its spread."""

    median: float
    min: float
    max: float
    num_samples: int


def summarize(samples: Sequence[float]) -> Summary | None:
    """The summary of samples; None if there are none."""
    return Summary(median(samples), min(samples), max(samples), len(samples)) if samples else None


def paired_ratio(samples: dict[int, float], plain: dict[int, float]) -> Summary | None:
    """The ratio to plain over the repeats that have both, each by its number."""
    return summarize([samples[repeat] / plain[repeat] for repeat in sorted(samples.keys() & plain.keys())])
