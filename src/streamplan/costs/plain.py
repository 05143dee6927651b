"""What the plain net takes: one training step on tensors without data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from streamplan.costs.footprints import META
from streamplan.costs.liveness import LiveBytes, Reserve
from streamplan.ir import TensorSpec
from streamplan.planning.arguments import CallArguments
from streamplan.planning.projection import MemoryProjection, PhaseProjection, ProjectedItem
from streamplan.trace.containers import leaves, mapped


def project_plain(
    net: nn.Module,
    arguments: CallArguments,
    reserve: Reserve | None = None,
    optimizer_bytes: int = 0,
) -> MemoryProjection:
    """What a training step of the plain net needs, with a loss whose gradient reaches all that it returns.

    Args:
        net: The model on the meta device; it is run.
        arguments: The call.
        reserve: What operations take besides their tensors.
        optimizer_bytes: State that the optimiser keeps.
    """
    args, kwargs = mapped(_empty, (arguments.args, dict(arguments.kwargs)))
    inputs = [x for _, x in leaves((args, kwargs)) if isinstance(x, Tensor)]
    parameters, buffers = list(net.parameters()), list(net.buffers())
    for parameter in parameters:
        parameter.grad = None
    with LiveBytes(reserve, [*inputs, *parameters, *buffers]) as live:
        outputs = [x for x in pytree.tree_leaves(net(*args, **kwargs)) if isinstance(x, Tensor) and x.requires_grad]
        saved, forward, forward_total = live.current_bytes, live.peak_bytes, live.peak_with_reserve
        if outputs:
            torch.autograd.backward(outputs, [torch.empty_like(x) for x in outputs])
    base = {
        "parameters": sum(x.nbytes for x in parameters),
        "buffers": sum(x.nbytes for x in buffers),
        "image": sum(x.nbytes for x in inputs),
        "optimiser state": optimizer_bytes,
        "activations saved for the backward pass": saved,
    }
    phases = (
        _phase("forward", "", base, forward - saved, forward_total - forward),
        _phase(
            "backward", live.peak_operation, base, live.peak_bytes - saved, live.peak_with_reserve - live.peak_bytes
        ),
    )
    return MemoryProjection(phases, 0)


def _empty(_: str, value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device=META) if isinstance(value, TensorSpec) else value


def _phase(name: str, operation: str, base: dict[str, int], above: int, work_space: int) -> PhaseProjection:
    what = "gradients and temporaries" if name == "backward" else "temporaries"
    items = [ProjectedItem(*item) for item in {**base, what: above, "work space of kernels": work_space}.items()]
    present = sorted((item for item in items if item.num_bytes > 0), key=lambda item: -item.num_bytes)
    return PhaseProjection(name, tuple(present), operation)
