"""Names beside points, as many as find a place where nothing else stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from streamplan.plot.figures import INK, SMALL

_NEAREST = 7
_PLACES = tuple(
    (distance * x, distance * y)
    for distance in (_NEAREST, 16, 28, 42, 56)
    for x, y in ((1, 1), (-1, -1), (1, 0), (-1, 0), (1, -1), (-1, 1), (0, 1), (0, -1))
    if (x and y) or distance == _NEAREST
)
"""Where a label may stand beside its point, in font points, the nearest places first; far ones aslant, so that lines
to them are told from those of the picture."""
_LEADER = {"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3}
"""Look of the line from a label to its point."""
_NEAR = 10
"""Distance beyond which there is one."""
_POINT = 5
"""Half the size of a point, in pixels."""


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    wanted: Iterable[tuple[int, str]],
    lines: Iterable[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> list[Annotation]:
    """Name points, each label where it covers neither a point, nor a line, nor another label, nor the axes' end.

    The axes must have their final limits and the figure its final size. A label without a place is left out.

    Args:
        axes: Where the points are drawn.
        points: All that must not be covered, in data coordinates.
        wanted: Numbers of points and their labels, the most important first.
        lines: Ends of lines along one of the axes that must not be covered either.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    dots = [_around(*axes.transData.transform(point)) for point in points]
    fixed = [Bbox(axes.transData.transform(line)).padded(1) for line in lines]
    taken: list[Bbox] = []
    placed = []
    for number, text in wanted:
        label = _place(axes, points[number], text, inside, _Others(dots, fixed, taken))
        if label is not None:
            taken += [_text_box(label), *_line(label)]
            placed.append(label)
    return placed


@dataclass(frozen=True)
class _Others:
    """What is there already, in pixels."""

    dots: Sequence[Bbox]
    lines: Sequence[Bbox]
    labels: Sequence[Bbox]
    """Labels, and the lines that lead from them."""

    def are_free_of(self, box: Bbox, line: Sequence[Bbox]) -> bool:
        """Whether a label covers none of them, and its line no label, and no line but close to its point."""
        return (
            not any(box.overlaps(other) for other in (*self.dots, *self.lines, *self.labels))
            and not any(part.overlaps(other) for part in line for other in self.labels)
            and not any(part.overlaps(other) for part in line[: -len(line) // 3] for other in self.lines)
        )


def _place(axes: Axes, point: tuple[float, float], text: str, inside: Bbox, others: _Others) -> Annotation | None:
    """The label at the first place that is free."""
    for x, y in _PLACES:
        is_far = max(abs(x), abs(y)) > _NEAR
        label = axes.annotate(
            text, point, (x, y), "data", "offset points", fontsize=SMALL - 0.5, color=INK, linespacing=1.05,
            ha="left" if x > 0 else "right" if x < 0 else "center",
            va="bottom" if y > 0 else "top" if y < 0 else "center",
            arrowprops=_LEADER if is_far else None,
        )  # fmt: skip
        box = _text_box(label)
        if _contains(inside, box) and others.are_free_of(box, _line(label)):
            return label
        label.remove()
    return None


def _text_box(label: Annotation) -> Bbox:
    """Pixels of the text, without the line to its point."""
    label.get_window_extent()  # moves the text to where it is drawn
    return Text.get_window_extent(label).padded(1)


def _line(label: Annotation) -> list[Bbox]:
    """The line from the text to its point, in small pieces; none if the text is near."""
    if label.arrow_patch is None:
        return []
    box = _text_box(label)
    start = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    stop = label.axes.transData.transform(label.xy) if label.axes else start
    parts = [(start[0] + i / 16 * (stop[0] - start[0]), start[1] + i / 16 * (stop[1] - start[1])) for i in range(16)]
    return [Bbox.from_extents(x - 1, y - 1, x + 1, y + 1) for x, y in parts if not box.contains(x, y)]


def _around(x: float, y: float) -> Bbox:
    return Bbox.from_extents(x - _POINT, y - _POINT, x + _POINT, y + _POINT)


def _contains(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1)
