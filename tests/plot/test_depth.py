"""The picture of all cuts: numbers known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from torch import nn

from streamplan.errors import NothingToStreamError
from streamplan.plot import draw_depth, save_depth
from tests.plot.plans import PNG, classifier

FIELDS = [3, 3, 5, 5]
"""Of the convolutions and ReLUs of `classifier`."""
HALOS = [2, 2, 3, 3]
BYTES = [4 * 8 * 64 * 48, 4 * 8 * 64 * 48, 4 * 16 * 32 * 24, 4 * 16 * 32 * 24]


def lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): [float(y) for y in line.get_ydata()] for line in axes.lines}


def test_known_numbers() -> None:
    above, below = draw_depth(classifier(), (1, 3, 64, 48)).axes
    assert lines(above) == {
        "image, axis 0: 64": [64, 64],
        "image, axis 1: 48": [48, 48],
        "receptive field": FIELDS,
        "halo": HALOS,
    }
    assert above.get_yscale() == "log"
    assert [bar.get_height() for bar in below.patches] == BYTES
    assert [label.get_text() for label in below.get_xticklabels()] == ["0", "1", "2", "3"]


def test_axes_that_differ() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, (1, 5), padding=(0, 2)), nn.MaxPool2d(2))
    above, _ = draw_depth(net, (1, 1, 32, 32)).axes
    assert lines(above) == {
        "image: 32": [32, 32],
        "receptive field, axis 0": [1, 2],
        "halo, axis 0": [0, 0],
        "receptive field, axis 1": [5, 6],
        "halo, axis 1": [4, 4],
    }
    assert above.get_yscale() == "symlog"  # which has a place for 0
    assert above.get_ylim()[0] < 0


@pytest.mark.parametrize(("conv", "size"), [(nn.Conv1d, (1, 1, 64)), (nn.Conv3d, (1, 1, 16, 16, 16))])
def test_other_numbers_of_axes(conv: Any, size: tuple[int, ...]) -> None:
    above, below = draw_depth(nn.Sequential(conv(1, 2, 3), conv(2, 2, 3)), size).axes
    assert lines(above) == {f"image: {size[-1]}": [size[-1]] * 2, "receptive field": [3, 5], "halo": [2, 4]}
    assert len(below.patches) == 2


def test_many_cuts_are_named_in_part() -> None:
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(70)))
    above, below = draw_depth(net, (1, 1, 256, 256)).axes
    names = [label.get_text() for label in below.get_xticklabels()]
    assert len(below.patches) == 70
    assert len(names) <= 32
    assert names[-1] == "69"
    assert lines(above)["receptive field"] == [1 + 2 * (i + 1) for i in range(70)]


def test_an_image_larger_than_memory_and_a_plan_with_options() -> None:
    above, _ = draw_depth(classifier(), (1, 3, 2**17, 2**17)).axes
    assert lines(above)["halo"] == HALOS
    above, _ = draw_depth(classifier(), (1, 3, 64, 48), tile_size=32, halo="recompute").axes
    assert lines(above)["halo"] == HALOS


def test_nothing_to_stream() -> None:
    with pytest.raises(NothingToStreamError):
        draw_depth(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (1, 1, 8, 8))


def test_png(tmp_path: Path) -> None:
    save_depth(classifier(), (1, 3, 64, 48), tmp_path / "depth.png")
    assert (tmp_path / "depth.png").read_bytes().startswith(PNG)
