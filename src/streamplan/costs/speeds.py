"""How fast a device computes: a few short measurements, from which times of whole steps are added up.

convolution     seconds per FLOP, by channels, kernel, stride and memory order, forward and backward: they differ
                by a factor of ten, the extents of the map hardly matter
bytes           seconds per byte that an elementwise operation moves, in cache and out of it
call            seconds per call of an operation whatever its size, forward and backward
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from streamplan.costs.calibration import Calibration
from streamplan.ir import OpCall, TensorSpec

SMALL_BYTES = 2**20
"""A map of which every byte is still in the cache when the next operation reads it."""
LARGE_BYTES = 2**26
_MAP_BYTES = 2**22
"""Of the larger map of a convolution that is timed."""
_REPEATS = 5
_WAYS = ("forward", "backward")


def convolution_key(call: OpCall, source: TensorSpec, *, is_channels_last: bool) -> str:
    """A convolution by all that its speed depends on but the extents."""
    settings = call.arguments
    kernel, stride, dilation = ("x".join(map(str, settings[name])) for name in ("kernel_size", "stride", "dilation"))
    channels = f"{source.shape[1]}->{call.output.shape[1] if call.output else 0}"
    order = "channels last" if is_channels_last else "contiguous"
    dtype = str(source.dtype).removeprefix("torch.")
    return f"{call.op} {channels} {kernel}/{stride} dilation {dilation} groups {settings['groups']} {dtype} {order}"


def convolution_speeds(
    calibration: Calibration, call: OpCall, source: TensorSpec, *, is_channels_last: bool
) -> tuple[float | None, float | None]:
    """Seconds per forward FLOP of a convolution, forward and backward; None if not known."""
    key = convolution_key(call, source, is_channels_last=is_channels_last)

    def measure() -> dict[str, float]:
        timed = _time_convolution(call, source, calibration.device, is_channels_last=is_channels_last)
        return {f"{key} {way}": seconds for way, seconds in zip(_WAYS, timed, strict=True)}

    forward, backward = (calibration.speed(f"{key} {way}", measure) for way in _WAYS)
    return forward, backward


def byte_speed(calibration: Calibration, num_bytes: float) -> float | None:
    """Seconds per byte moved, for a map of a size: between small and large ones in proportion to its logarithm."""

    def measure(size: int) -> dict[str, float]:
        return {f"bytes {size}": _time_bytes(size, calibration.device)}

    small = calibration.speed(f"bytes {SMALL_BYTES}", lambda: measure(SMALL_BYTES))
    large = calibration.speed(f"bytes {LARGE_BYTES}", lambda: measure(LARGE_BYTES))
    if small is None or large is None:
        return None
    share = math.log(max(1.0, num_bytes) / SMALL_BYTES) / math.log(LARGE_BYTES / SMALL_BYTES)
    return small + (large - small) * min(1.0, max(0.0, share))


def call_seconds(calibration: Calibration) -> tuple[float | None, float | None]:
    """Seconds that any call of an operation takes, forward and backward."""

    def measure() -> dict[str, float]:
        return {f"call {way}": seconds for way, seconds in zip(_WAYS, _time_calls(calibration.device), strict=True)}

    forward, backward = (calibration.speed(f"call {way}", measure) for way in _WAYS)
    return forward, backward


def _time_convolution(
    call: OpCall, source: TensorSpec, device: torch.device, *, is_channels_last: bool
) -> tuple[float, float]:
    """Seconds per FLOP on a map of a few MiB."""
    settings, output = call.arguments, call.output
    assert output is not None
    axes = len(source.shape) - 2
    is_transposed = call.op == "conv_transpose"
    kernel, stride, groups = settings["kernel_size"], settings["stride"], settings["groups"]
    growth = math.prod(output.shape[2:]) / math.prod(source.shape[2:])
    per_position = max(source.shape[1], output.shape[1] * growth) * source.dtype.itemsize
    extent = max(4 * max(kernel), round((_MAP_BYTES / per_position) ** (1 / axes)))
    order = {2: torch.channels_last, 3: torch.channels_last_3d}.get(axes) if is_channels_last else None
    order = order or torch.contiguous_format
    size = (1, source.shape[1], *(extent,) * axes)
    x = _random(size, source.dtype, device).contiguous(memory_format=order).requires_grad_()
    of_group = (output.shape[1] // groups, source.shape[1] // groups)
    shape = (source.shape[1], of_group[0], *kernel) if is_transposed else (output.shape[1], of_group[1], *kernel)
    weight = _random(shape, source.dtype, device).contiguous(memory_format=order).requires_grad_()
    function = getattr(F, f"conv{'_transpose' if is_transposed else ''}{axes}d")
    padding = tuple(k // 2 for k in kernel)

    def forward() -> Tensor:
        y: Tensor = function(x, weight, stride=stride, padding=padding, dilation=settings["dilation"], groups=groups)
        return y

    y = forward()
    positions = math.prod((x if is_transposed else y).shape[2:])
    flops = 2 * positions * weight.numel()
    return tuple(seconds / flops for seconds in _time_both(forward, torch.ones_like(y), device))  # type: ignore[return-value]


def _time_bytes(size: int, device: torch.device) -> float:
    """Seconds per byte, reading and writing a map of a size."""
    x = torch.ones(size // 4, device=device)
    seconds = _shortest(lambda: x.mul_(1.0), device, max(1, LARGE_BYTES // size // 4))
    return seconds / (2 * size)


def _time_calls(device: torch.device) -> tuple[float, float]:
    """Seconds per call on maps of no size."""
    x = torch.ones(1, device=device, requires_grad=True)

    def forward() -> Tensor:
        y = x
        for _ in range(50):
            y = y * 1.0
        return y

    forward_seconds, backward_seconds = _time_both(forward, torch.ones(1, device=device), device)
    return forward_seconds / 50, backward_seconds / 50


def _time_both(forward: Callable[[], Tensor], seed: Tensor, device: torch.device) -> tuple[float, float]:
    """Seconds of a forward and of a backward pass."""
    passes = []
    for _ in range(_REPEATS):
        kept: list[Tensor] = []
        first = _seconds(lambda kept=kept: kept.append(forward()), device)  # type: ignore[misc]
        passes.append((first, _seconds(lambda kept=kept: kept[0].backward(seed), device)))  # type: ignore[misc]
    return min(first for first, _ in passes), min(second for _, second in passes)


def _shortest(call: Callable[[], object], device: torch.device, count: int) -> float:
    """Seconds of one of many calls in a row."""

    def calls() -> None:
        for _ in range(count):
            call()

    return min(_seconds(calls, device) for _ in range(_REPEATS)) / count


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device).uniform_(-1, 1)
