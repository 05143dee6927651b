"""The cuts that a plan lists."""

from __future__ import annotations

from collections.abc import Mapping

from streamplan.analysis.cuts import Cut
from streamplan.analysis.locality import LocalityFacts
from streamplan.analysis.regions import StreamedPart, streamed_part
from streamplan.analysis.unbounded import receptive_fields
from streamplan.ir import Graph
from streamplan.planning.costs import streamed_totals
from streamplan.planning.plan import CutCandidate


def describe_cuts(graph: Graph, facts: LocalityFacts, cuts: tuple[Cut, ...], chosen: Cut) -> tuple[CutCandidate, ...]:
    """What each cut would stream, and what it reads.

    Args:
        graph: The canonical graph.
        facts: Its localities.
        cuts: All cuts, the chosen one among them.
        chosen: The chosen cut.
    """
    known: Mapping[tuple[str, ...], Cut] = {cut.frontier: cut for cut in cuts}
    streamed: frozenset[str] = frozenset().union(*(cut.streamed for cut in known.values()))
    part = streamed_part(graph, facts, streamed, chosen.frontier)
    fields = [receptive_fields(part, axis) for axis in range(part.num_axes)]
    return tuple(_candidate(graph, cut, part, fields) for cut in known.values())


def _candidate(graph: Graph, cut: Cut, part: StreamedPart, fields: list[dict[str, int]]) -> CutCandidate:
    specs = [graph[name].output for name in cut.frontier]
    flops, activation_bytes = streamed_totals(graph, cut.streamed)
    return CutCandidate(
        values=cut.frontier,
        module_path=graph[cut.frontier[-1]].module_path,
        shapes=tuple(spec.shape for spec in specs if spec is not None),
        receptive_field=tuple(max(along[name] for name in cut.frontier) for along in fields),
        halo=tuple(max(_halo(part, name, axis, along) for name in cut.frontier) for axis, along in enumerate(fields)),
        cut_bytes=sum(spec.num_bytes for spec in specs if spec is not None),
        streamed_flops=flops,
        streamed_activation_bytes=activation_bytes,
    )


def _halo(part: StreamedPart, name: str, axis: int, fields: Mapping[str, int]) -> int:
    """Samples that a position of a value reads beyond those it stands for."""
    image, extent = part.extents[part.input_maps[0]][axis], part.extents[name][axis]
    return max(0, fields[name] - max(1, round(image / extent)))
