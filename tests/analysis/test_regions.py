"""Demanded regions, against the gradient support of the real net."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from streamplan.analysis.cuts import enumerate_cuts
from streamplan.analysis.locality import classify_locality
from streamplan.analysis.regions import pull_regions, streamed_part
from streamplan.analysis.unbounded import receptive_fields
from streamplan.geometry import Interval
from streamplan.planning import trace_and_lower
from streamplan.planning.arguments import CallArguments
from tests.analysis.facts import part_of, seq
from tests.draws import num_examples
from tests.strategies import Recipe, nets


class Recorder(fx.Interpreter):
    """Runs a traced graph and keeps every tensor it computes."""

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        super().__init__(fx.GraphModule(model, graph))
        self.values: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.requires_grad:
            result = result.clone()  # a later in-place call must not change what is kept
            result.retain_grad()
            self.values[n.name] = result
        return result


def _touched(gradient: Tensor, dim: int) -> set[int]:
    return set(gradient.transpose(0, dim).flatten(1).abs().sum(1).nonzero().flatten().tolist())


@settings(max_examples=num_examples(40))
@given(nets(ndims=(1, 2)), st.integers(0, 10**6))
def test_every_region_holds_what_its_block_depends_on(recipe: Recipe, seed: int) -> None:
    model, rng = recipe.build(), random.Random(seed)
    traced = trace_and_lower(model, CallArguments.of_size(recipe.input_size, torch.float64))
    graph, facts = traced.graph, classify_locality(traced.graph)
    cuts = enumerate_cuts(graph, facts)
    if not cuts:
        return  # the first window covers the whole map
    cut = cuts[-1]
    part = streamed_part(graph, facts, cut.streamed, cut.frontier)
    axis = rng.randrange(part.num_axes)
    blocks = {}
    for name in part.frontier:
        start = rng.randrange(part.extents[name][axis])
        blocks[name] = Interval(start, rng.randint(start + 1, part.extents[name][axis]))
    step = pull_regions(part, axis, blocks)
    recorder = Recorder(model, traced.trace.graph)
    recorder.run(recipe.draw_input().requires_grad_())
    picked = []
    for name, block in blocks.items():
        value = recorder.values[name]
        region = value.narrow(facts.maps[name].dims[axis], block.start, block.size)
        picked.append((region * torch.rand_like(region).add(0.5)).sum())
    torch.autograd.backward(picked)
    checked = 0
    for name, region in step.regions.items():
        value = recorder.values.get(name)
        if value is not None and value.grad is not None:
            assert _touched(value.grad, facts.maps[name].dims[axis]) <= set(range(region.start, region.stop)), name
            checked += 1
        assert Interval(0, part.extents[name][axis]).contains(region)
        assert not region.is_empty
    assert checked >= len(part.frontier)


def test_regions_of_two_convolutions() -> None:
    part = part_of(seq(nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 3, padding=1)), (1, 1, 8))
    step = pull_regions(part, 0, {part.frontier[0]: Interval(2, 4)})
    assert [str(step.regions[name]) for name in (*part.order, *part.input_maps)] == ["[1, 5)", "[2, 4)", "[0, 6)"]


@pytest.mark.parametrize(
    ("layers", "field"),
    [
        ((nn.Conv1d(1, 1, 3), nn.Conv1d(1, 1, 3)), 5),
        ((nn.Conv1d(1, 1, 7, 2, 3), nn.MaxPool1d(3, 2, 1), nn.Conv1d(1, 1, 3)), 7 + 2 * 2 + 4 * 2),
        ((nn.Conv1d(1, 1, 3, dilation=5), nn.AvgPool1d(2)), 12),
    ],
)
def test_receptive_field_is_that_of_the_net_on_a_long_image(layers: tuple[nn.Module, ...], field: int) -> None:
    extent = 400
    model = seq(*layers)
    part = part_of(model, (1, 1, 40))
    assert receptive_fields(part, 0)[part.frontier[0]] == field
    x = torch.rand(1, 1, extent, dtype=torch.float64, requires_grad=True)
    for module in model:
        if isinstance(module, nn.MaxPool1d):  # the maximum hides its window from the gradient
            return
    out = model(x)
    (gradient,) = torch.autograd.grad(out[0, 0, out.shape[2] // 2], x)
    support = gradient[0, 0].nonzero().flatten()
    assert int(support[-1] - support[0]) + 1 == field
