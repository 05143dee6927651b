"""The report of `streamplan.receptive_field`: numbers per value and axis, and their table, at most 100 columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from streamplan.analysis.fields import AxisField, Sides
from streamplan.ir import escaped
from streamplan.printed import Printed

Method = Literal["analytic", "probe", "both"]
"""How the numbers were found: by interval arithmetic, by averaging kernels, or by both, compared at every step."""

_MAX_ROWS = 32
"""Values shown; of a longer net the first and the last of each map size."""
_NAME_WIDTH = 26
"""Columns for the name of a value."""

_METHODS = {
    "analytic": "interval arithmetic",
    "probe": "averaging kernels",
    "both": "interval arithmetic and averaging kernels, which agree",
}


@dataclass(frozen=True)
class ValueField:
    """The numbers of one streamed value, seen from one input of the model."""

    value: str
    """Name of the value."""
    op: str
    """Operation that computes it."""
    module_path: str
    """Module it is computed in; "" for the model itself."""
    input: str
    """Input of the model that is divided into tiles; the numbers count its samples."""
    extents: tuple[int, ...]
    """Positions along each axis."""
    is_pointwise: bool
    """Whether it reads one value at the same position, and so has that value's numbers."""
    axes: tuple[AxisField, ...]
    """The numbers, per image axis."""

    @property
    def label(self) -> str:
        """The module path, or the name of the value where it is not the only one of its module."""
        return self.module_path or self.value


@dataclass(frozen=True)
class ReceptiveFieldReport(Printed):
    """Receptive field, effective stride, halo and tile overlap of every streamed value; `print` shows a table."""

    model: str
    """Class name of the model."""
    input_size: tuple[int, ...]
    """Size of the first input."""
    tile_size: tuple[int, ...]
    """Samples of the tile whose overlaps are told, per axis."""
    method: Method
    """How the numbers were found."""
    cut: tuple[str, ...]
    """Names of the values at the cut."""
    values: tuple[ValueField, ...]
    """The image and all streamed values in the order of computation, once for each input they depend on."""
    notes: tuple[str, ...] = ()
    """What restricts the numbers."""

    @property
    def cut_values(self) -> tuple[ValueField, ...]:
        """The values at the cut."""
        return tuple(value for value in self.values if value.value in self.cut)

    def __getitem__(self, name: str) -> ValueField:
        """The numbers of a value, by its name or by the path of the module that computes it last.

        Raises:
            KeyError: There is no such streamed value.
        """
        for value in self.values:
            if value.value == name:
                return value
        for value in reversed(self.values):
            if value.module_path == name:
                return value
        raise KeyError(f"no streamed value or module is named {name!r}")

    def __str__(self) -> str:
        return "\n".join(_text(self))


def _text(report: ReceptiveFieldReport) -> Iterator[str]:
    shown = _telling(report)
    size = f"({', '.join(map(str, report.input_size))})"
    yield f"{escaped(report.model)}: receptive field and tile overlap, in samples and positions per axis"
    yield f"  input {size}, tile {_by(report.tile_size)}; by {_METHODS[report.method]}"
    yield ""
    yield from _table(report, shown)
    hidden = len({value.value for value in report.values} - {value.value for value in shown})
    if hidden:
        yield f"  (* at the cut; {hidden} more in .values, those that read one value at the same position among them)"
    else:
        yield "  (* at the cut)"
    for note in report.notes:
        yield f"note: {note}"


def _telling(report: ReceptiveFieldReport) -> list[ValueField]:
    """Values with numbers of their own and those at the cut; of many, the first and last of each map size."""
    own = [value for value in report.values if not value.is_pointwise or value.value in report.cut]
    if len(own) <= _MAX_ROWS:
        return own
    shown: list[ValueField] = []
    for _, run in groupby(own, key=lambda value: (value.input, value.extents)):
        first, *others = run
        shown += [first, *(value for value in others if value.value in report.cut or value is others[-1])]
    return shown


def _table(report: ReceptiveFieldReport, shown: list[ValueField]) -> Iterator[str]:
    several_inputs = len({value.input for value in report.values}) > 1
    rows: list[tuple[str, ...]] = [
        ("", "value", "axis", "op", "field", "stride", "halo", "overlap", "backward", "paper's probe")
    ]
    for value in shown:
        name = f"{value.label} of {value.input}" if several_inputs else value.label
        groups = {field: [axis for axis, other in enumerate(value.axes) if other == field] for field in value.axes}
        for field, axes in groups.items():
            mark = "*" if value.value in report.cut else ""
            axis = "" if len(groups) == 1 else ",".join(map(str, axes))
            rows.append((mark, _shorten(name, _NAME_WIDTH), axis, value.op[:16], *_numbers(field)))
    kept = [column for column in range(len(rows[0])) if column in (0, 1) or any(row[column] for row in rows[1:])]
    rows = [tuple(row[column] for column in kept) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _numbers(field: AxisField) -> tuple[str, ...]:
    literal = ""
    if field.literal_forward is not None or field.literal_backward is not None:
        literal = f"{_sides(field.literal_forward)} / {_sides(field.literal_backward)}"
    halo = f"{field.before}, {field.after}" if field.before is not None else "-"
    return (
        "-" if field.receptive_field is None else str(field.receptive_field),
        "-" if field.stride is None else str(field.stride),
        halo,
        _sides(field.forward_overlap),
        _sides(field.backward_overlap),
        literal,
    )


def _sides(sides: Sides | None) -> str:
    return "-" if sides is None else f"{sides[0]}, {sides[1]}"


def _by(extents: tuple[int, ...]) -> str:
    return " x ".join(map(str, extents))


def _shorten(text: str, width: int) -> str:
    text = escaped(text)
    return text if len(text) <= width else "..." + text[3 - width :]
