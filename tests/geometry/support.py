"""The oracle of this folder: which inputs an output of a real operation depends on, by its float64 gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from streamplan.geometry import AxisMap, Interval, read_axis


def reads_of(function: Callable[[Tensor], Tensor], extent: int) -> list[set[int]]:
    """For each output position of a 1-D operation, the input positions with a non-zero gradient."""
    x = torch.rand(1, 1, extent, dtype=torch.float64).add_(1).requires_grad_()
    out = function(x)
    supports = []
    for position in range(out.shape[2]):
        if not out.requires_grad:
            supports.append(set[int]())
            continue
        (gradient,) = torch.autograd.grad(out[0, 0, position], x, retain_graph=True)
        supports.append(set(gradient[0, 0].nonzero().flatten().tolist()))
    return supports


def assert_reads_support(
    axis_map: AxisMap, reads: Sequence[set[int]], extent: int, data: st.DataObject, *, reads_border: bool = True
) -> None:
    """Raise unless a drawn interval of outputs is said to read at least what its outputs depend on."""
    start = data.draw(st.integers(0, len(reads) - 1), label="start")
    stop = data.draw(st.integers(start + 1, len(reads)), label="stop")
    read = read_axis(axis_map, Interval(start, stop), extent)
    assert 0 <= read.span.start <= read.span.stop <= extent
    assert read.before >= 0
    assert read.after >= 0
    needed = set().union(*reads[start:stop])
    assert needed <= set(range(read.span.start, read.span.stop)), (start, stop, read)
    if read.before and not read.span.is_empty and reads_border:
        assert read.span.start == 0
    if read.after:
        assert read.span.stop == extent
