"""Sizes are real numbers while a model is traced."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from streamplan.errors import TracingError
from streamplan.ir import TensorSpec
from streamplan.trace import trace_model
from tests.trace.helpers import Net, assert_graph_equals_model, node_of, spec, targets, trace_function


def test_assert_on_a_shape_passes_and_fails() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == 3, "wrong channels"
        torch._assert(x.dim() == 4, "rank")
        return x + 1

    assert trace_function(forward, (1, 3, 8, 8)).facts["add"].output == spec(1, 3, 8, 8)
    with pytest.raises(TracingError, match="wrong channels"):
        trace_function(forward, (1, 4, 8, 8))


def test_branch_on_a_shape_follows_the_planned_size() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        return x.relu() if x.shape[-1] > 7 else x.sigmoid()

    assert targets(trace_function(forward, (1, 3, 8, 8))) == ["relu"]
    assert targets(trace_function(forward, (1, 3, 8, 7))) == ["sigmoid"]


def test_star_shape_len_and_numel_are_numbers() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        grid = torch.zeros(len(x), 1, *x.shape[2:])
        assert type(x.numel()) is int
        return x.view(x.size(0), -1, *x.shape[2:]) + grid * x.numel()

    trace = trace_function(forward, (2, 3, 5, 7))
    assert node_of(trace, torch.zeros).args == (2, 1, 5, 7)
    assert node_of(trace, "view").args[1:] == (2, -1, 5, 7)


class SamePadConv(nn.Conv2d):
    """TF-style "same" padding, as in EfficientNet ports."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        pad = []
        for size, k, s in zip(input.size()[-2:], self.kernel_size, self.stride, strict=True):
            total = max((math.ceil(size / s) - 1) * s + k - size, 0)
            pad = [total // 2, total - total // 2, *pad]
        if any(pad):
            input = F.pad(input, pad)
        return F.conv2d(input, self.weight, self.bias, self.stride)


def test_same_padding_arithmetic_is_evaluated() -> None:
    net = nn.Sequential(SamePadConv(3, 4, 3, stride=2), nn.ReLU())
    trace = assert_graph_equals_model(net, torch.rand(1, 3, 8, 9))
    (pad,) = [node for node in trace.graph.nodes if node.target is F.pad]
    assert list(pad.args[1]) == [1, 1, 0, 1]  # 9 columns need two, 8 rows one


def test_einops_becomes_torch_calls() -> None:
    einops = pytest.importorskip("einops")

    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        y = einops.rearrange(x, "b (g c) h w -> b c g h w", g=2)
        return einops.reduce(y, "b c g h w -> b (c g) h w", "mean") + einops.repeat(x[:, :1], "b 1 h w -> b c h w", c=6)

    trace = assert_graph_equals_model(Net(forward), torch.rand(2, 6, 4, 5))
    assert "reshape" in targets(trace)
    assert {fact.location.file for fact in trace.facts.values() if fact.location} == {__file__}


def test_only_reads_of_spatial_sizes_of_activations_are_reported() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        assert x.ndim == 4
        assert x.dim() == 4
        assert x.dtype == torch.float32
        assert x.device.type == "cpu"
        assert net.conv.weight.shape[0] == 4
        y = net.conv(x).view(x.size(0), 4, -1)
        return y * x.size(3)  # the only one

    trace = trace_function(forward, (1, 3, 8, 8), conv=nn.Conv2d(3, 4, 1))
    assert [location.text for location in trace.shape_reads] == ["return y * x.size(3)  # the only one"]


def test_metadata_that_is_not_a_size_leaves_no_node() -> None:
    def forward(net: Any, x: torch.Tensor) -> torch.Tensor:
        assert torch.is_floating_point(x)
        assert x.is_contiguous()
        assert not x.is_cuda
        assert x.stride() == (64, 64, 8, 1)
        assert torch.is_tensor(x)
        assert isinstance(x, torch.Tensor)
        assert not hasattr(x, "keys")
        return x * 2

    assert len(targets(trace_function(forward, (1, 1, 8, 8)))) == 1


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: x if x.sum() > 0 else -x,
        lambda net, x: x * x.max().item(),
        lambda net, x: x[x > 0],
        lambda net, x: torch.nonzero(x),
        lambda net, x: [x] * int(x.mean()),
    ],
)
def test_control_flow_on_values_is_refused_with_its_line(forward: Any) -> None:
    with pytest.raises(TracingError) as caught:
        trace_function(forward, (1, 1, 8, 8))
    assert "test_trace_shapes.py" in caught.value.where
    assert "values" in caught.value.what


def test_sizes_beyond_memory_allocate_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2))
    trace_model(net, [spec(1, 3, 64, 64)])  # imports and caches
    before = _peak_bytes()
    trace = trace_model(net, [TensorSpec((1, 3, 65536, 65536), torch.float32)])
    assert trace.facts["_3"].output == spec(1, 64, 32768, 32768)
    assert _peak_bytes() - before < 64 * 2**20  # one activation is 2^40 bytes


def _peak_bytes() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
