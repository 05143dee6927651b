"""The fastest plan within a budget, the least memory within a slowdown, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import streamplan
from streamplan.costs import Calibration, Question, Search
from streamplan.costs.choose import least_bytes
from streamplan.errors import InfeasibleBudgetError, OptionError
from streamplan.options import Options, resolve_budget
from streamplan.planning import Plan, trace_and_lower
from streamplan.planning.arguments import CallArguments
from tests.costs.measuring import measured_peaks
from tests.draws import num_examples
from tests.golden import assert_matches_golden
from tests.nets.resnet import resnet18
from tests.nets.unet import unet
from tests.nets.vgg import vgg11_bn

CPU = torch.device("cpu")
MIB = 2**20
Nets = dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]


def plain_net() -> nn.Module:
    """Few layers, so that few candidates are projected."""
    layers = [
        layer
        for i, o in ((3, 8), (8, 16), (16, 16))
        for layer in (nn.Conv2d(i, o, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


NETS: Nets = {
    "resnet18": (lambda: resnet18(16, 5).eval(), (1, 3, 512, 512)),
    "vgg11_bn": (lambda: vgg11_bn(8, 5).eval(), (2, 3, 256, 320)),
    "unet": (lambda: unet(8, 2).eval(), (1, 3, 256, 256)),
}


ALL: Nets = {**NETS, "plain": (plain_net, (1, 3, 96, 64))}


def search(name: str, **options: Any) -> Search:
    build, size = ALL[name]
    model, arguments = build(), CallArguments.of_size(size, torch.float32)
    traced = trace_and_lower(model, arguments, CPU)
    return Search(Question(model, arguments, Options(**options), CPU, traced, Calibration(CPU)))


@cache
def kept_search(name: str) -> Search:
    """One for all tests: what it has projected it keeps."""
    return search(name)


SEARCHED = [*(pytest.param(name, marks=pytest.mark.more) for name in NETS), "plain"]
"""Nets of tests that project many candidates."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_estimates_are_close_enough_to_leave_candidates_out(name: str) -> None:
    """A candidate is not projected if the budget is below that share of its estimate."""
    for point in kept_search(name).front:
        projected = kept_search(name).project(point.candidate)
        assert projected is None or least_bytes(point) <= projected.peak_bytes, point.candidate


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_a_candidate_is_left_out_only_if_it_takes_too_much(name: str) -> None:
    """Most are left out without a whole projection."""
    for point in kept_search(name).front:
        projected = kept_search(name).project(point.candidate)
        if projected is not None:
            assert kept_search(name).project(point.candidate, projected.peak_bytes) == projected
            assert kept_search(name).project(point.candidate, projected.peak_bytes - 1) is None


@pytest.mark.slow
@settings(max_examples=num_examples(60))
@given(st.sampled_from(["plain", *NETS][: num_examples(4)]), st.floats(0.02, 2.0), st.floats(0.02, 2.0))
def test_a_larger_budget_is_never_slower_and_a_smaller_one_never_larger(name: str, one: float, other: float) -> None:
    found = kept_search(name)
    scale = found.front[0].estimate.peak_bytes
    results = []
    for share in sorted((one, other)):
        try:
            point = found.within_budget(round(share * scale), "")
        except InfeasibleBudgetError:
            continue
        projected = found.project(point.candidate)
        assert projected is not None
        assert projected.peak_bytes <= round(share * scale)
        results.append((projected.peak_bytes, point.estimate.time))
    if len(results) == 2:
        (small, slow), (large, fast) = results
        assert small <= large
        assert fast <= slow


@pytest.mark.parametrize("name", SEARCHED)
def test_least_budget_is_exact_and_the_plan_runs_within_it(name: str) -> None:
    model, (_, size) = kept_search(name).question.model, ALL[name]
    with pytest.raises(InfeasibleBudgetError) as refusal:
        kept_search(name).within_budget(1024, "")
    least = refusal.value.least_budget
    assert least is not None
    assert f"memory_budget={least} or more" in str(refusal.value)
    with pytest.raises(InfeasibleBudgetError) as again:
        streamplan.plan(model, size, memory_budget=least - 1)
    assert again.value.least_budget == least
    plan = streamplan.plan(model, size, memory_budget=least)
    assert plan.forecast is not None
    assert plan.forecast.memory.peak_bytes == least
    streamed, image = streamplan.compile(model, plan=plan), torch.rand(size)
    before = image.nbytes + sum(x.nbytes for x in (*model.parameters(), *model.buffers()))
    assert before + max(measured_peaks(streamed, image).values()) <= least


def test_a_budget_a_byte_too_small_is_refused() -> None:
    with pytest.raises(InfeasibleBudgetError) as refusal:
        streamplan.plan(resnet18(16, 5).eval(), (1, 3, 512, 512), memory_budget="2MiB", optimizer="adam")
    assert_matches_golden(str(refusal.value), "error_infeasible_budget")


class _Tokens(nn.Module):
    """Its estimate is far larger than its projection."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.mix, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 256, bias=False), nn.Linear(256, 4)
        self.requires_grad_(False)
        self.head.requires_grad_(True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2).contiguous()
        return self.head(sum(torch.relu_(self.mix(tokens)).mean(1) for _ in range(2)))


def test_what_fits_is_found_though_its_estimate_is_too_large() -> None:
    model, size = _Tokens(), (1, 3, 1024, 1024)
    with pytest.raises(InfeasibleBudgetError) as refusal:
        streamplan.plan(model, size, memory_budget=MIB)
    least = refusal.value.least_budget
    assert least is not None
    plan = streamplan.plan(model, size, memory_budget=least)
    assert plan.forecast is not None
    assert plan.forecast.memory.peak_bytes == least


def test_slowdown_is_kept_and_more_of_it_takes_less_memory() -> None:
    model, size = resnet18(16, 5).eval(), (1, 3, 512, 512)
    plans = [streamplan.plan(model, size, max_slowdown=factor) for factor in (1.0, 1.1, 2.0)]
    forecasts = [plan.forecast for plan in plans if plan.forecast is not None]
    assert [forecast.time.ratio <= plan.max_slowdown for plan, forecast in zip(plans, forecasts, strict=True)] == [
        True
    ] * 3
    peaks = [forecast.memory.peak_bytes for forecast in forecasts]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < peaks[0]
    with pytest.raises(InfeasibleBudgetError, match="the fastest is estimated at"):
        streamplan.plan(model, size, max_slowdown=0.5)


def test_budget_and_slowdown_together() -> None:
    model, size = resnet18(16, 5).eval(), (1, 3, 512, 512)
    plan = streamplan.plan(model, size, memory_budget="40MiB", max_slowdown=1.3)
    assert plan.forecast is not None
    assert plan.forecast.memory.peak_bytes <= 40 * MIB
    with pytest.raises(InfeasibleBudgetError, match="pass a larger memory_budget, or max_slowdown="):
        streamplan.plan(model, size, memory_budget="30MiB", max_slowdown=1.01)


def test_what_is_given_is_kept() -> None:
    model, size = resnet18(16, 5).eval(), (1, 3, 512, 512)
    plan = streamplan.plan(model, size, memory_budget="60MiB", cut="layer2", halo="recompute")
    assert (plan.cut, plan.halo) == (("layer2_1_relu_1",), "recompute")
    plan = streamplan.plan(model, size, (64, 512), memory_budget="60MiB")
    assert plan.tile_size == (64, 512)


def test_without_options_the_budget_is_what_is_free() -> None:
    plan = streamplan.plan(resnet18(8, 5).eval(), (1, 3, 256, 256))
    assert plan.memory_budget is not None
    assert plan.budget_source == "what is free on cpu, less a tenth"
    assert plan.forecast is not None
    assert plan.forecast.memory.peak_bytes < plan.memory_budget


def test_equal_inputs_give_equal_plans_that_survive_json_and_run() -> None:
    model, size = vgg11_bn(8, 5).eval(), (1, 3, 256, 256)
    first, second = (streamplan.plan(model, size, memory_budget="45MiB", optimizer="adam") for _ in range(2))
    assert first == second
    again = Plan.from_json(first.to_json())
    assert again == first
    streamed = streamplan.compile(model, plan=again)
    assert streamed.plan == first
    compiled = streamplan.compile(model, size, memory_budget="45MiB", optimizer="adam")
    assert compiled.plan == first
    report = streamplan.verify(model.double(), size, first.tile_size, cut=first.cut)
    assert report.passed


def test_other_sizes_of_a_compiled_net_are_planned_within_the_same_budget() -> None:
    streamed = streamplan.compile(plain_net(), (1, 3, 128, 128), memory_budget="4MiB")
    larger = streamed.plan_for((1, 3, 256, 256))
    assert larger.forecast is not None
    assert larger.forecast.memory.peak_bytes <= 4 * MIB
    with pytest.raises(InfeasibleBudgetError):
        streamed(torch.rand(1, 3, 2048, 2048))


def test_state_of_the_optimiser_counts() -> None:
    model, size = resnet18(16, 5).eval(), (1, 3, 256, 256)
    num_bytes = sum(p.nbytes for p in model.parameters())
    peaks = []
    for optimizer in ("sgd", "momentum", "adam"):
        forecast = streamplan.plan(model, size, 128, optimizer=optimizer).forecast  # type: ignore[arg-type]
        assert forecast is not None
        peaks.append(forecast.memory.peak_bytes)
    assert [peak - peaks[0] for peak in peaks] == [0, num_bytes, 2 * num_bytes]


def test_a_source_is_read_tile_by_tile() -> None:
    """Its bytes do not count; the regions that are on their way do."""
    model, array = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), torch.zeros(1024, 1024, 3)
    source = streamplan.Source(array, "HWC")
    plan = streamplan.plan(model, None, (64, 1024), example_inputs=source)
    assert plan.image == "host"
    assert plan.forecast is not None
    items = {item.what: item.num_bytes for item in plan.forecast.memory.peak.items}
    assert "image" not in items
    assert items["regions of the image"] == 3 * 3 * 1024 * (64 + 2) * 4
    assert "the image is read tile by tile, and not counted" in str(plan)


def test_a_model_that_needs_data_has_no_forecast() -> None:
    class NeedsData(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.is_meta:
                raise RuntimeError("there is no data")
            return super().forward(x)

    model = NeedsData(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    plan = streamplan.plan(model, (1, 3, 64, 64), 32)
    assert plan.forecast is None
    assert "memory and time of a training step are not known: RuntimeError: there is no data" in str(plan)
    assert Plan.from_json(plan.to_json()) == plan
    assert streamplan.verify(model, plan=plan).passed


@pytest.mark.parametrize(
    ("text", "count"),
    [("20GiB", 20 * 2**30), ("512 MiB", 2**29), ("1.5GB", 1_500_000_000), (4096, 4096), ("300", 300), (None, None)],
)
def test_budgets(text: int | str | None, count: int | None) -> None:
    assert resolve_budget(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-3GiB", "20 gigabytes", 0, True, 1.5e300])
def test_no_budgets(text: Any) -> None:
    with pytest.raises(OptionError, match="memory_budget"):
        resolve_budget(text)


@pytest.mark.parametrize("factor", [0, -1.0, "1.2", True])
def test_no_slowdowns(factor: Any) -> None:
    with pytest.raises(OptionError, match="max_slowdown"):
        Options(max_slowdown=factor)
