"""The Pareto front: the candidates that no other one beats in both memory and time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from streamplan.costs.candidates import Candidate
from streamplan.costs.estimator import Estimate


@dataclass(frozen=True)
class FrontPoint:
    """A candidate with its estimate."""

    candidate: Candidate
    estimate: Estimate


def pareto_front(points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    """From the fastest, which takes most memory, to the one that takes least; of equals the first."""
    front: list[FrontPoint] = []
    for point in sorted(points, key=lambda point: (point.estimate.time, point.estimate.peak_bytes)):
        if not front or point.estimate.peak_bytes < front[-1].estimate.peak_bytes:
            front.append(point)
    return tuple(front)
