"""The parts of a training step that are not tiles, and its tiles, run on tensors without data."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from streamplan.codegen import load_prepared
from streamplan.costs.footprints import (
    META,
    BackwardFootprint,
    ForwardFootprint,
    Index,
    Peak,
    TileSimulator,
    peak_seen,
)
from streamplan.costs.liveness import LiveBytes, Reserve
from streamplan.dtypes import is_differentiable
from streamplan.planning import PreparedPlan
from streamplan.runtime import build_segment
from streamplan.trace.replay.known_results import KnownResults


@dataclass(frozen=True)
class ModelBytes:
    """What is there before a step, and what the small tensors take."""

    parameters: int
    buffers: int
    images: int
    made: int
    """Folded and otherwise derived tensors, with what their own backward pass needs."""
    sums: int
    """Gradients of small tensors, added up over tiles."""
    streamed_gradients: int
    """Gradients of the parameters that tiles read, folded or not."""


@dataclass(frozen=True)
class HeadFootprint:
    """What the resident part takes, forward and backward."""

    peak: Peak
    gradient_bytes: int
    """Of its parameters."""
    cut_gradient_bytes: int
    output_bytes: int
    """Of what it returns, which the caller has until the backward pass has ended."""


class _CutValue(torch.autograd.Function):
    """A cut value with a history: its gradient is handed to the tiles as it is, and not kept as a leaf's would be."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


class StepSimulator:
    """Runs the parts of a training step on tensors without data, each when it is asked for and once.

    Args:
        model: The model, on the meta device.
        prepared: The plan.
        reserve: What operations take besides their tensors.
    """

    def __init__(self, model: nn.Module, prepared: PreparedPlan, reserve: Reserve | None = None) -> None:
        self._program = load_prepared(prepared)
        self.prepared, self._reserve, self._results = prepared, reserve, KnownResults()
        self.segment = build_segment(prepared, self._program.program.smalls, self._program.tile)
        self._model = model
        specs = dict(zip((call.name for call in prepared.graph.inputs), prepared.plan.arguments.specs(), strict=False))
        self._values: dict[str, Any] = {
            name: torch.empty(spec.shape, dtype=spec.dtype, device=META) for name, spec in specs.items()
        }
        self._smalls, self._made = self._prepare()
        self._tiles = TileSimulator(self.segment, self._smalls, (), reserve, self._results)
        self._forward: dict[Index, ForwardFootprint] = {}
        self._backward: dict[tuple[Index, bool], BackwardFootprint] = {}

    def _prepare(self) -> tuple[dict[str, Tensor], int]:
        """Small tensors of the tiles, and the bytes that came with them."""
        program = self._program.program
        known = [*self._model.parameters(), *self._model.buffers(), *self._values.values()]
        with LiveBytes(None, known, self._results) as live:
            early = self._program.prologue(self._model, *(self._values[name] for name in program.prologue_inputs))
            self._values |= dict(zip(program.prologue_values, early, strict=True))
            weights = {path: operator.attrgetter(path)(self._model) for path in program.attributes}
            weights |= {name: self._values[name] for name in program.prologue_smalls}
            drawn = {name: _drawn(draw) for name, draw in self.prepared.lowered.draws.items()}
            tensors = {**weights, **dict(self._program.derive(weights)), **drawn}
            smalls = {name: self.segment.ordered(tensors[name]) for name in program.smalls}
            del tensors, weights, early
        return smalls, live.current_bytes

    @cached_property
    def own(self) -> ModelBytes:
        """What does not depend on the tiles."""
        parameters = list(self._model.parameters())
        wanted = [x for x in self._smalls.values() if x.requires_grad]
        handed_over = {x.untyped_storage()._cdata for x in wanted}  # their sums become the parameters' gradients
        streamed = {
            id(p): p
            for name, p in self._model.named_parameters(remove_duplicate=False)
            if name in self._program.program.attributes and p.untyped_storage()._cdata not in handed_over
        }
        return ModelBytes(
            parameters=sum(p.nbytes for p in parameters),
            buffers=sum(b.nbytes for b in self._model.buffers()),
            images=sum(self._values[name].nbytes for name in self.segment.part.input_maps),
            made=self._made,
            sums=sum(x.nbytes for x in wanted),
            streamed_gradients=sum(p.nbytes for p in streamed.values() if p.requires_grad),
        )

    @cached_property
    def head(self) -> HeadFootprint:
        """The resident part, with a loss whose gradient reaches all that it returns."""
        is_wanted = any(x.requires_grad for x in self._smalls.values())
        anchor = torch.empty((), device=META, requires_grad=is_wanted)
        arrived: dict[str, int] = {}
        cut: dict[str, Tensor] = {}
        for name, spec in self.segment.outputs.items():
            x = torch.empty(spec.shape, dtype=spec.dtype, device=META)
            cut[name] = _CutValue.apply(anchor, x) if is_differentiable(spec.dtype) else x  # type: ignore[no-untyped-call]
            if cut[name].requires_grad:
                cut[name].register_hook(  # type: ignore[no-untyped-call]
                    lambda gradient, name=name: arrived.update({name: gradient.nbytes})
                )
        values = {**self._values, **cut}
        leaves = pytree.tree_leaves([values, list(self._model.parameters()), list(self._model.buffers())])
        known = [x for x in leaves if isinstance(x, Tensor)]
        for parameter in self._model.parameters():
            parameter.grad = None
        with LiveBytes(self._reserve, known, self._results) as live:
            result = self._program.head(self._model, *(values[name] for name in self._program.program.head_inputs))
            outputs = [x for x in pytree.tree_leaves(result) if isinstance(x, Tensor) and x.requires_grad]
            there = {x.untyped_storage()._cdata for x in known}
            own = {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in outputs}
            output_bytes = sum(count for key, count in own.items() if key not in there)
            seeds = [torch.empty_like(x) for x in outputs]
            del result, values
            if outputs:
                torch.autograd.backward(outputs, seeds)
            del outputs, seeds
        gradients = sum(p.grad.nbytes for p in self._model.parameters() if p.grad is not None)
        for parameter in self._model.parameters():
            parameter.grad = None
        return HeadFootprint(peak_seen(live), gradients, sum(arrived.values()), output_bytes)

    def forward(self, index: Index) -> ForwardFootprint:
        """A tile without autograd; those of a kind are alike."""
        kind = self.segment.kind(index)
        if kind not in self._forward:
            self._forward[kind] = self._tiles.forward(index)
        return self._forward[kind]

    def backward(self, index: Index, *, is_first: bool = False) -> BackwardFootprint:
        """A tile with autograd; those of a kind are alike, but for the first of the pass."""
        key = self.segment.kind(index), is_first
        if key not in self._backward:
            self._backward[key] = self._tiles.backward(index, is_first=is_first)
        return self._backward[key]


def _drawn(draw: Any) -> Tensor:
    shape = () if draw.kind == "seed" else (*draw.output.shape[:2], *(1,) * (len(draw.output.shape) - 2))
    return torch.empty(shape, dtype=torch.int64 if draw.kind == "seed" else draw.output.dtype, device=META)
