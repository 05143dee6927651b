"""Writes in forward to what the model owns: they must not change what the tiles read.

The resident part makes such a write where the model makes it, between the calls before and after it. Tiles are computed
before the resident part is begun, and read parameters and buffers as they are then:

    self.conv.weight.data.clamp_(-1, 1)     resident, so it would come after
    y = self.conv(x)                        the tiles that read the weight: refused
"""

from __future__ import annotations

from collections.abc import Iterator

import networkx as nx

from streamplan.analysis.cuts import Cut
from streamplan.analysis.locality import LocalityFacts
from streamplan.errors import TracingError
from streamplan.ir import Graph, OpCall
from streamplan.trace.facts import NodeFact, Trace
from streamplan.trace.locations import place


def check_writes(trace: Trace, graph: Graph, facts: LocalityFacts, cut: Cut) -> None:
    """Refuse a model whose tiles read what its forward writes.

    Args:
        trace: The trace of the model.
        graph: Its canonical graph.
        facts: Its localities.
        cut: Where the resident part begins.

    Raises:
        TracingError: It is such a model.
    """
    written = dict(_written_attributes(trace))
    if not written:
        return
    for call in _read_by_tiles(graph, facts, cut):
        for path in call.attributes:
            if path in written:
                raise _read_and_written(path, call, written[path])


def _written_attributes(trace: Trace) -> Iterator[tuple[str, NodeFact]]:
    """Paths of the tensors that calls write, and what is known of the call."""
    owned = {s: str(n.target) for n in trace.graph.nodes if n.op == "get_attr" for s in trace.facts[n.name].storages}
    for node in trace.graph.nodes:
        fact = trace.facts[node.name]
        yield from ((owned[storage], fact) for storage in fact.mutates if storage in owned)


def _read_by_tiles(graph: Graph, facts: LocalityFacts, cut: Cut) -> list[OpCall]:
    """The streamed calls, and those whose small results they read."""
    edges = nx.DiGraph((source, call.name) for call in graph.calls for source in call.inputs)
    edges.add_nodes_from(call.name for call in graph.calls)
    smalls = {
        name for call in graph.calls if call.name in cut.streamed for name in call.inputs if name not in facts.maps
    }
    early = smalls.union(*(nx.ancestors(edges, name) for name in smalls))
    return [call for call in graph.calls if call.name in cut.streamed or call.name in early]


def _read_and_written(path: str, call: OpCall, fact: NodeFact) -> TracingError:
    return TracingError(
        f"forward writes {path}, which the streamed part reads",
        where=place(fact.module_path, fact.module_type, fact.location),
        why=f"the write belongs to the resident part, and {call.name} reads {path} before that begins",
        do="write it before the call of the model, or cut the net before what reads it",
    )
