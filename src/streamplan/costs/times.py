"""How long single calls take, forward and backward.

calibrated      convolutions by their own measured speed, the rest by the bytes it moves, and a little for every call
otherwise       FLOPs alone, a backward pass counting twice: ratios, no seconds
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamplan.costs.calibration import Calibration
from streamplan.costs.speeds import byte_speed, call_seconds, convolution_speeds
from streamplan.ir import INPUT, Graph, OpCall, TensorSpec

_BACKWARD_FLOPS = 2
"""Of a call with a weight, as a multiple of its forward FLOPs."""
_BACKWARD_BYTES = 1.5
"""Moved by the backward pass of an elementwise call, as a multiple of what its forward pass moves."""
_VIEWS = frozenset("view flatten reshape permute transpose squeeze unsqueeze expand detach dropout identity".split())


@dataclass(frozen=True)
class CallTime:
    """Seconds of a call at full size, or FLOPs."""

    forward: float
    backward: float


ByteSize = Callable[[OpCall], float]
"""Bytes of the map that a call computes at once."""


class Clock:
    """Tells times of calls.

    Args:
        calibration: What was measured.
        graphs: Nets to tell times of; with speeds for all their convolutions, times are seconds.
    """

    def __init__(self, calibration: Calibration, graphs: Iterable[tuple[Graph, bool]]) -> None:
        self._calibration = calibration
        known = [
            speed
            for graph, is_channels_last in graphs
            for call in graph.calls
            if (source := _convolved(graph, call)) is not None
            for speed in convolution_speeds(calibration, call, source, is_channels_last=is_channels_last)
        ]
        known += [byte_speed(calibration, 1), *call_seconds(calibration)]
        self.is_calibrated = all(speed is not None for speed in known)
        """Whether times are seconds."""
        speeds = [speed for speed in known[:-3] if speed is not None]
        self._usual = sum(speeds) / len(speeds) if speeds else 0.0

    def call_seconds(self) -> CallTime:
        """What every call takes whatever its size."""
        forward, backward = call_seconds(self._calibration) if self.is_calibrated else (0.0, 0.0)
        return CallTime(forward or 0.0, backward or 0.0)

    def byte_seconds(self, num_bytes: float) -> float:
        """What moving a byte of a map of some size takes."""
        speed = byte_speed(self._calibration, num_bytes) if self.is_calibrated else None
        return speed or 0.0

    def time(self, graph: Graph, call: OpCall, size: ByteSize, *, is_channels_last: bool) -> CallTime:
        """The time of a call at full size, computed in pieces of some size."""
        if not self.is_calibrated:
            return CallTime(call.flops, _BACKWARD_FLOPS * call.flops)
        source = _convolved(graph, call)
        if source is not None:
            forward, backward = convolution_speeds(self._calibration, call, source, is_channels_last=is_channels_last)
            return CallTime(call.flops * (forward or 0.0), call.flops * (backward or 0.0))
        if call.flops:
            return CallTime(call.flops * self._usual, call.flops * self._usual)
        seconds = moved_bytes(graph, call) * self.byte_seconds(size(call))
        return CallTime(seconds, _BACKWARD_BYTES * seconds)


def moved_bytes(graph: Graph, call: OpCall) -> int:
    """Bytes that a call without FLOPs reads and writes at full size."""
    if call.op in _VIEWS or call.op == INPUT or call.output is None:
        return 0
    read = sum(spec.num_bytes for name in call.inputs if (spec := graph[name].output) is not None)
    return read + call.output.num_bytes


def _convolved(graph: Graph, call: OpCall) -> TensorSpec | None:
    """What a convolution with FLOPs reads; None for other calls."""
    if call.op not in ("conv", "conv_transpose") or not call.flops or not call.inputs:
        return None
    return graph[call.inputs[0]].output
