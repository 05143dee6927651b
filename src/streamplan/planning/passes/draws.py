"""The random numbers of a streamed part: which calls need some, and under which names their tiles find them."""

from __future__ import annotations

from collections.abc import Mapping

from streamplan.analysis.locality import rule_context
from streamplan.ir import Graph, OpCall
from streamplan.rules import Draw, MapSpec, rule_for


def find_draw(graph: Graph, call: OpCall, maps: Mapping[str, MapSpec]) -> tuple[str, Draw] | None:
    """What a call draws, if anything, and the name of the small tensor that holds it.

    Args:
        graph: The canonical graph.
        call: A local call of it.
        maps: The maps of the local part.
    """
    rule = rule_for(call.op)
    draw = rule.draw(rule_context(graph, call, maps)) if rule is not None else None
    return None if draw is None else (f"{call.name}.{draw.kind}", draw)
