"""Memory over time, against another way to measure each phase and against the projection."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import streamplan
from streamplan.plot import MeasuredMemory, MeasuredPhase, NotDrawableError, measure_memory
from tests.costs.measuring import measured_peaks
from tests.plot.plans import classifier

SIZE = (1, 3, 160, 128)


@pytest.fixture
def streamed() -> streamplan.StreamedModule:
    return streamplan.compile(classifier(), SIZE, tile_size=80)


def test_peaks_of_phases(streamed: streamplan.StreamedModule) -> None:
    image = torch.randn(SIZE)
    measured, expected = measure_memory(streamed, image), measured_peaks(streamed, image)
    for phase in ("forward", "backward"):
        assert abs(measured.peak_of(phase) - expected[phase]) <= 64  # numbers that the two losses are
    assert all(measured.peak_of(phase) >= expected[phase] for phase in ("head", "end"))
    assert measured.peak_bytes == max(measured.peak_of(phase.phase) for phase in measured.phases)


def test_below_the_projection(streamed: streamplan.StreamedModule) -> None:
    measured = measure_memory(streamed, torch.randn(SIZE))
    forecast = streamed.plan.forecast
    assert forecast is not None
    for phase in forecast.memory.phases:
        there = sum(item.num_bytes for item in phase.items if item.what in {"parameters", "buffers", "image"})
        assert 0 < measured.peak_of(phase.phase) <= phase.num_bytes - there


def test_phases_follow_each_other(streamed: streamplan.StreamedModule) -> None:
    measured = measure_memory(streamed, torch.randn(SIZE))
    ends = [(phase.start_seconds, phase.stop_seconds) for phase in measured.phases]
    assert [phase.phase for phase in measured.phases] == ["preparation", "forward", "head", "backward", "end"]
    assert all(start < stop for start, stop in ends)
    assert [stop for _, stop in ends[:-1]] == [start for start, _ in ends[1:]]
    assert (ends[0][0], ends[-1][1]) == (measured.seconds[0], measured.seconds[-1])
    assert list(measured.seconds) == sorted(measured.seconds)
    with pytest.raises(KeyError, match="no phase is named 'tail'"):
        measured.peak_of("tail")


def test_what_was_there_when_a_phase_began_counts() -> None:
    phases = (MeasuredPhase("forward", 0.0, 1.0), MeasuredPhase("head", 1.0, 2.0), MeasuredPhase("backward", 2.0, 3.0))
    measured = MeasuredMemory((0.0, 0.5, 0.9, 2.5), (1, 9, 4, 2), phases)
    assert [measured.peak_of(phase.phase) for phase in phases] == [9, 4, 4]


def test_gradients_stay_what_they_were(streamed: streamplan.StreamedModule) -> None:
    first, *others = streamed.parameters()
    kept = torch.full_like(first, 7.0)
    first.grad = kept
    measure_memory(streamed, torch.randn(SIZE))
    assert first.grad is kept
    assert bool((kept == 7.0).all())
    assert all(parameter.grad is None for parameter in others)


def test_no_gradient_goes_through_the_tiles() -> None:
    net = classifier().requires_grad_(False)
    net[-1].requires_grad_()
    streamed = streamplan.compile(net, SIZE, tile_size=80)
    with pytest.raises(NotDrawableError, match="no gradient"):
        measure_memory(streamed, torch.randn(SIZE))


def test_elsewhere_than_on_the_cpu(streamed: streamplan.StreamedModule) -> None:
    with pytest.raises(NotDrawableError, match="on the CPU") as caught:
        measure_memory(streamed, torch.empty(SIZE, device="meta"))
    assert "cpu, meta" in caught.value.why


@pytest.mark.parametrize(("conv", "size"), [(nn.Conv1d, (1, 2, 512)), (nn.Conv3d, (1, 2, 16, 16, 16))])
def test_other_numbers_of_axes(conv: type[nn.Module], size: tuple[int, ...]) -> None:
    streamed = streamplan.compile(nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU()), size, tile_size=size[-1] // 2)
    assert measure_memory(streamed, torch.randn(size)).peak_bytes > 0
