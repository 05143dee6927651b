"""Family "flavours": what other families leave out, in short nets with joins and several outputs.

Borders of all kinds, slices, resizes, transposed convolutions with gaps, blocks to channels and back, channel shuffles
and partitions, channels-last norms, gates, small tensors, standardised weights and operations in place.

The batch is 2: torch's own BatchNorm has wrong gradients on CPUs where a batch of 1 leaves the order of a permuted
gradient's dimensions in memory open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.strategies.borders import draw_pad, draw_padded_max_pool, draw_slice
from tests.strategies.branches import Branches
from tests.strategies.channelwise import IN_PLACE, InPlace, draw_channelwise, draw_standardized_conv
from tests.strategies.draws import LARGEST, draw_act, draw_conv, draw_input, draw_recipe, draw_unit
from tests.strategies.multi import Container, Multi
from tests.strategies.ops import Conv
from tests.strategies.recipe import Node, Recipe, Signal
from tests.strategies.residual import Residual
from tests.strategies.scaling import (
    draw_depth_to_space,
    draw_interpolated,
    draw_space_to_depth,
    draw_upconv,
)
from tests.strategies.sequence import Chain

_MOST_CHANNELS = 12


def draw_sparse_conv(draw: DrawFn, signal: Signal) -> Conv:
    """Draws a depthwise convolution with dilation, an even kernel, or strides larger than the kernel."""
    kernel, stride, padding, dilation = [], [], [], []
    for n in signal.extents:
        k, d = draw(st.sampled_from([(k, d) for k in (2, 4, 1, 3) for d in (1, 2, 3) if d * (k - 1) < n]))
        kernel.append(k)
        dilation.append(d)
        stride.append(draw(st.integers(1, max(1, min(5, n // 4)))))
        most = min(d * (k - 1), (LARGEST[signal.ndim] - n + d * (k - 1)) // 2)
        padding.append(draw(st.integers(0, max(0, most))))
    channels = signal.channels * draw(st.sampled_from((1, 1, 2)))
    axes = (tuple(kernel), tuple(stride), tuple(padding), tuple(dilation))
    return Conv(channels, *axes, signal.channels, draw(st.booleans()))


_DRAWS = (
    draw_channelwise,
    draw_pad,
    draw_slice,
    draw_interpolated,
    draw_sparse_conv,
    draw_standardized_conv,
    draw_upconv,
    draw_padded_max_pool,
    draw_space_to_depth,
    draw_depth_to_space,
)


def draw_flavour(draw: DrawFn, signal: Signal) -> list[Node]:
    """Draws one operation, perhaps followed by one in place, perhaps beside its input."""
    if signal.channels > _MOST_CHANNELS:
        return [draw_conv(draw, signal, channels=3)]
    kind = draw(st.sampled_from(_DRAWS))
    ops: list[Node] = [kind(draw, signal)]
    if kind is draw_depth_to_space and draw(st.booleans()):
        ops = [draw_conv(draw, signal, strides=(1,) * signal.ndim, target=signal.extents, channels=12)]
        ops.append(draw_depth_to_space(draw, Signal(12, signal.extents)))
    if ops[-1].is_fresh and draw(st.integers(0, 3)) == 3:
        ops.append(InPlace(draw(st.sampled_from(IN_PLACE))))
    elif draw(st.integers(0, 3)) == 3:
        ops.append(draw_act(draw, is_fresh=ops[-1].is_fresh))
    return draw_join(draw, signal, Chain(tuple(ops))) if draw(st.integers(0, 3)) == 3 else ops


def draw_join(draw: DrawFn, signal: Signal, body: Chain) -> list[Node]:
    """Draws what joins `body` with its input: an addition where sizes agree, else a resize and a concatenation."""
    after = body.after(signal)
    if after == signal:
        joins: list[Literal["+", "+=", "torch.add", "*"]] = ["+", "torch.add", "*"]
        return [Residual(body, None, draw(st.sampled_from(joins)))]
    if after.extents != signal.extents:
        body = Chain((*body.parts, draw_interpolated(draw, after, signal.extents)))
    return [Branches((Chain(()), body))]


def draw_run(draw: DrawFn, signal: Signal, most: int) -> Chain:
    """Draws one to `most` flavours with ordinary units between them."""
    ops: list[Node] = []
    for _ in range(draw(st.integers(1, most))):
        here = Chain(tuple(ops)).after(signal)
        ops += draw_unit(draw, here) if draw(st.integers(0, 3)) == 3 else draw_flavour(draw, here)
    return Chain(tuple(ops))


@st.composite
def flavour_nets(draw: DrawFn, ndims: Sequence[int] = (1, 2, 3)) -> Recipe:
    """Runs of flavours behind a convolution, so that every net has a parameter; one in three has several outputs."""
    signal = draw_input(draw, ndims)
    stem = Chain((draw_conv(draw, signal),))
    here = stem.after(signal)
    if draw(st.integers(0, 2)) < 2:
        return draw_recipe(draw, "flavours", signal, Chain((stem, draw_run(draw, here, 5))), least_batch=2)
    stages, taps = [stem], []
    containers: list[Container] = ["tuple", "dict", "list"]
    for i in range(draw(st.integers(2, 3))):
        if i > 0:
            stages.append(draw_run(draw, here, 2))
            here = stages[-1].after(here)
        taps.append(draw_run(draw, here, 1) if draw(st.booleans()) else Chain(()))
    body = Multi(tuple(stages), tuple(taps), draw(st.sampled_from(containers)))
    return draw_recipe(draw, "flavours", signal, body, with_head=False, least_batch=2)
