"""What a rule is: everything streamplan knows about one operation, in one place.

A rule answers four questions about a call in canonical form:

    classify     is it local, and if not, why
    output_dims  which tensor dimensions of its result are the image's axes
    axis_maps    what it reads of each map, axis by axis
    emit         the Python expression that computes it on a region

A fifth, `count_axis`, says what it reads once more, by torch's own operations; see `streamplan.rules.counting`.
The expression runs on a crop that holds exactly what `axis_maps` says, plus the border that was clamped off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

from torch import Tensor

from streamplan.geometry import IDENTITY, AxisMap
from streamplan.ir import Argument, OpCall, TensorSpec, ValueRef


class Locality(Enum):
    """How much of its input one output position of an operation reads."""

    POINTWISE = "pointwise"
    """The same position of each map."""
    WINDOWED = "windowed"
    """A bounded window of positions."""
    GLOBAL = "global"
    """Possibly the whole map."""
    UNKNOWN = "unknown"
    """No rule says; treated like GLOBAL, and named in the plan."""
    RESIDENT = "resident"
    """It reads a value that is not local, so it comes after the cut."""
    INDEPENDENT = "independent"
    """It does not read the image at all: computed once, before the tiles."""

    @property
    def is_local(self) -> bool:
        """Whether a region of the output depends on a region of the input only."""
        return self in (Locality.POINTWISE, Locality.WINDOWED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The locality of one call, with its reason."""

    locality: Locality
    reason: str = ""
    """Why it is not local; for local operations, a short description of what it reads."""


POINTWISE = Verdict(Locality.POINTWISE, "reads the same position")


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A value that has the image's axes."""

    shape: tuple[int, ...]
    """Full-size shape."""
    dims: tuple[int, ...]
    """Tensor dimension of each image axis, in the order of the axes."""

    @property
    def extents(self) -> tuple[int, ...]:
        """Number of positions along each image axis."""
        return tuple(self.shape[dim] for dim in self.dims)


@dataclass(frozen=True)
class RuleContext:
    """A call and the maps it reads."""

    call: OpCall
    maps: Mapping[str, MapSpec]
    """The inputs of the call that have the image's axes, by name."""
    smalls: Mapping[str, TensorSpec]
    """The other tensors it reads: attributes by path, values computed without the image by name."""

    @property
    def first_map(self) -> MapSpec:
        """The first map the call reads."""
        return next(iter(self.maps.values()))

    @property
    def num_axes(self) -> int:
        """Number of image axes."""
        return len(self.first_map.dims)

    @property
    def output(self) -> TensorSpec:
        """Full-size result; only calls that produce one tensor are given to rules."""
        assert self.call.output is not None
        return self.call.output

    @property
    def is_channels_first(self) -> bool:
        """Whether every map has the layout (batch, channels, axis 0, axis 1, ...)."""
        return all(spec.dims == tuple(range(2, len(spec.shape))) for spec in self.maps.values())

    def small_that_spans(self, dims: tuple[int, ...]) -> str:
        """Name of a small tensor that, broadcast to the result, has an extent along one of `dims`; "" if none."""
        rank = len(self.output.shape)
        for name, spec in self.smalls.items():
            offset = rank - len(spec.shape)
            if any(dim >= offset and spec.shape[dim - offset] != 1 for dim in dims):
                return name
        return ""


@dataclass(frozen=True, slots=True)
class Draw:
    """Random numbers of one call: drawn once per forward pass, the same for all tiles and their recomputation."""

    kind: Literal["seed", "mask"]
    """A seed, from which every position makes its own number; or a mask, of shape (batch, channels, 1, ...)."""
    output: TensorSpec
    """Full-size result of the call."""
    p: float
    """Probability of a zero."""


class CodeWriter(Protocol):
    """What a rule may write into the program."""

    def value(self, argument: Argument) -> str:
        """A value, an attribute or a constant as a Python expression."""
        ...

    def window(self, reference: ValueRef, fill: float = 0.0, *, ahead: bool = False) -> str:
        """The region of a map that the call reads, cropped, and padded with `fill` where the map ends.

        With `ahead`, always through the tile, even where the whole computed region is read.
        """
        ...

    def padded(self, reference: ValueRef, fill: float = 0.0) -> tuple[str, str]:
        """The same for an operation that pads by itself with `fill`: the region, and its `padding` argument or ""."""
        ...

    @property
    def overwrites(self) -> str:
        """Argument that the call may write its result over; "" if none."""
        ...

    @property
    def drawn(self) -> str:
        """The random tensor that the rule's `draw` asks for; "" if it asks for none."""
        ...

    def step(self, helper: str, *arguments: str) -> str:
        """A call of a tile helper: `t.<helper>(<arguments>, "<call name>")`."""
        ...

    def function(self, function: Callable[..., Any]) -> str:
        """The name that `function` has in the program: its own where that is free."""
        ...


class Rule(ABC):
    """Everything known about one canonical operation."""

    summary: str = ""
    """One line for the table of operations in the documentation."""
    joins_maps: bool = False
    """Whether a call may read several maps; else its `input` alone is one."""
    identity: str = ""
    """What tells two registered rules of the same class apart, for the fingerprint of a plan."""

    @abstractmethod
    def classify(self, ctx: RuleContext) -> Verdict:
        """Locality of the call, with the reason."""

    def output_dims(self, ctx: RuleContext) -> tuple[int, ...]:
        """Tensor dimension of each image axis in the result of a local call."""
        return ctx.first_map.dims

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """What a local call reads of map `name`, one axis map per image axis."""
        return (IDENTITY,) * ctx.num_axes

    def draw(self, ctx: RuleContext) -> Draw | None:
        """The random numbers that a local call needs, if any."""
        return None

    @abstractmethod
    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """Python expression for the call on the region at hand."""

    def count_axis(self, ctx: RuleContext, axis: int, x: Tensor) -> Tensor:
        """How many of the samples that each output position reads are at hand.

        The averaging-kernel probe uses it to check `axis_maps`, so it must not be written in terms of them.

        Args:
            ctx: A local call.
            axis: Image axis, from 0.
            x: 1 for each sample of the axis that is at hand, 0 for the others, at full size: (batch, 1, positions)
                in float64.

        Raises:
            NotImplementedError: The rule reads windows and has no count form.
        """
        if self.classify(ctx).locality is not Locality.POINTWISE:
            raise NotImplementedError(f"{type(self).__name__} has no count form")
        return x
