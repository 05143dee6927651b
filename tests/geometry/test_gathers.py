"""Lookups position by position, against torch's own padding and interpolation of a ramp."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from streamplan.geometry import AxisMap, FoldedPadding, Interval, LinearResize
from streamplan.ir import OpCall, TensorSpec, ValueRef
from streamplan.rules.base import MapSpec, RuleContext
from streamplan.rules.resizing import Interpolate
from tests.geometry.support import assert_reads_support, reads_of


def linear_map(extent: int, out: int, options: dict[str, object]) -> LinearResize:
    """The axis map that the rule makes for `F.interpolate(x, **options)`."""
    defaults = {"size": None, "scale_factor": None, "align_corners": None, "recompute_scale_factor": None}
    arguments = {"input": ValueRef("x"), **defaults, "antialias": False, "mode": "linear", **options}
    call = OpCall("resize", "interpolate", arguments, TensorSpec((1, 1, out), torch.float64))
    context = RuleContext(call, {"x": MapSpec((1, 1, extent), (2,))}, {})
    (axis_map,) = Interpolate().axis_maps(context, "x")
    assert isinstance(axis_map, LinearResize)
    return axis_map


def assert_resizes_like_torch(extent: int, options: dict[str, object], data: st.DataObject) -> None:
    """Raise unless taps and reads are torch's, for all positions and for a drawn interval."""
    x = torch.rand(1, 1, extent, dtype=torch.float64)
    expected = F.interpolate(x, mode="linear", **options)
    axis_map = linear_map(extent, expected.shape[2], options)
    lower, upper, weights = axis_map.taps(Interval(0, expected.shape[2]))
    mixed = x[0, 0, list(lower)] * (1 - torch.tensor(weights, dtype=torch.float64))
    mixed += x[0, 0, list(upper)] * torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(mixed, expected[0, 0], rtol=1e-12, atol=1e-12)
    reads = reads_of(lambda y: F.interpolate(y, mode="linear", **options), extent)
    start = data.draw(st.integers(0, len(reads) - 1))
    stop = data.draw(st.integers(start + 1, len(reads)))
    span = axis_map.pull(Interval(start, stop))
    assert Interval(0, extent).contains(span)
    for position in range(start, stop):  # rounding may leave torch a weight of 1e-17 beside a sample it hits exactly
        exact = {lower[position], upper[position]}
        assert exact <= set(range(span.start, span.stop))
        assert len(reads[position] - exact) <= 1


@given(st.integers(1, 16), st.integers(1, 33), st.booleans(), st.data())
def test_linear_resize_to_a_size(extent: int, size: int, align_corners: bool, data: st.DataObject) -> None:
    assert_resizes_like_torch(extent, {"size": size, "align_corners": align_corners}, data)


@given(st.integers(2, 16), st.integers(3, 40), st.booleans(), st.booleans(), st.data())
def test_linear_resize_by_a_factor(
    extent: int, tenths: int, align_corners: bool, recompute: bool, data: st.DataObject
) -> None:
    factor = tenths / 10
    if int(extent * factor) == 0:
        factor = 1.0
    options = {"scale_factor": factor, "align_corners": align_corners, "recompute_scale_factor": recompute}
    assert_resizes_like_torch(extent, options, data)


@given(st.data(), st.sampled_from(["reflect", "replicate", "circular"]))
def test_folded_padding(data: st.DataObject, mode: str) -> None:
    extent = data.draw(st.integers(1, 9))
    most = {"reflect": extent - 1, "replicate": 12, "circular": extent}[mode]
    before, after = data.draw(st.integers(0, most)), data.draw(st.integers(0, most))
    ramp = torch.arange(extent, dtype=torch.float64)[None, None]
    padded = F.pad(ramp, (before, after), mode=mode)[0, 0].int().tolist()
    axis_map = FoldedPadding(before, extent, mode)  # type: ignore[arg-type]
    assert list(axis_map.indices(Interval(0, len(padded)))) == padded
    start = data.draw(st.integers(0, len(padded) - 1))
    stop = data.draw(st.integers(start + 1, len(padded)))
    pulled = axis_map.pull(Interval(start, stop))
    assert (pulled.start, pulled.stop) == (min(padded[start:stop]), max(padded[start:stop]) + 1)
    reads = reads_of(lambda x: F.pad(x, (before, after), mode=mode), extent)
    assert_reads_support(axis_map, reads, extent, data)


def nearest_map(shape: tuple[int, ...], out: tuple[int, ...], dtype: torch.dtype, **options: object) -> list[AxisMap]:
    defaults = {"size": None, "scale_factor": None, "align_corners": None, "recompute_scale_factor": None}
    arguments = {"input": ValueRef("x"), **defaults, "antialias": False, "mode": "nearest", **options}
    call = OpCall("resize", "interpolate", arguments, TensorSpec((1, 1, *out), dtype))
    context = RuleContext(call, {"x": MapSpec((1, 1, *shape), tuple(range(2, 2 + len(shape))))}, {})
    return list(Interpolate().axis_maps(context, "x"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_nearest_tables_are_those_of_the_same_rank_and_dtype(ndim: int, mode: str, dtype: torch.dtype) -> None:
    other = (3,) * (ndim - 1)
    cases = [(n, {"size": (m, *other)}) for n in (2, 4, 5, 8, 11) for m in (3, 33, 41, 57, 82)]
    cases += [(n, {"scale_factor": (s,) + (1.0,) * (ndim - 1)}) for n in (2, 3, 7, 10) for s in (0.7, 1.1, 1.3, 2.9)]
    for extent, options in cases:
        ramp = torch.arange(extent, dtype=dtype).view(1, 1, extent, *(1,) * (ndim - 1))
        resized = F.interpolate(ramp.expand(1, 1, extent, *other).contiguous(), mode=mode, **options)
        expected = resized[(0, 0, slice(None), *(0,) * (ndim - 1))].int().tolist()
        table = nearest_map((extent, *other), tuple(resized.shape[2:]), dtype, mode=mode, **options)[0]
        assert list(table.indices(Interval(0, len(expected)))) == expected, (extent, options)
        assert table.pull(Interval(0, len(expected))) == Interval(expected[0], expected[-1] + 1)


def test_the_module_spelling_has_the_same_taps() -> None:
    x = torch.rand(1, 1, 7, dtype=torch.float64)
    up = nn.Upsample(scale_factor=2, mode="linear", align_corners=True)
    lower, upper, weights = linear_map(7, 14, {"scale_factor": 2.0, "align_corners": True}).taps(Interval(3, 9))
    weight = torch.tensor(weights, dtype=torch.float64)
    mixed = torch.lerp(x[0, 0, list(lower)], x[0, 0, list(upper)], weight)
    torch.testing.assert_close(mixed, up(x)[0, 0, 3:9], rtol=1e-12, atol=1e-12)
