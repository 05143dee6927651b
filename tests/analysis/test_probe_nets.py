"""Overlaps against a brute-force count on whole nets of all-ones kernels, and both methods on random nets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import streamplan
from streamplan.analysis.cuts import latest_cut
from streamplan.analysis.fields import AxisProblem, image_reads, place_tiles, tile_overlaps
from streamplan.analysis.locality import rule_context
from streamplan.analysis.reads import CountedReads
from streamplan.analysis.regions import streamed_part
from streamplan.errors import NothingToStreamError
from streamplan.geometry import Interval
from streamplan.rules import rule_for
from tests.analysis.facts import analysed
from tests.draws import num_examples
from tests.strategies import Recipe, flatten_outputs, nets


class Bottleneck(nn.Module):
    """A strided residual branch and a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 1, 5, 2, 2, bias=False)
        self.branch = nn.Sequential(
            nn.Conv1d(1, 1, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        )
        self.shortcut = nn.Conv1d(1, 1, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.relu(self.branch(x) + self.shortcut(x))


class Up(nn.Module):
    """One level of a U with a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.down = nn.AvgPool1d(2)
        self.bottom = nn.Conv1d(1, 1, 5, padding=2, bias=False)
        self.up = nn.ConvTranspose1d(1, 1, 4, 2, 1, bias=False)
        self.decode = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.encode(x)
        return self.decode(skip + self.up(self.bottom(self.down(skip))))


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Conv1d(1, 1, 3, padding=1, bias=False))


def pooled() -> nn.Sequential:
    layers = [nn.Conv1d(1, 1, 4, 1, 2, bias=False), nn.AvgPool1d(3, 2, 1), nn.Conv1d(1, 1, 3, bias=False)]
    return nn.Sequential(*layers, nn.AvgPool1d(2, 2))


def reflected() -> nn.Sequential:
    return nn.Sequential(nn.ReflectionPad1d(2), nn.Conv1d(1, 1, 5, bias=False), nn.Conv1d(1, 1, 1, 2, bias=False))


CASES = {"plain": plain, "pooled": pooled, "bottleneck": Bottleneck, "up": Up, "reflected": reflected}


def all_ones(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    return model.double().eval()


def with_values(model: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """Results of all leaf modules in the order of the calls, and of the model."""
    values: list[Tensor] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(lambda module, args, out: values.append(out)) for leaf in leaves]
    result = model(x)
    for handle in handles:
        handle.remove()
    return values, result


def brute_force(build: object, extent: int, tile: Interval) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Per value, image first: positions at each side that the tile touches and lacks, in activations and gradients.

    Activations: those that NaN outside the tile reach. Gradients: those that change if the cut's gradient is kept at
    the positions that NaN does not reach and left out elsewhere.
    """
    model = all_ones(build())  # type: ignore[operator]
    outside = torch.ones(1, 1, extent, dtype=torch.float64)
    outside[..., tile.start : tile.stop] = torch.nan
    touched = [v.isnan()[0, 0] for v in (outside, *with_values(model, outside)[0])]
    poisoned = torch.full((1, 1, extent), torch.nan, dtype=torch.float64)
    poisoned[..., tile.start : tile.stop] = 1.0
    values, result = with_values(model, poisoned)
    valid = [~v.isnan()[0, 0] for v in (poisoned, *values)]
    x = torch.ones(1, 1, extent, dtype=torch.float64, requires_grad=True)
    values, out = with_values(model, x)
    whole = torch.autograd.grad(out, [x, *values], torch.ones_like(out), retain_graph=True)
    masked = torch.autograd.grad(out, [x, *values], (~result.isnan()).double())
    complete = [((a - b).abs() < 1e-9)[0, 0] for a, b in zip(whole, masked, strict=True)]
    return [(sides(t, v), sides(t, g)) for t, v, g in zip(touched, valid, complete, strict=True)]


def sides(touched: Tensor, done: Tensor) -> tuple[int, int]:
    members = touched.nonzero()[:, 0].tolist()
    middle = (members[0] + members[-1]) / 2
    missing = [i for i in members if not done[i]]
    return sum(i < middle for i in missing), sum(i >= middle for i in missing)


@pytest.mark.parametrize("name", CASES)
def test_overlaps_are_what_brute_force_counts(name: str) -> None:
    build, extent = CASES[name], 96
    graph, facts = analysed(build().eval(), (1, 1, extent))
    part = streamed_part(graph, facts, (cut := latest_cut(graph, facts)).streamed, cut.frontier)
    reads = {}
    for edge in part.edges:
        rule, sizes = rule_for(graph[edge.reader].op), (part.extents[edge.source][0], part.extents[edge.reader][0])
        assert rule is not None
        reads[edge.key] = CountedReads(rule, rule_context(graph, graph[edge.reader], facts.maps), 0, *sizes)
    problem = AxisProblem(part, 0, part.input_maps[0], reads)
    leaves = [call.name for call in graph.calls if call.op not in ("input", "add") and call.module_path]
    own = [name for name in leaves if not (graph[name].op == "relu" and graph[name].module_type != "ReLU")]
    for start in range(20, 25):
        for size in (43, 44, 50):
            tile = Interval(start, start + size)
            found = tile_overlaps(problem, [tile])
            expected = brute_force(build, extent, tile)
            assert [found[value] for value in (part.input_maps[0], *own)] == expected, tile


def test_the_example_of_the_docstring() -> None:
    report = streamplan.receptive_field(plain(), (1, 1, 28), tile_size=12)
    assert [value.axes[0].forward_overlap for value in report.values] == [(0, 0), (2, 2), (4, 4)]
    assert [value.axes[0].backward_overlap for value in report.values] == [(4, 4), (4, 4), (4, 4)]


def test_tiles_stand_in_the_middle() -> None:
    assert place_tiles(64, 16, 20) == tuple(Interval(20 + i, 40 + i) for i in range(4))
    assert place_tiles(64, 16, 64) == (Interval(0, 64),)
    assert place_tiles(10, 1, 9) == (Interval(0, 9), Interval(1, 10))


@given(recipe=nets())
@settings(max_examples=num_examples(60), suppress_health_check=[HealthCheck.too_slow])
def test_both_methods_agree_on_random_nets(recipe: Recipe) -> None:
    """`both` raises where a step differs; the reported numbers agree where the probe has any."""
    model = recipe.build()
    try:
        both = streamplan.receptive_field(model, recipe.input_size)
    except NothingToStreamError:
        return
    analytic, probe = (streamplan.receptive_field(model, recipe.input_size, method=m) for m in ("analytic", "probe"))
    assert both.values == analytic.values
    for one, other in zip(analytic.values, probe.values, strict=True):
        for a, p in zip(one.axes, other.axes, strict=True):
            assert (a.forward_overlap, a.backward_overlap) == (p.forward_overlap, p.backward_overlap)
            if a.receptive_field is not None and p.receptive_field is not None:
                assert p.receptive_field <= a.receptive_field


@given(recipe=nets(["chains", "residual", "ushape"]))
@settings(max_examples=num_examples(40), suppress_health_check=[HealthCheck.too_slow])
def test_poison_stays_inside_the_reads_of_random_nets(recipe: Recipe) -> None:
    model = recipe.build()
    graph, facts = analysed(model, recipe.input_size)
    cut = latest_cut(graph, facts)
    if not cut.frontier or cut.frontier != graph.outputs:
        return
    part = streamed_part(graph, facts, cut.streamed, cut.frontier)
    x = recipe.draw_input()
    for axis in range(part.num_axes):
        reads = {}
        for edge in part.edges:
            call, sizes = graph[edge.reader], (part.extents[edge.source][axis], part.extents[edge.reader][axis])
            rule = rule_for(call.op)
            assert rule is not None
            reads[edge.key] = CountedReads(rule, rule_context(graph, call, facts.maps), axis, *sizes)
        found = image_reads(AxisProblem(part, axis, part.input_maps[0], reads))
        for sample in (0, x.shape[2 + axis] // 2, x.shape[2 + axis] - 1):
            poisoned = x.clone()
            poisoned.select(2 + axis, sample).fill_(torch.nan)
            with torch.no_grad():
                results = flatten_outputs(model(poisoned))
            for result, name in zip(results, part.frontier, strict=False):
                reached = result.isnan().transpose(0, 2 + axis).flatten(1).any(1).nonzero()[:, 0].tolist()
                spans = found[name]
                assert all(spans.start[o] <= sample < spans.stop[o] for o in reached), (axis, sample, name)
