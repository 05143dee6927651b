"""The passes in order: from the streamed part as the user wrote it to the one the tiles run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamplan.analysis.cuts import Cut
from streamplan.analysis.locality import LocalityFacts, classify_locality
from streamplan.analysis.regions import StreamedPart, streamed_part
from streamplan.ir import Graph
from streamplan.planning.passes.draws import find_draw
from streamplan.planning.passes.folding import FoldedNorm, find_folds, fold_batch_norms
from streamplan.planning.passes.fusing import fuse_relus
from streamplan.planning.passes.inplace import find_inplace
from streamplan.rules import Draw, user_rule_identity


@dataclass(frozen=True, eq=False)
class LoweredPart:
    """What the tiles run."""

    graph: Graph
    """The canonical graph; its streamed calls are the lowered ones."""
    facts: LocalityFacts
    """Its localities."""
    part: StreamedPart
    """Its streamed part."""
    passes: tuple[str, ...]
    """Names of the passes that apply; some are carried out by the emitted program or the runtime."""
    folds: tuple[FoldedNorm, ...]
    """Norms folded into convolutions."""
    inplace: Mapping[str, str]
    """Operand that a call overwrites, by call name."""
    draws: Mapping[str, Draw]
    """Random numbers that tiles share, by the name of the small tensor that holds them, in the order of the calls."""


def lower_part(
    graph: Graph, facts: LocalityFacts, cut: Cut, passes: tuple[str, ...], device_type: str = "cpu"
) -> LoweredPart:
    """Rewrite the streamed part of a cut graph.

    Args:
        graph: The canonical graph.
        facts: Its localities.
        cut: The cut.
        passes: Names from `streamplan.options.PASSES`.
        device_type: Kind of device that computes the tiles.
    """
    plain, streamed = graph, cut.streamed
    folds = find_folds(graph, streamed, cut.frontier) if "fold_batch_norm" in passes else ()
    if folds:
        graph = fold_batch_norms(graph, folds)
        streamed -= {fold.convolution.name for fold in folds}
    if "fuse_relu" in passes:
        graph, gone = fuse_relus(graph, streamed, cut.frontier, has_late_bias=device_type == "cuda")
        streamed -= gone
    if graph is not plain:
        facts = classify_locality(graph)
    part = streamed_part(graph, facts, streamed, cut.frontier)
    if any(user_rule_identity(graph[name].op) for name in part.order):  # a user's function may count on contiguous maps
        passes = tuple(name for name in passes if name != "channels_last")
    inplace = find_inplace(graph, part) if "inplace" in passes else {}
    draws = dict(found for name in part.order if (found := find_draw(graph, graph[name], facts.maps)))
    return LoweredPart(graph, facts, part, passes, folds, inplace, draws)
