"""Batch normalisation with running statistics, folded into the convolution before it.

    scale = gamma / sqrt(var + eps)       w' = w * scale       b' = beta + (b - mean) * scale

    conv(x, w, b) -> batch_norm   becomes   conv(x, w', b')

w' and b' are computed once per pass, under autograd: tiles add up the gradients of w' and b', and one small backward
at the end turns them into the exact gradients of w, b, gamma and beta. No tile runs a norm or keeps its input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from streamplan.ir import AttributeRef, Graph, OpCall, TensorSpec, ValueRef

_FOLDED_DTYPES = (torch.float32, torch.float64)
"""Narrower weights would be rounded after scaling, where torch's norm computes in float32."""


@dataclass(frozen=True)
class FoldedNorm:
    """One pair of a convolution and the norm behind it."""

    convolution: OpCall
    norm: OpCall

    @property
    def weight_name(self) -> str:
        """Name of the folded weight among the tensors a tile reads; no attribute path contains a colon."""
        return f"{self.norm.name}:weight"

    @property
    def bias_name(self) -> str:
        """Name of the folded bias."""
        return f"{self.norm.name}:bias"


def find_folds(graph: Graph, streamed: frozenset[str], frontier: tuple[str, ...]) -> tuple[FoldedNorm, ...]:
    """The norms that can be folded: nothing but the norm reads the convolution's output.

    Args:
        graph: The canonical graph.
        streamed: Names of the streamed calls.
        frontier: Cut values.
    """
    folds = []
    for norm in graph.calls:
        source = norm.arguments.get("input")
        if norm.op != "batch_norm" or norm.name not in streamed or not isinstance(source, ValueRef):
            continue
        convolution = graph[source.name]
        is_read_by_norm_only = graph.consumers[source.name] == (norm.name,) and source.name not in frontier
        if convolution.op in ("conv", "conv_transpose") and convolution.name in streamed and is_read_by_norm_only:
            fold = FoldedNorm(convolution, norm)
            if source.name not in graph.outputs and _has_folded_dtype(graph, fold):
                folds.append(fold)
    return tuple(folds)


def fold_batch_norms(graph: Graph, folds: tuple[FoldedNorm, ...]) -> Graph:
    """The graph with every pair as one convolution, under the name of the norm."""
    gone = {fold.convolution.name for fold in folds}
    merged = {fold.norm.name: _merged(fold) for fold in folds}
    specs: dict[str, TensorSpec] = {}
    for fold in folds:
        weight = _spec(graph, fold.convolution.arguments["weight"])
        specs[fold.weight_name] = weight
        specs[fold.bias_name] = _spec(graph, fold.norm.arguments["running_mean"])
    return dataclasses.replace(
        graph,
        calls=tuple(merged.get(call.name, call) for call in graph.calls if call.name not in gone),
        module_outputs={},
        attributes={**graph.attributes, **specs},
    )


def _merged(fold: FoldedNorm) -> OpCall:
    convolution, norm = fold.convolution, fold.norm
    return dataclasses.replace(
        convolution,
        name=norm.name,
        arguments={
            **convolution.arguments,
            "weight": AttributeRef(fold.weight_name),
            "bias": AttributeRef(fold.bias_name),
        },
        module_path=f"{convolution.module_path} + {norm.module_path}",
        module_type=f"{convolution.module_type} + {norm.module_type}",
        flops=convolution.flops + norm.flops,
    )


def _has_folded_dtype(graph: Graph, fold: FoldedNorm) -> bool:
    """Whether weight, statistics and result have one dtype that bears folding."""
    tensors: Mapping[str, object] = {
        **{f"convolution {name}": fold.convolution.arguments[name] for name in ("weight", "bias")},
        **{name: fold.norm.arguments[name] for name in ("running_mean", "running_var", "weight", "bias")},
    }
    dtypes = {_spec(graph, ref).dtype for ref in tensors.values() if isinstance(ref, AttributeRef | ValueRef)}
    dtypes |= {spec.dtype for spec in (fold.convolution.output, fold.norm.output) if spec is not None}
    return len(dtypes) == 1 and dtypes.issubset(_FOLDED_DTYPES)


def _spec(graph: Graph, reference: AttributeRef | ValueRef) -> TensorSpec:
    if isinstance(reference, AttributeRef):
        return graph.attributes[reference.path]
    spec = graph[reference.name].output
    assert spec is not None
    return spec
