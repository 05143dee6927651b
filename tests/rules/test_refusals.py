"""What must not be called local, and the reason that is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamplan.analysis.locality import classify_locality
from streamplan.ir import OpCall
from streamplan.planning import trace_and_lower
from streamplan.planning.arguments import CallArguments
from streamplan.rules import Locality, Verdict
from tests.rules.spellings import Net

GLOBAL, UNKNOWN = Locality.GLOBAL, Locality.UNKNOWN
SIZE = (2, 4, 8, 6)


@torch.fx.wrap
def user_function(x: Tensor) -> Tensor:
    return x - x.mean()


def barrier(model: nn.Module, *sizes: tuple[int, ...]) -> tuple[OpCall, Verdict]:
    """The first call that is neither local nor behind another barrier."""
    arguments = CallArguments.of_size(sizes or SIZE, torch.float32)
    graph = trace_and_lower(model, arguments).graph
    verdicts = classify_locality(graph).verdicts
    for call in graph.calls:
        if verdicts[call.name].locality in (GLOBAL, UNKNOWN):
            return call, verdicts[call.name]
    raise AssertionError(f"all is local: {[call.op for call in graph.calls]}")


def net(function: Any, **members: Any) -> nn.Module:
    return Net(function, **members).eval()


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


STATISTICS = "statistics of the whole map"
CASES: dict[str, tuple[nn.Module, Locality, str]] = {
    "group norm": (nn.GroupNorm(2, 4), GLOBAL, STATISTICS),
    "functional group norm": (net(lambda n, x: F.group_norm(x, 2)), GLOBAL, STATISTICS),
    "instance norm": (nn.InstanceNorm2d(4), GLOBAL, STATISTICS),
    "flatten": (nn.Flatten(), GLOBAL, "mixes positions"),
    "flatten method": (net(lambda n, x: x.flatten(2)), GLOBAL, "mixes positions"),
    "reshape": (net(lambda n, x: x.reshape(2, 4, 12, 4)), GLOBAL, "mixes positions"),
    "adaptive pool to 1": (nn.AdaptiveAvgPool2d(1), GLOBAL, "reduces the map to 1x1"),
    "adaptive max pool": (nn.AdaptiveMaxPool2d((4, 3)), GLOBAL, "reduces the map to 4x3"),
    "pool over the whole map": (nn.AvgPool2d((8, 6)), GLOBAL, "covers the whole map"),
    "training batch norm": (nn.BatchNorm2d(4).train(), GLOBAL, "in training mode"),
    "batch norm without statistics": (nn.BatchNorm2d(4, track_running_stats=False).eval(), GLOBAL, "eval mode too"),
    "spatial mean": (net(lambda n, x: x - x.mean((2, 3), keepdim=True)), GLOBAL, "reduces image axes"),
    "mean of all": (net(lambda n, x: x - x.mean()), GLOBAL, "reduces image axes"),
    "maximum along an axis": (net(lambda n, x: x.amax(-1)), GLOBAL, "reduces image axes"),
    "softmax along an axis": (nn.Softmax(-1), GLOBAL, "reduces image axes"),
    "layer norm of the map": (nn.LayerNorm((4, 8, 6)), GLOBAL, "statistics along image axes"),
    "linear along an axis": (nn.Linear(6, 6), GLOBAL, "mixes all positions"),
    "matmul": (net(lambda n, x: x @ x.transpose(2, 3)), GLOBAL, "mixes positions"),
    "attention": (net(lambda n, x: F.scaled_dot_product_attention(x, x, x)), GLOBAL, "attention reads every position"),
    "positional embedding": (net(lambda n, x: x + n.p, p=parameter(1, 4, 8, 6)), GLOBAL, "for each position"),
    "positional embedding of one axis": (net(lambda n, x: x * n.p, p=parameter(6)), GLOBAL, "for each position"),
    "prelu over an axis": (net(lambda n, x: F.prelu(x.permute(0, 2, 3, 1), n.p), p=parameter(8)), GLOBAL, ""),
    "one position": (net(lambda n, x: x[:, :, 3]), GLOBAL, "selects one position"),
    "alpha dropout in training": (nn.AlphaDropout(0.5).train(), GLOBAL, "random mask"),
    "feature alpha dropout in training": (nn.FeatureAlphaDropout(0.5).train(), GLOBAL, "random mask"),
    "functional alpha dropout": (net(lambda n, x: F.alpha_dropout(x, training=True)), GLOBAL, "random mask"),
    "dropout2d of rows": (net(lambda n, x: F.dropout2d(x.permute(0, 2, 3, 1))), GLOBAL, "first two dimensions"),
    "noise like the map": (net(lambda n, x: x + torch.randn_like(x)), UNKNOWN, "no locality rule"),
    "roll": (net(lambda n, x: torch.roll(x, 1, -1)), GLOBAL, "moves positions along an image axis"),
    "flip": (net(lambda n, x: x.flip(3)), GLOBAL, "moves positions along an image axis"),
    "repeat": (net(lambda n, x: x.repeat(1, 1, 2, 1)), GLOBAL, "repeats the map along an image axis"),
    "tile": (net(lambda n, x: x.tile(2)), GLOBAL, "repeats the map along an image axis"),
    "repeat_interleave": (net(lambda n, x: x.repeat_interleave(2, -1)), GLOBAL, "repeats the map along an image axis"),
    "expand": (net(lambda n, x: x[..., 3:4].expand(-1, -1, -1, 5)), GLOBAL, "repeats the map along an image axis"),
    "repeat_interleave, flat": (net(lambda n, x: x.repeat_interleave(2)), UNKNOWN, "flattens the map"),
    "as_tensor": (net(lambda n, x: torch.as_tensor(x, dtype=torch.float64)), UNKNOWN, "x.to(...)"),
    "sort": (net(lambda n, x: torch.sort(x, -1).values), UNKNOWN, "no locality rule"),
    "cumulative sum": (net(lambda n, x: x.cumsum(2)), UNKNOWN, "no locality rule"),
    "user function": (net(lambda n, x: user_function(x)), UNKNOWN, "no locality rule"),
    "max pool with indices": (net(lambda n, x: F.max_pool2d(x, 2, return_indices=True)[0]), UNKNOWN, ""),
    "dilated max pool": (nn.MaxPool2d((2, 3), 1, 1, dilation=(8, 1)), UNKNOWN, "misses its input"),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), UNKNOWN, "no rule for mode='bicubic'"),
    "area": (net(lambda n, x: F.interpolate(x, (3, 3), mode="area")), UNKNOWN, "no rule for mode='area'"),
    "antialias": (
        net(lambda n, x: F.interpolate(x, (4, 3), mode="bilinear", antialias=True)),
        UNKNOWN,
        "no rule for antialias",
    ),
    "index by a tensor": (net(lambda n, x: x[:, :, torch.tensor([1, 0, 2])]), UNKNOWN, "more than slices"),
    "cat along an axis": (net(lambda n, x: torch.cat([x, x], 2)), UNKNOWN, "along an image axis"),
    "cat with a parameter": (net(lambda n, x: torch.cat([x, n.p], 1), p=parameter(2, 1, 8, 6)), GLOBAL, "not computed"),
    "weight from the image": (net(lambda n, x: F.conv2d(x, x[:, :, :3, :3])), UNKNOWN, "computed from the image"),
    "slope from the image": (net(lambda n, x: F.prelu(x, x[0, :, 0, 0])), GLOBAL, "selects one position"),
    "reflect along channels": (net(lambda n, x: F.pad(x, (1, 1, 2, 0, 1, 0), "reflect")), UNKNOWN, ""),
    "one image of the batch": (
        net(lambda n, x: F.conv2d(x[0], n.w), w=parameter(4, 4, 3, 3)),
        UNKNOWN,
        "batch or channel",
    ),
    "batch norm, channels last": (net(lambda n, x: n.b(x.permute(0, 3, 1, 2)), b=nn.BatchNorm2d(6)), UNKNOWN, ""),
    "transposed sum": (net(lambda n, x: x[..., :6, :] + x[..., :6, :].transpose(2, 3)), GLOBAL, "disagree"),
    "rounded division": (net(lambda n, x: torch.div(x, 2, rounding_mode="floor")), UNKNOWN, "rounding mode"),
}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_with_its_reason(name: str) -> None:
    model, locality, reason = CASES[name]
    _, verdict = barrier(model)
    assert verdict.locality is locality
    assert verdict.reason
    assert reason in verdict.reason


UNBATCHED = {
    "conv2d": lambda n, x: F.conv2d(x, n.w, padding=1),
    "conv_transpose2d": lambda n, x: F.conv_transpose2d(x, n.w, padding=1),
    "max_pool2d": lambda n, x: F.max_pool2d(x, 3, 1, 1),
    "avg_pool2d": lambda n, x: F.avg_pool2d(x, 3, 1, 1),
}


@pytest.mark.parametrize("name", UNBATCHED)
def test_an_unbatched_image_is_not_taken_for_a_batch(name: str) -> None:
    _, verdict = barrier(net(UNBATCHED[name], w=parameter(4, 4, 3, 3)), (4, 8, 6))
    assert verdict.locality is UNKNOWN


def test_attention_module() -> None:
    attention = net(
        lambda n, x: n.a(x.transpose(1, 2), x.transpose(1, 2), x.transpose(1, 2))[0],
        a=nn.MultiheadAttention(4, 2, batch_first=True),
    )
    _, verdict = barrier(attention, (2, 4, 8))
    assert verdict.locality in (GLOBAL, UNKNOWN)


def test_a_one_pixel_image_is_broadcast() -> None:
    call, verdict = barrier(net(lambda n, x, y: x * y), SIZE, (2, 4, 1, 1))
    assert (call.op, verdict.locality) == ("mul", GLOBAL)
    assert "broadcast along an image axis" in verdict.reason


def test_behind_a_barrier_everything_is_resident() -> None:
    model = net(lambda n, x: torch.relu(x - x.mean()) + n.p, p=parameter(4, 1, 1))
    graph = trace_and_lower(model, CallArguments.of_size(SIZE, torch.float32)).graph
    verdicts = classify_locality(graph).verdicts
    assert [verdicts[call.name].locality.value for call in graph.calls] == [
        "pointwise", "global", "resident", "resident", "resident",
    ]  # fmt: skip
