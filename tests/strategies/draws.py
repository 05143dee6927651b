"""Draws single operations and short runs of them, valid for the size they are given.

All functions take hypothesis' `draw` and a `Signal` and are called from composite strategies. Where a function takes
`target`, it draws an operation whose output has exactly these extents: joins draw one arm freely and aim the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.strategies.axis import Window, conv_windows, pool_windows
from tests.strategies.ops import ACTS, Act, AvgPool, Conv, Dropout, MaxPool, Norm, Spelling
from tests.strategies.recipe import Head, Node, Recipe, Signal
from tests.strategies.sequence import Chain

T = TypeVar("T")

_SPELLINGS: tuple[Spelling, ...] = ("module", "function")
Extents = tuple[int, ...]

LARGEST = {1: 64, 2: 40, 3: 14}
"""Largest extent per number of dimensions; operations that pad do not go beyond it either."""

SMALLEST = {1: 4, 2: 3, 3: 2}
"""Smallest extent of an input."""

ENDURING = ("sigmoid", "elu", "hardswish", "leaky_relu", "silu", "tanh", "prelu", "relu")
"""Activations that may follow anything."""


def draw_input(draw: DrawFn, ndims: Sequence[int]) -> Signal:
    """Draws dimensions, extents and channels of a net's input."""
    ndim = draw(st.sampled_from(ndims))
    extents = draw(st.tuples(*[st.integers(SMALLEST[ndim], LARGEST[ndim])] * ndim))
    return Signal(draw(st.integers(1, 4)), extents)


def draw_recipe(
    draw: DrawFn, family: str, signal: Signal, body: Node, with_head: bool = True, least_batch: int = 1
) -> Recipe:
    """Draws what a net has around its body: batch, perhaps a head, seed."""
    head = None
    if with_head and draw(st.booleans()):
        head = Head(draw(st.integers(1, 3)), draw(st.sampled_from(["module", "function", "mean"])))
    batch, seed = draw(st.integers(least_batch, 2)), draw(st.integers(0, 999))
    return Recipe(family, batch, signal.channels, signal.extents, body, head, seed)


def draw_strides(draw: DrawFn, signal: Signal, largest: int = 3) -> Extents:
    """Draws one stride per axis, none so large that almost nothing is left of a small extent."""
    return tuple(draw(st.integers(1, max(1, min(largest, n // 3)))) for n in signal.extents)


def per_axis(draw: DrawFn, signal: Signal, options: Callable[[int], Sequence[T]]) -> list[T]:
    """Draws from `options(axis)` for each axis."""
    return [draw(st.sampled_from(options(axis))) for axis in range(signal.ndim)]


def draw_conv(
    draw: DrawFn,
    signal: Signal,
    *,
    strides: Extents | None = None,
    target: Extents | None = None,
    channels: int | None = None,
) -> Conv:
    """Draws a convolution.

    Args:
        draw: Hypothesis' draw function.
        signal: Size of the input.
        strides: Stride per axis; drawn if None.
        target: Output extents; anything valid if None.
        channels: Output channels; 1 to 4 if None.
    """
    strides = draw_strides(draw, signal) if strides is None else strides
    channels = draw(st.integers(1, 4)) if channels is None else channels
    groups = draw(st.sampled_from(_common_divisors(signal.channels, channels)))
    bias = draw(st.booleans())
    spelling = draw(st.sampled_from(_SPELLINGS))
    if _may_be_same(signal, strides, target) and draw(st.integers(0, 3)) == 3:
        kernel, dilation = zip(*[(draw(st.integers(1, 5)), draw(st.integers(1, 2))) for _ in strides], strict=True)
        return Conv(channels, kernel, strides, "same", dilation, groups, bias, spelling)
    dilations = draw(st.sampled_from([(1,), (1,), (1, 2)]))
    most = LARGEST[signal.ndim]

    def options(axis: int) -> list[Window]:
        goal = None if target is None else target[axis]
        fitting = [
            conv_windows(signal.extents[axis], strides=(strides[axis],), dilations=allowed, target=goal, most=most)
            for allowed in (dilations, (1, 2))
        ]
        return fitting[0] or fitting[1]  # an odd target may need dilation

    windows = per_axis(draw, signal, options)
    kernel, stride, padding, dilation = zip(*windows, strict=True)
    return Conv(channels, kernel, stride, padding, dilation, groups, bias, spelling)


def _may_be_same(signal: Signal, strides: Extents, target: Extents | None) -> bool:
    return set(strides) == {1} and target in (None, signal.extents)


def _common_divisors(a: int, b: int) -> list[int]:
    shared = math.gcd(a, b)
    return [d for d in range(1, shared + 1) if shared % d == 0]


def draw_pool(
    draw: DrawFn, signal: Signal, *, strides: Extents | None = None, target: Extents | None = None
) -> MaxPool | AvgPool | None:
    """Draws a max or average pool; None if no pool leads to `target`."""
    strides = draw_strides(draw, signal) if strides is None else strides
    most = LARGEST[signal.ndim]
    is_max = draw(st.booleans())
    # torch refuses a 3-D average pool whose kernel is larger than the input, although padding would make it fit.
    fits_unpadded = signal.ndim == 3 and not is_max
    choices: list[tuple[bool, list[list[Window]]]] = []
    for ceil_mode in (False, True):
        axes = [
            [
                w
                for w in pool_windows(n, ceil_mode=ceil_mode, strides=(s,), target=goal, most=most)
                if w.kernel <= n or not fits_unpadded
            ]
            for n, s, goal in zip(signal.extents, strides, target or (None,) * signal.ndim, strict=True)
        ]
        if all(axes):
            choices.append((ceil_mode, axes))
    if not choices:
        return None
    ceil_mode, axes = draw(st.sampled_from(choices))
    kernel, stride, padding, _ = zip(*per_axis(draw, signal, lambda a: axes[a]), strict=True)
    spelling = draw(st.sampled_from(_SPELLINGS))
    if is_max:
        return MaxPool(kernel, stride, padding, ceil_mode, spelling)
    return AvgPool(kernel, stride, padding, ceil_mode, draw(st.booleans()), spelling)


def draw_windowed(
    draw: DrawFn, signal: Signal, *, strides: Extents | None = None, target: Extents | None = None
) -> Conv | MaxPool | AvgPool:
    """Draws a convolution (two times in three) or a pool."""
    if draw(st.integers(0, 2)) == 2:
        pool = draw_pool(draw, signal, strides=strides, target=target)
        if pool is not None:
            return pool
    return draw_conv(draw, signal, strides=strides, target=target)


def draw_act(draw: DrawFn, is_fresh: bool) -> Act:
    """Draws an activation; one that works in place only where nobody else needs its input (`is_fresh`)."""
    kind = draw(st.sampled_from((*ENDURING, "relu_", "relu_") if is_fresh else ENDURING))
    return Act(kind, draw(st.sampled_from(ACTS[kind])))


def draw_pointwise(draw: DrawFn, before: Node | None) -> list[Node]:
    """Draws what may stand between two windows: perhaps a norm, an activation, a dropout.

    Args:
        draw: Hypothesis' draw function.
        before: What the first of them reads and nothing else does; None if others may read it too.
    """
    ops: list[Node] = []
    if draw(st.booleans()):
        ops.append(Norm(draw(st.booleans()), draw(st.sampled_from(_SPELLINGS))))
    if draw(st.integers(0, 3)) > 0:
        last = ops[-1] if ops else before
        ops.append(draw_act(draw, is_fresh=last is not None and last.is_fresh))
    if draw(st.integers(0, 7)) == 7:
        ops.append(Dropout())
    return ops


def draw_unit(
    draw: DrawFn, signal: Signal, *, strides: Extents | None = None, target: Extents | None = None
) -> list[Node]:
    """Draws one windowed operation and the pointwise ones around it, behind or (pre-activation) before it."""
    op = draw_windowed(draw, signal, strides=strides, target=target)
    if draw(st.integers(0, 3)) == 3:
        return [*draw_pointwise(draw, None), op]
    return [op, *draw_pointwise(draw, op)]


def draw_path(
    draw: DrawFn,
    signal: Signal,
    num_units: int,
    *,
    strides: Extents | None = None,
    target: Extents | None = None,
    channels: int | None = None,
) -> Chain:
    """Draws a chain of units: one of them, anywhere, takes the strides, all others keep extents.

    Args:
        draw: Hypothesis' draw function.
        signal: Size of the input.
        num_units: At least 1.
        strides: Stride of the whole path per axis; 1 if None.
        target: Output extents; what the strided unit happens to lead to if None.
        channels: Output channels, made by a convolution at the end; what the units happen to lead to if None.
    """
    ones = (1,) * signal.ndim
    strided = draw(st.integers(0, num_units - 1))
    ops: list[Node] = []
    for i in range(num_units):
        here = Chain(tuple(ops)).after(signal)
        step = (strides or ones) if i == strided else ones
        goal = target if i == strided else here.extents
        if i == num_units - 1 and channels is not None:
            ops += draw_pointwise(draw, ops[-1] if ops else None)
            ops.append(draw_conv(draw, here, strides=step, target=goal, channels=channels))
        else:
            ops += draw_unit(draw, here, strides=step, target=goal)
    return Chain(tuple(ops))
