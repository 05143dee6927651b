"""What `streamplan.activation_statistics` returns: mean and standard deviation per channel, and their table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor

from streamplan.ir import escaped
from streamplan.printed import Printed

_NAME_WIDTH = 32
"""Columns for the name of an activation."""


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """One activation, over all images and all positions."""

    mean: Tensor
    """Mean of every channel, in float64: (channels,), or what other dimensions there are besides batch and axes."""
    std: Tensor
    """Standard deviation of every channel, of the same shape: the root of the mean squared deviation (divided by
    `count`, not by one less)."""
    count: int
    """Positions per channel, over all images."""
    value: str
    """Name of the value in the plan."""
    op: str
    """Operation that computes it."""
    module_path: str
    """Module it is computed in; "" for the model itself."""


@dataclass(frozen=True, eq=False)
class ActivationStatistics(Mapping[str, ChannelStatistics], Printed):
    """Statistics of every streamed activation, in the order in which they are computed; `print` shows a table."""

    by_name: Mapping[str, ChannelStatistics] = field(repr=False)
    """By name."""
    num_images: int
    """Images seen."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", MappingProxyType(dict(self.by_name)))

    def __getitem__(self, name: str) -> ChannelStatistics:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("activation", "op", "channels", "positions", "mean from", "to", "std from", "to")
        ]
        rows += [_row(name, item) for name, item in self.by_name.items()]
        return "\n".join([f"{len(self)} activations over {self.num_images} images", *aligned(rows)])


def _row(name: str, item: ChannelStatistics) -> tuple[str, ...]:
    return shortened(name), item.op[:20], str(item.mean.numel()), str(item.count), *spread(item.mean), *spread(item.std)


def spread(x: Tensor) -> tuple[str, str]:
    """Smallest and largest of some numbers, as text."""
    return f"{float(x.min()):.4g}", f"{float(x.max()):.4g}"


def shortened(name: str) -> str:
    """The end of a name that is too long for its column."""
    name = escaped(name)
    return name if len(name) <= _NAME_WIDTH else "..." + name[3 - _NAME_WIDTH :]


def aligned(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows of a table, the first of them its head: two columns of text, then numbers."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        texts = [f"{text:<{width}}" for text, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
        yield ("  " + "  ".join([*texts, *numbers])).rstrip()
