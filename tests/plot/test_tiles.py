"""The picture of the tiles: all of them, and what the one in the middle reads, against the gradient of the net."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import streamplan
from streamplan.plot import draw_tiles, save_tiles
from tests.plot.plans import PNG, arrows, classifier, local_net, reads, rectangles, tile_outlines

SIZE = (1, 1, 72, 48)


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def only_axes(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def covers_once(boxes: list[tuple[float, float, float, float]], width: float, height: float) -> bool:
    inside = all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for x0, y0, x1, y1 in boxes)
    return inside and len(set(boxes)) == len(boxes) and sum((c - a) * (d - b) for a, b, c, d in boxes) == width * height


def test_recomputed_halo_is_what_the_gradient_says() -> None:
    net = local_net()
    plan = streamplan.plan(net, SIZE, tile_size=24, halo="recompute")
    axes = only_axes(draw_tiles(plan))
    assert len(tile_outlines(axes)) == plan.num_tiles > 9
    assert covers_once(tile_outlines(axes), 48, 72)
    ((left, top, right, bottom),) = rectangles(axes, "reads ")
    for axis, found in enumerate([(top, bottom), (left, right)]):
        middle = plan.grid[axis] // 2
        assert found == reads(net, SIZE, axis, *plan.boundaries[axis][middle : middle + 2])


@pytest.mark.parametrize("kernel", [3, 7])
def test_received_samples_are_what_new_positions_read(kernel: int) -> None:
    net = local_net(kernel=kernel)
    plan = streamplan.plan(net, SIZE, tile_size=16, halo="reuse")
    axes = only_axes(draw_tiles(plan))
    assert covers_once(tile_outlines(axes), 48, 72)
    ((left, top, right, bottom),) = rectangles(axes, "tile ")
    ((_, above, _, above_stop),) = rectangles(axes, "samples behind what it receives from the tile above")
    ((beside, corner, beside_stop, beside_bottom),) = rectangles(
        axes, "samples behind what it receives from the tile to"
    )
    begins = [sorted(set(stops))[:-1] for stops in plan.boundaries]
    assert [top, left] == [along[len(along) // 2] for along in begins]
    for axis, (start, found) in enumerate([(top, above), (left, beside)]):
        spans = (reads(net, SIZE, axis, position, position + 1) for position in range(SIZE[2 + axis] // 2))
        assert found == next(span[0] for span in spans if span[1] > start)
    assert (above_stop, beside_stop, corner, beside_bottom) == (top, left, above, bottom)
    assert right - left == plan.boundaries[1][1]


def test_arrows_and_numbers() -> None:
    plan = streamplan.plan(local_net(), SIZE, tile_size=24, halo="reuse")
    axes = only_axes(draw_tiles(plan))
    assert plan.grid == (3, 2)
    assert arrows(axes) == 3 * 1 + 2 * 2
    assert [text.get_text() for text in axes.texts if text.get_text()] == ["1", "2", "3", "4", "5", "6"]
    assert not arrows(only_axes(draw_tiles(streamplan.plan(local_net(), SIZE, tile_size=24, halo="recompute"))))


def test_steps_after_the_image_are_told_and_not_drawn() -> None:
    net = local_net(kernel=41)
    plan = streamplan.plan(net, (1, 1, 128, 16), tile_size=(8, 16), halo="reuse")
    late = sum(a == b for a, b in zip(plan.boundaries[0], plan.boundaries[0][1:], strict=False))
    figure = draw_tiles(plan)
    assert late > 0
    assert len(tile_outlines(only_axes(figure))) == plan.num_tiles - late
    assert any(text.endswith(f"image has ended: {late} along the rows") for text in legend_texts(figure))


def test_a_fine_grid_is_drawn_twice() -> None:
    plan = streamplan.plan(local_net(), (1, 1, 800, 200), tile_size=8, halo="reuse")
    whole, detail = draw_tiles(plan).axes
    num_rows = len({top for _, top, _, _ in tile_outlines(whole)})
    assert num_rows < 30 < 800 / 8  # some are left out
    assert len({left for left, _, _, _ in tile_outlines(whole)}) == 200 / 8
    assert rectangles(detail, "tile 1")
    assert not rectangles(whole, "tile 1")
    ((left, top, right, bottom),) = rectangles(whole, "shown larger")
    (x0, x1), (y1, y0) = detail.get_xlim(), detail.get_ylim()
    assert (left, top, right, bottom) == (x0, y0, x1, y1)
    inside = rectangles(detail, "tile 1") + rectangles(detail, "samples behind")
    assert all(x0 < a and b < x1 and y0 < c and d < y1 for a, c, b, d in inside)


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_one_axis(halo: str) -> None:
    net = local_net(1)
    plan = streamplan.plan(net, (1, 1, 256), tile_size=64, halo=halo)
    axes = only_axes(draw_tiles(plan))
    assert len(tile_outlines(axes)) == plan.num_tiles
    assert not axes.yaxis.get_visible()
    if halo == "recompute":
        ((left, _, right, _),) = rectangles(axes, "reads ")
        middle = plan.num_tiles // 2
        assert (left, right) == reads(net, (1, 1, 256), 0, *plan.boundaries[0][middle : middle + 2])
    else:
        assert not rectangles(axes, "samples behind what it receives from the tile above")
        assert arrows(axes) == plan.num_tiles - 1


def test_three_axes_show_the_last_two() -> None:
    plan = streamplan.plan(local_net(3), (1, 1, 32, 48, 64), tile_size=24, halo="recompute")
    figure = draw_tiles(plan)
    axes = only_axes(figure)
    assert covers_once(tile_outlines(axes), 64, 48)
    assert len(tile_outlines(axes)) == plan.grid[1] * plan.grid[2] < plan.num_tiles
    assert any("last two axes" in text.get_text().replace("\n", " ") for text in figure.texts)


def test_to_scale_or_not() -> None:
    assert only_axes(draw_tiles(streamplan.plan(local_net(), SIZE, tile_size=32))).get_aspect() == 1
    long = draw_tiles(streamplan.plan(local_net(), (1, 1, 16, 512), tile_size=64))
    assert only_axes(long).get_aspect() == "auto"
    assert any("not to scale" in text.get_text() for text in long.texts)


def test_one_tile_alone() -> None:
    for halo in ("reuse", "recompute"):
        axes = only_axes(draw_tiles(streamplan.plan(local_net(), SIZE, tile_size=96, halo=halo)))
        assert tile_outlines(axes) == [(0, 0, 48, 72)]


def test_a_plan_from_a_file(tmp_path: Path) -> None:
    plan = streamplan.plan(classifier(), (1, 3, 64, 64), tile_size=16)
    save_tiles(plan, tmp_path / "a.png")
    save_tiles(streamplan.Plan.from_json(plan.to_json()), str(tmp_path / "b.png"))
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first.startswith(PNG)
    assert first == second
