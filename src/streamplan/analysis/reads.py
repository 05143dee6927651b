"""What one edge of the graph reads along one axis, found in two independent ways.

Both ways answer the same questions, three of them about sets of positions, given as rows of truth values:

    spans     the first position that each output reads, and one past the last
    valid     which outputs can be computed: all that they read is in the set
    touched   which outputs read something of the set
    complete  which inputs are read by no output outside the set: the gradient that reaches them is whole

    conv k3 p1 on 6 samples, set [2, 5):   valid [3, 4)   touched [1, 6)   complete [3, 4)

`PulledReads` looks at the interval that the rule's axis map pulls for each output position. `CountedReads` runs the
rule's count form on zeros and ones, forward and backward through autograd, and compares with what it gives for ones:

    valid(V) = (op(V) == op(1))     touched(V) = (op(V) > 0)     complete(G) = (transposed op(G) == transposed op(1))

Its spans come from three sums over what an output reads: of ones, of the positions, and of their squares. They tell
where a run of positions begins and ends, and whether it is one; where it is not, the transposed op does. All numbers
are integers below 2^53, so float64 holds them and the comparisons are exact.
"""

from __future__ import annotations

from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from streamplan.geometry import IDENTITY, AxisMap, Interval
from streamplan.rules import Rule, RuleContext


class EdgeReads(Protocol):
    """One axis of a streamed call and one map it reads; sets are (cases, positions) of bool, at full size."""

    @property
    def is_identity(self) -> bool:
        """Whether each output reads its own position and nothing else."""
        ...

    def valid(self, inputs: Tensor) -> Tensor:
        """Outputs that read nothing outside `inputs`; those that read nothing at all are among them."""
        ...

    def touched(self, inputs: Tensor) -> Tensor:
        """Outputs that read at least one of `inputs`."""
        ...

    def complete(self, outputs: Tensor) -> Tensor:
        """Inputs that are read by none but `outputs`; those that nobody reads are among them."""
        ...

    @property
    def spans(self) -> tuple[Tensor, Tensor]:
        """First position that each output reads, and one past the last; both 0 if it reads none."""
        ...


class PulledReads:
    """The answers of interval arithmetic: for each output position the clamped pull of the axis map."""

    is_identity: bool
    """See `EdgeReads`."""
    num_inputs: int
    """Positions of the map."""

    def __init__(self, axis_map: AxisMap, num_inputs: int, num_outputs: int) -> None:
        self._axis_map = axis_map
        self.num_inputs = num_inputs
        self._num_outputs = num_outputs
        self.is_identity = axis_map == IDENTITY and num_inputs == num_outputs

    @cached_property
    def spans(self) -> tuple[Tensor, Tensor]:
        """See `EdgeReads`."""
        pulled = [self._axis_map.pull(Interval(o, o + 1)).clamp(self.num_inputs) for o in range(self._num_outputs)]
        starts = torch.tensor([span.start if span.size else 0 for span in pulled], dtype=torch.long)
        return starts, starts + torch.tensor([span.size for span in pulled], dtype=torch.long)

    def valid(self, inputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return inputs if self.is_identity else self._count(~inputs) == 0

    def touched(self, inputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return inputs if self.is_identity else self._count(inputs) > 0

    def complete(self, outputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return outputs if self.is_identity else self._cover(~outputs) == 0

    def _count(self, inputs: Tensor) -> Tensor:
        """Members of `inputs` in the span of each output, from differences of running sums."""
        start, stop = self.spans
        sums = torch.nn.functional.pad(inputs.int().cumsum(1), (1, 0))
        return sums[:, stop] - sums[:, start]

    def _cover(self, outputs: Tensor) -> Tensor:
        """How many of `outputs` span each input: running sums of where spans begin and end."""
        start, stop = self.spans
        steps = torch.zeros(outputs.shape[0], self.num_inputs + 1, dtype=torch.int)
        steps.index_add_(1, start, outputs.int())
        steps.index_add_(1, stop, outputs.int(), alpha=-1)
        return steps.cumsum(1)[:, : self.num_inputs]


class CountedReads:
    """The answers of the averaging-kernel probe: the count form on zeros and ones."""

    def __init__(self, rule: Rule, context: RuleContext, axis: int, num_inputs: int, num_outputs: int) -> None:
        self._rule = rule
        self._context = context
        self._axis = axis
        self.num_inputs = num_inputs
        self._num_outputs = num_outputs

    def valid(self, inputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return inputs if self.is_identity else self._forward(inputs) == self._forward_ones

    def touched(self, inputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return inputs if self.is_identity else self._forward(inputs) > 0

    def complete(self, outputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return outputs if self.is_identity else self._backward(outputs) == self._backward_ones

    @cached_property
    def is_identity(self) -> bool:
        """See `EdgeReads`: whether the count form returns its argument."""
        ones = torch.ones(1, 1, self.num_inputs, dtype=torch.float64)
        return self._rule.count_axis(self._context, self._axis, ones) is ones

    @cached_property
    def _forward_ones(self) -> Tensor:
        return self._forward(torch.ones(1, self.num_inputs, dtype=torch.bool))

    @cached_property
    def _backward_ones(self) -> Tensor:
        return self._backward(torch.ones(1, self._num_outputs, dtype=torch.bool))

    @cached_property
    def spans(self) -> tuple[Tensor, Tensor]:
        """See `EdgeReads`."""
        at = torch.arange(self.num_inputs, dtype=torch.float64)
        count, total, squares = self._forward(torch.stack([at**0, at, at**2]))
        start = (total / count.clamp(min=1) - (count.clamp(min=1) - 1) / 2).round()
        stop = start + count
        is_run = (total == _sum_below(stop) - _sum_below(start)) & (
            squares == _squares_below(stop) - _squares_below(start)
        )
        starts, stops = start.long(), stop.long()
        for outputs in torch.split((~is_run).nonzero()[:, 0], _ROWS) if not is_run.all() else ():
            is_read = self._backward(outputs[:, None] == torch.arange(len(count))) > 0
            starts[outputs] = is_read.int().argmax(1)
            stops[outputs] = self.num_inputs - is_read.flip(1).int().argmax(1)
        return starts, stops

    def _forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self._rule.count_axis(self._context, self._axis, inputs[:, None].double())[:, 0]

    def _backward(self, outputs: Tensor) -> Tensor:
        with torch.enable_grad():
            x = torch.zeros(outputs.shape[0], 1, self.num_inputs, dtype=torch.float64, requires_grad=True)
            counts = self._rule.count_axis(self._context, self._axis, x)
        (gradient,) = torch.autograd.grad(counts, x, outputs[:, None].double())
        return gradient[:, 0]


_ROWS = 64
"""Outputs looked at in one transposed operation."""


def _sum_below(stop: Tensor) -> Tensor:
    """0 + 1 + ... + (stop - 1)."""
    return stop * (stop - 1) / 2


def _squares_below(stop: Tensor) -> Tensor:
    """The same of the squares."""
    return stop * (stop - 1) * (2 * stop - 1) / 6
