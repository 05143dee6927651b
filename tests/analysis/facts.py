"""Short ways from a model to the facts of the analysis."""

from __future__ import annotations

import torch
from torch import nn

from streamplan.analysis.cuts import Cut, enumerate_cuts
from streamplan.analysis.locality import LocalityFacts, classify_locality
from streamplan.analysis.regions import StreamedPart, streamed_part
from streamplan.ir import Graph
from streamplan.planning import trace_and_lower
from streamplan.planning.arguments import CallArguments


def analysed(model: nn.Module, *sizes: tuple[int, ...]) -> tuple[Graph, LocalityFacts]:
    graph = trace_and_lower(model.double(), CallArguments.of_size(sizes, torch.float64)).graph
    return graph, classify_locality(graph)


def part_of(model: nn.Module, *sizes: tuple[int, ...], cut: Cut | None = None) -> StreamedPart:
    """The streamed part of the latest cut, or of a given one."""
    graph, facts = analysed(model, *sizes)
    cut = cut or enumerate_cuts(graph, facts)[-1]
    return streamed_part(graph, facts, cut.streamed, cut.frontier)


def seq(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules).double().eval()
