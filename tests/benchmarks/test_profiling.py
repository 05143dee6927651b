from __future__ import annotations

import pytest
import torch

from benchmarks.profiling import idle_share, profile_step, spans_of


@pytest.mark.parametrize(
    ("busy", "share"),
    [
        ([], 1.0),
        ([(0.0, 10.0)], 0.0),
        ([(-5.0, 5.0)], 0.5),
        ([(2.0, 4.0), (2.0, 4.0)], 0.8),
        ([(6.0, 8.0), (1.0, 3.0), (2.0, 7.0)], 0.3),
        ([(1.0, 9.0), (2.0, 3.0)], 0.2),
        ([(20.0, 30.0)], 1.0),
    ],
)
def test_share(busy: list[tuple[float, float]], share: float) -> None:
    assert idle_share((0.0, 10.0), busy) == pytest.approx(share)


def test_kernels_of_a_trace() -> None:
    step = {"cat": "user_annotation", "name": "benchmark step", "ts": 5, "dur": 20}
    others = [
        {"cat": "kernel", "name": "conv", "ts": 7, "dur": 3},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "ts": 10, "dur": 9},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoD (Device -> Device)", "ts": 20, "dur": 1},
        {"cat": "gpu_memset", "name": "Memset (Device)", "ts": 22, "dur": 1},
        {"cat": "gpu_user_annotation", "name": "benchmark step", "ts": 7, "dur": 3},
        {"cat": "cpu_op", "name": "aten::conv2d", "ts": 5, "dur": 1},
        {"cat": "kernel", "name": "no duration", "ts": 7},
    ]
    assert spans_of([*others, step]) == ((5.0, 25.0), [(7.0, 10.0), (20.0, 21.0), (22.0, 23.0)])
    with pytest.raises(ValueError, match="no step"):
        spans_of(others)


def test_a_step_is_found_in_a_trace_of_torchs() -> None:
    """On the CPU there are no kernels, so no share is told."""
    calls: list[int] = []
    found = profile_step(lambda: calls.append(int(torch.ones(3).sum())))
    assert calls == [3]
    if not torch.cuda.is_available():
        assert found["device_idle_share"] is None
        assert (found["num_kernels"], found["operations"]) == (0, [])
