"""Tiles that keep what autograd saves are computed once, and nothing else changes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import streamplan
from streamplan.errors import OptionError
from streamplan.runtime import runners
from tests.nets.randomize import randomize_
from tests.nets.unet import unet_bilinear
from tests.runtime.comparison import assert_same_results, run
from tests.runtime.test_memory import net, peak_bytes

SIZE = (1, 3, 96, 80)


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("keep_tiles", [0, 1, 3, 100])
def test_same_results_and_no_second_computation(keep_tiles: int, halo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)
    tile_size = 40 if halo == "reuse" else 60
    streamed = streamplan.compile(model, SIZE, tile_size, halo=halo, keep_tiles=keep_tiles)  # type: ignore[arg-type]
    counted: Counter[tuple[int, ...]] = Counter()

    def counting(segment: object, index: tuple[int, ...], *args: object, **kwargs: object) -> runners.TileRun:
        counted[index] += 1
        return run_tile(segment, index, *args, **kwargs)  # type: ignore[arg-type]

    run_tile = runners.run_tile
    monkeypatch.setattr(runners, "run_tile", counting)
    x = torch.randn(SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
    num_tiles = streamed._plan.num_tiles
    assert num_tiles > 3
    assert len(counted) == num_tiles
    assert counted.total() == 2 * num_tiles - min(keep_tiles, num_tiles)
    assert [counted[index] for index in sorted(counted)] == sorted(counted.values(), reverse=True)


def test_nothing_is_kept_without_a_backward_pass() -> None:
    model = net()
    image = torch.randn(1, 3, 1024, 96)
    peaks = []
    for keep_tiles in (0, 16):
        streamed = streamplan.compile(model, image.shape, (64, 96), keep_tiles=keep_tiles)
        with torch.no_grad():
            peaks.append(peak_bytes(streamed, image))
    assert peaks[0] == peaks[1]


@pytest.mark.parametrize("keep_tiles", [-1, 1.5, "all"])
def test_other_numbers_are_refused(keep_tiles: int) -> None:
    with pytest.raises(OptionError, match="is not a number of tiles"):
        streamplan.plan(net(), (1, 3, 64, 64), 32, keep_tiles=keep_tiles)


def test_the_plan_says_what_is_computed_again() -> None:
    texts = [str(streamplan.plan(net(), (1, 3, 64, 64), 32, keep_tiles=k)) for k in (0, 1, 3, 9)]
    assert "computes all 4 tiles again" in texts[0]
    assert "computes 3 of 4 tiles again; the last tile keeps what autograd saves" in texts[1]
    assert "computes 1 of 4 tiles again; the last 3 tiles keep" in texts[2]
    assert "computes 0 of 4 tiles again; the last 4 tiles keep" in texts[3]
