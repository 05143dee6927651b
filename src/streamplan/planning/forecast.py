"""What a plan will take: plain data that `streamplan.costs` fills in."""

from __future__ import annotations

from dataclasses import dataclass

from streamplan.planning.projection import MemoryProjection

BENCHMARK_RATIOS = {"calibrated": (0.69, 1.17), "FLOPs": (0.82, 1.37)}
"""Estimated over measured ratios of time: least and most of the benchmark nets of docs/planning.md, on two cores."""


@dataclass(frozen=True)
class TimeEstimate:
    """How long a training step takes."""

    ratio: float
    """Over that of the plain net."""
    seconds: float | None
    """None where nothing was measured on the device."""
    plain_seconds: float | None
    source: str
    """Where the figures come from, in words."""

    @property
    def accuracy(self) -> str:
        """How far such ratios were off where both were known, in words."""
        least, most = BENCHMARK_RATIOS["FLOPs" if self.seconds is None else "calibrated"]
        return f"such ratios were {least:.2f} to {most:.2f} times those measured of six nets on a CPU"


@dataclass(frozen=True)
class CutForecast:
    """What a candidate cut would take with the plan's tiles, halo and number of kept tiles."""

    peak_bytes: int
    """Projected peak; an estimate from shapes but for the chosen cut."""
    recomputation: float
    """FLOPs beyond those of the plain net's forward and backward pass, as a share of these."""
    time_ratio: float
    """Estimated time over that of the plain net."""
    refusal: str = ""
    """Why the plan's tiles are not possible at this cut; "" if they are."""


@dataclass(frozen=True)
class Forecast:
    """What a training step takes, and the plain net's beside it."""

    memory: MemoryProjection
    plain_memory: MemoryProjection
    time: TimeEstimate
    cuts: tuple[CutForecast, ...]
    """In the order of `Plan.cuts`."""
