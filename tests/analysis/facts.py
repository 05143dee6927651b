"""Short ways from a model to the facts of the analysis."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from streamplan.analysis.cuts import Cut, enumerate_cuts
from streamplan.analysis.locality import LocalityFacts, classify_locality
from streamplan.analysis.regions import streamed_part
from streamplan.ir import Graph
from streamplan.planning import trace_and_lower
from streamplan.planning.arguments import CallArguments


def analysed(model: nn.Module, *sizes: tuple[int, ...]) -> tuple[Graph, LocalityFacts]:
    graph = trace_and_lower(model.double(), CallArguments.of_size(sizes, torch.float64)).graph
    return graph, classify_locality(graph)


def part_of(model: nn.Module, *sizes: tuple[int, ...], cut: Cut | None = None) -> Any:
    """The `StreamedPart` of the latest cut, or of a given one; None if nothing is local."""
    graph, facts = analysed(model, *sizes)
    if cut is None:
        cuts = enumerate_cuts(graph, facts)
        if not cuts:
            return None
        cut = cuts[-1]
    return streamed_part(graph, facts, cut.streamed, cut.frontier)


def seq(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules).double().eval()
