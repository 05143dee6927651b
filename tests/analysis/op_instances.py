"""Random single operations of every family with windows, and what they read, found by poisoning single samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.rules.spellings import Net


@dataclass(frozen=True)
class Instance:
    """One operation on a map; `axis` is the one looked at."""

    text: str
    build: Callable[[], nn.Module]
    size: tuple[int, ...]
    axis: int
    is_linear: bool = False
    is_dilated: bool = False

    def __repr__(self) -> str:
        return f"{self.text} on {self.size}, axis {self.axis}"


def true_spans(instance: Instance) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """What each output position must be said to read, at least and at most, from first to last.

    NaN in one input position reaches the outputs that read it, whatever their weights. Two leave a choice: where the
    position of a linear resize falls on a sample, rounding decides whose neighbour is read with weight 0; and a dilated
    kernel counts as filled, which at borders and behind strides can be more than its first to its last sample.
    """
    torch.manual_seed(0)
    model = instance.build().double().eval()
    dim, count = 2 + instance.axis, instance.size[2 + instance.axis]
    poisoned = torch.rand(instance.size, dtype=torch.float64)[:1].repeat(count, *(1,) * (len(instance.size) - 1))
    weights = torch.zeros_like(poisoned)
    for i in range(count):
        poisoned[i].select(dim - 1, i).fill_(torch.nan)
        weights[i].select(dim - 1, i).fill_(1.0)
    with torch.no_grad():
        reached = _along(model(poisoned).isnan(), dim)
        if not instance.is_linear:
            exact = [_span(column) for column in reached.T]
            return exact, [(0, count)] * len(exact) if instance.is_dilated else exact
        weighty = _along(model(weights).abs() > 1e-9, dim)
    least = [_span(column) for column in weighty.T]
    return least, [(max(0, start - 1), min(count, stop + 1)) for start, stop in least]


def _along(reached: Tensor, dim: int) -> Tensor:
    """(inputs, outputs) of an axis from (inputs, channels, axes...)."""
    return reached.transpose(1, dim).flatten(2).any(2)


def _span(column: Tensor) -> tuple[int, int]:
    members = column.nonzero()[:, 0].tolist()
    return (members[0], members[-1] + 1) if members else (0, 0)


@st.composite
def convolutions(draw: DrawFn) -> Instance:
    n, k, s, d = draw(st.integers(1, 16)), draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    span = d * (k - 1) + 1
    p: int | str = draw(st.integers(max(0, -((n - span) // 2)), span + 2))
    if s == 1 and draw(st.booleans()):
        p = "same"
    if draw(st.booleans()):
        return Instance(
            f"Conv1d({k}, {s}, {p}, {d})", lambda: nn.Conv1d(2, 2, k, s, p, d, 2), (1, 2, n), 0, is_dilated=d > 1
        )
    axis = draw(st.integers(0, 1))
    other = (1, 1, 0 if p != "same" else p, 1)
    pairs = [(a, b) if axis == 0 else (b, a) for a, b in zip((k, s, p, d), other, strict=True)]
    if p == "same":
        pairs[2] = "same"  # type: ignore[call-overload]
    size = (1, 2, n, 3) if axis == 0 else (1, 2, 3, n)
    return Instance(f"Conv2d{tuple(pairs)}", lambda: nn.Conv2d(2, 1, *pairs), size, axis, is_dilated=d > 1)


@st.composite
def transposed(draw: DrawFn) -> Instance:
    n, k, s, d = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    whole = (n - 1) * s + d * (k - 1) + 1
    extra = draw(st.integers(0, max(s, d) - 1))
    p = draw(st.integers(0, (whole + extra - 1) // 2))
    text = f"ConvTranspose1d({k}, {s}, {p}, {extra}, dilation={d})"
    return Instance(text, lambda: nn.ConvTranspose1d(2, 1, k, s, p, extra, dilation=d), (1, 2, n), 0, is_dilated=d > 1)


@st.composite
def pools(draw: DrawFn) -> Instance:
    n, k, s, d = draw(st.integers(2, 16)), draw(st.integers(1, 5)), draw(st.integers(1, 5)), 1
    ceil, p = draw(st.booleans()), draw(st.integers(0, k // 2))
    is_max = draw(st.booleans())
    if is_max and draw(st.booleans()):
        d = draw(st.integers(1, 2))
    if d * (k - 1) >= n:
        k = d = 1
        p = 0
    if is_max:
        return Instance(
            f"MaxPool1d({k}, {s}, {p}, {d}, {ceil=})",
            lambda: nn.MaxPool1d(k, s, p, d, False, ceil),
            (1, 2, n),
            0,
            is_dilated=d > 1,
        )
    include = draw(st.booleans())
    text = f"AvgPool2d(({k}, 1), ({s}, 1), ({p}, 0), {ceil=}, {include=})"
    return Instance(text, lambda: nn.AvgPool2d((k, 1), (s, 1), (p, 0), ceil, include), (1, 1, n, 2), 0)


@st.composite
def pads(draw: DrawFn) -> Instance:
    n, mode = draw(st.integers(2, 10)), draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    most = {"constant": 9, "reflect": n - 1, "replicate": 9, "circular": n}[mode]
    least = -((n - 1) // 2) if mode == "constant" else 0
    pair = draw(st.integers(least, most)), draw(st.integers(least, most))
    axis = draw(st.integers(0, 1))
    amounts = (0, 0, *pair) if axis == 0 else (*pair, 0, 0)
    size = (1, 2, n, 3) if axis == 0 else (1, 2, 3, n)
    return Instance(f"pad {amounts} {mode}", lambda: Net(lambda net, x: F.pad(x, amounts, mode=mode)), size, axis)


@st.composite
def resizes(draw: DrawFn) -> Instance:
    n = draw(st.integers(1, 14))
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "linear", "bilinear", "nearest"]))
    options: dict[str, object] = {"mode": mode}
    is_2d = mode == "bilinear" or ("nearest" in mode and draw(st.booleans()))
    if "linear" in mode:
        options["align_corners"] = draw(st.booleans())
    if draw(st.booleans()):
        m = draw(st.integers(1, 30))
        options["size"] = (m, 3) if is_2d else m
    else:
        factor = draw(st.sampled_from([2.0, 3.0, 1.0, 1.5, 1.3, 2.2, 1.4, 0.5, 0.7, 1.05]))
        factor = factor if math.floor(n * factor) else 1.0
        options["scale_factor"] = (factor, 1.0) if is_2d else factor
        options["recompute_scale_factor"] = draw(st.sampled_from([None, True]))
    size = (1, 2, n, 3) if is_2d else (1, 2, n)
    return Instance(f"{options}", lambda: Net(lambda net, x: F.interpolate(x, **options)), size, 0, "linear" in mode)


@st.composite
def rearrangements(draw: DrawFn) -> Instance:
    """Slices, pixel shuffles, and the same by view."""
    r, n, kind = draw(st.integers(2, 3)), draw(st.integers(1, 4)), draw(st.integers(0, 4))
    axis = draw(st.integers(0, 1))
    size = (n + 1, 2) if axis == 0 else (2, n + 1)
    if kind == 0:
        start, stop, step = draw(st.integers(0, 4)), draw(st.integers(5, 12)), draw(st.integers(1, 4))
        text = f"x[..., {start}:{stop}:{step}]"
        return Instance(text, lambda: Net(lambda net, x: x[..., start:stop:step]), (1, 1, 2, 12), 1)
    if kind == 1:
        return Instance(f"PixelShuffle({r})", lambda: nn.PixelShuffle(r), (1, r * r, *size), axis)
    scaled = tuple(extent * r for extent in size)
    if kind == 2:
        return Instance(f"PixelUnshuffle({r})", lambda: nn.PixelUnshuffle(r), (1, 1, *scaled), axis)
    h, w = size
    if kind == 3:
        split = Net(lambda net, x: x.view(-1, 1, h, r, w, r).amax((3, 5)))
        return Instance(f"split by {r}", lambda: split, (1, 1, *scaled), axis)
    merge = Net(lambda net, x: x.view(-1, r, r, h, w).permute(0, 3, 1, 4, 2).reshape(-1, 1, h * r, w * r))
    return Instance(f"merge by {r}", lambda: merge, (1, r * r, *size), axis)


FAMILIES = {
    "convolutions": convolutions(),
    "transposed": transposed(),
    "pools": pools(),
    "pads": pads(),
    "resizes": resizes(),
    "rearrangements": rearrangements(),
}
