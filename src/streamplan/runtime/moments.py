"""Mean and variance per channel, pooled block by block.

A block gives its count n, its mean m and the sum M of its squared deviations from its own mean, in float64. Two blocks
together (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance"), with d = m2 - m1:

    n = n1 + n2        m = m1 + d n2 / n        M = M1 + M2 + d^2 n1 n2 / n

Nothing is subtracted that is much larger than the result, unlike in E[x^2] - m^2: values around 10,000 with a standard
deviation of 0.01 keep ten digits of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and spread of all values seen so far, per channel."""

    count: int
    """Values per channel."""
    mean: Tensor
    """Their mean, in float64."""
    deviation: Tensor
    """Sum of their squared deviations from it, in float64."""

    @classmethod
    def of(cls, x: Tensor, kept: Sequence[int]) -> Moments:
        """Those of one block.

        Args:
            x: The block, with at least one value per channel.
            kept: Dimensions that tell channels apart; values are pooled over all others, of which there is at least
                one.
        """
        pooled = [dim for dim in range(x.dim()) if dim not in kept]
        count = math.prod(x.shape[dim] for dim in pooled)
        mean = x.sum(pooled, dtype=torch.float64, keepdim=True) / count
        deviation = (x - mean).square_().sum(pooled)  # several times as fast as torch.var_mean on a CPU
        return cls(count, mean.reshape(deviation.shape), deviation)

    def merged(self, other: Moments) -> Moments:
        """Those of both together."""
        count = self.count + other.count
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        between = difference.square() * (self.count * (other.count / count))
        return Moments(count, mean, self.deviation + other.deviation + between)

    @property
    def variance(self) -> Tensor:
        """Mean squared deviation: divided by `count`, not by one less."""
        return self.deviation / self.count

    @property
    def std(self) -> Tensor:
        """Its square root."""
        return self.variance.sqrt()


class Pools:
    """Moments by name, to which blocks are added."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.moments: dict[str, Moments] = {}

    def add(self, name: str, moments: Moments) -> None:
        """Add those of one more block."""
        known = self.moments.get(name)
        self.moments[name] = moments if known is None else known.merged(moments)
