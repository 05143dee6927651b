r"""The averaging-kernel probe: receptive fields and tile overlaps from torch's own operations, without intervals.

The paper (Pinckaers, van Ginneken and Litjens, 2020) sets all kernels to 1/n, passes an all-ones tile through the net
and counts values below the maximum at each side. Taken literally that breaks with depth; see
`streamplan.analysis.literal`. The form used here is a theorem. Per axis, in positions of the *full-size* maps:

    V = 0/1 indicator of the tile on the image
    per operation, in count form (`streamplan.rules.counting`):  V_out = (op(V_in) == op(ones)), again 0/1
    a join takes the minimum over its maps

    Theorem:  V_out = { o : clamped pull([o, o + 1)) lies inside V_in }

*Proof.* All taps are 1 and padding counts 0, so op(ones)[o] is the number of taps of o that lie inside the map and
op(V)[o] the number of those that also lie in V. They are equal if and only if all of them do. The taps of o, gaps of
dilated kernels filled, are exactly the interval that o pulls; what is clamped off it is what lies in padding. A window
wholly in padding, a constant sample of `F.pad`, or a gap of a transposed convolution has 0 = 0: it lacks nothing.

**Forward overlap.** With T the outputs that read any sample of the tile (the same construction with > 0 for ==), the
positions T \ V are what a tile begins to compute and cannot finish. At each side of the tile:

    conv k3 p1 twice, tile [8, 20):  first conv   T [7, 21)  V [9, 19)    overlap 2 and 2
                                     second conv  T [6, 22)  V [10, 18)   overlap 4 and 4

**Backward overlap.** Let G be the positions of a value whose gradient a tile computes in full. At the cut, a tile knows
dL/dp where its own forward pass is right, so G = V there. A position i of an earlier value gets

    dL/dv[i]  =  sum over readers w and outputs o of w that read i of  (dw[o]/dv[i])^T dL/dw[o]

which is whole if and only if every o that reads i is in G of w. In the probe that is the count form's transpose, taken
by autograd, which knows nothing of the rules:

    G_v = ( op^T(G_w) == op^T(ones) ),  the minimum over the readers w, and with V where v itself leaves at the cut

By induction G_v holds the positions from which every path to the cut ends in V. The backward overlap is T \ G:

    same net and tile, cut behind it:  second conv  T [6, 22)  G [10, 18)   overlap 4 and 4
                                       first conv   T [7, 21)  G [11, 17)   overlap 4 and 4
                                       image        T [8, 20)  G [12, 16)   overlap 4 and 4

The image loses twice what the receptive field reaches to a side, 2: once to have right outputs, and once more to have
all outputs that read a sample. The paper's tiles overlap by that much. streamplan's do not: it sums the shares of the
tiles instead of picking positions whose gradient one tile has in full; see `docs/receptive_field.md`.

`max_pool` counts like a sum: any of its taps can be the maximum, and get the gradient. `detach`, comparisons and
rounding pass no gradient; they count as if they did.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from streamplan.analysis.fields import measured_stride, only_inside, spans_of
from streamplan.analysis.reads import CountedReads, PulledReads
from streamplan.analysis.unbounded import EffectiveStride, Reads
from streamplan.errors import ProbeMismatchError
from streamplan.ir import OpCall


class CheckedReads:
    """Every question answered both ways; a difference is an error."""

    def __init__(self, pulled: PulledReads, counted: CountedReads, call: OpCall, axis: int) -> None:
        self._pulled = pulled
        self._counted = counted
        self._call = call
        self._axis = axis

    @cached_property
    def is_identity(self) -> bool:
        """Whether each output reads its own position, both ways."""
        return self._pulled.is_identity and self._counted.is_identity

    @cached_property
    def spans(self) -> tuple[Tensor, Tensor]:
        """See `EdgeReads`.

        Raises:
            ProbeMismatchError: The two ways differ at some position.
        """
        pulled, counted = torch.stack(self._pulled.spans), torch.stack(self._counted.spans)
        if torch.equal(pulled, counted):
            return self._pulled.spans
        if pulled.shape != counted.shape:
            sizes = f"{pulled.shape[1]} positions by its recorded size, {counted.shape[1]} by the probe"
            raise _mismatch(self._call, self._axis, f"the result has {sizes}")
        position = int((pulled != counted).any(0).nonzero()[0])
        (one, other) = (f"[{span[0]}, {span[1]})" for span in (pulled[:, position], counted[:, position]))
        why = f"position {position} reads {one} by interval arithmetic, {other} by averaging kernels"
        raise _mismatch(self._call, self._axis, why)

    def valid(self, inputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return self._agreed(self._pulled.valid(inputs), self._counted.valid(inputs), "computable outputs")

    def touched(self, inputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        return self._agreed(self._pulled.touched(inputs), self._counted.touched(inputs), "outputs that read the tile")

    def complete(self, outputs: Tensor) -> Tensor:
        """See `EdgeReads`."""
        pulled, counted = self._pulled.complete(outputs), self._counted.complete(outputs)
        return self._agreed(pulled, counted, "inputs with complete gradients")

    def _agreed(self, pulled: Tensor, counted: Tensor, what: str) -> Tensor:
        if pulled is counted or torch.equal(pulled, counted):
            return pulled
        raise _mismatch(self._call, self._axis, _difference(pulled, counted, what))


def _difference(pulled: Tensor, counted: Tensor, what: str) -> str:
    """Both numbers, of the first case in which they differ."""
    case = int((pulled != counted).any(1).nonzero()[0])
    position = int((pulled[case] != counted[case]).nonzero()[0])
    numbers = f"{int(pulled[case].sum())} by interval arithmetic, {int(counted[case].sum())} by averaging kernels"
    return f"{what}: {numbers}; the first position that differs is {position} of {pulled.shape[1]}"


def check_fields(call: OpCall, axis: int, expected: Reads, stride: EffectiveStride, measured: Reads) -> None:
    """Compare what positions away from the borders read, by interval arithmetic, with what the probe measured.

    Args:
        call: The call that computes the value.
        axis: Image axis.
        expected: Reads of the positions in the middle, were the image unbounded.
        stride: Effective stride by interval arithmetic.
        measured: Reads of the same positions on the image.

    Raises:
        ProbeMismatchError: They differ.
    """
    pairs = zip(spans_of(expected), spans_of(measured), expected.is_inside.tolist(), strict=True)
    for one, other, is_inside in pairs:
        if is_inside and one != other:
            raise _mismatch(call, axis, f"reads {_span(one)} by interval arithmetic, {_span(other)} by the probe")
    inside = measured.of(only_inside(expected).positions)
    found = measured_stride(inside)
    is_telling = stride.is_agreed and 3 * stride.period <= inside.positions.size
    if is_telling and found not in (None, stride.samples):
        raise _mismatch(call, axis, f"effective stride {stride.samples} by interval arithmetic, {found} by the probe")


def _span(span: tuple[int, int, int] | None) -> str:
    return "nothing" if span is None else f"[{span[1]}, {span[2]}) at position {span[0]}"


def _mismatch(call: OpCall, axis: int, why: str) -> ProbeMismatchError:
    return ProbeMismatchError(
        f"the pulls of {call.name} ({call.op}) disagree with the averaging-kernel probe",
        where=f"{call.where}, axis {axis}",
        why=why,
        do="this is a bug in the rule of the operation: do not trust a plan that streams it, cut before it, and\n"
        "please report it with the operation and its arguments",
    )
