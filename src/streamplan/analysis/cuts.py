"""Where a net can be cut into a streamed and a resident part.

    input ─ conv1 ─ relu ─┬─ conv2 ─ add ─ pool │ flatten ─ fc
                          └──────────┘          │
    single-tensor cuts: conv1, relu, add, pool;  latest cut: pool

The streamed part is a set of local calls closed under "reads". Its *frontier* is what the rest of the net, or the
caller, reads of it. The latest cut is the frontier of the maximal local prefix, one tensor or several; the values that
every path from the image to it passes through, its dominators, are the single-tensor cuts before it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import networkx as nx

from streamplan.analysis.locality import LocalityFacts
from streamplan.errors import CutError
from streamplan.ir import Graph
from streamplan.rules import Locality

_SOURCE = "\0image"
_SINK = "\0frontier"


@dataclass(frozen=True)
class Cut:
    """A division of the graph."""

    frontier: tuple[str, ...]
    """Values that leave the streamed part, in graph order."""
    streamed: frozenset[str]
    """Calls of the streamed part, without the model's inputs."""


def latest_cut(graph: Graph, facts: LocalityFacts) -> Cut:
    """The cut behind the maximal local prefix; its frontier is empty if nothing is local."""
    prefix = frozenset(call.name for call in graph.calls if facts.is_streamable(call.name))
    readable = _ancestors_of(graph, facts, _frontier(graph, prefix))
    return Cut(_frontier(graph, readable), readable)


def enumerate_cuts(graph: Graph, facts: LocalityFacts) -> tuple[Cut, ...]:
    """All single-tensor cuts up to the latest cut, from the image on, and the latest cut itself last."""
    latest = latest_cut(graph, facts)
    if not latest.frontier:
        return ()
    flow = nx.DiGraph()
    for name in latest.streamed:
        for read in graph[name].inputs:
            if read in facts.maps:
                flow.add_edge(_SOURCE if read in facts.input_maps else read, name)
    for name in latest.frontier:
        flow.add_edge(name, _SINK)
    dominators = nx.immediate_dominators(flow, _SOURCE)
    chain = []
    name = dominators[_SINK]
    while name != _SOURCE:
        chain.append(name)
        name = dominators[name]
    cuts: list[Cut] = []
    behind: frozenset[str] = frozenset()  # each of the chain is computed from the one before it
    for name in reversed(chain):
        cuts.append(_cut_at(graph, facts, (name,), behind))
        behind = cuts[-1].streamed
    singles = [cut for cut in cuts if len(cut.frontier) == 1]
    if singles and singles[-1].frontier == latest.frontier:
        singles.pop()
    return (*singles, latest)


def cut_at(graph: Graph, facts: LocalityFacts, names: tuple[str, ...]) -> Cut:
    """The cut behind the named values: module paths or names of calls.

    Values that the rest of the net reads of the streamed part besides those named (skip connections) join the frontier.

    Raises:
        CutError: A name does not exist, or its value is not local.
    """
    return _cut_at(graph, facts, tuple(_resolve(graph, facts, name) for name in names))


def _cut_at(graph: Graph, facts: LocalityFacts, names: tuple[str, ...], behind: frozenset[str] = frozenset()) -> Cut:
    streamed = _ancestors_of(graph, facts, names, behind)
    return Cut(_frontier(graph, streamed, always=names), streamed)


def _resolve(graph: Graph, facts: LocalityFacts, name: str) -> str:
    value = name if name in graph.by_name else graph.module_outputs.get(name)
    if value is None:
        known = [*graph.module_outputs, *graph.by_name]
        close = difflib.get_close_matches(name, [path for path in known if path], n=3, cutoff=0.5)
        raise CutError(
            f"there is no module or value named {name!r} to cut at",
            why="a cut is the path of a module that the net calls, or the name of a value in the plan",
            do=f"close matches: {', '.join(close)}" if close else "print(streamplan.plan(...)) lists the cuts",
        )
    if not facts.is_streamable(value):
        barrier = _first_barrier(graph, facts, value)
        candidates = [cut.frontier[0] for cut in enumerate_cuts(graph, facts) if len(cut.frontier) == 1]
        raise CutError(
            f"the net cannot be cut at {name!r}",
            where=graph[barrier].where,
            why=_why_not(facts, value, barrier),
            do=f"the latest single-tensor cut is {candidates[-1]!r}" if candidates else "cut='latest'",
        )
    return value


def _why_not(facts: LocalityFacts, value: str, barrier: str) -> str:
    """Why a value is no cut."""
    if value in facts.input_maps:
        return "it is the image itself; nothing would be streamed"
    verdict = facts.verdicts[barrier]
    what = f"{value} is" if value == barrier else f"{value} depends on {barrier}, which is"
    return f"{what} {verdict.locality.value}: {verdict.reason}"


def _first_barrier(graph: Graph, facts: LocalityFacts, value: str) -> str:
    """The earliest call among a value's ancestors, itself included, that is global or unknown; else the value."""
    found: set[str] = set()
    pending = [value]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending.extend(graph[name].inputs)
    ends = (Locality.GLOBAL, Locality.UNKNOWN)
    barriers = [call.name for call in graph.calls if call.name in found and facts.verdicts[call.name].locality in ends]
    return barriers[0] if barriers else value


def _ancestors_of(
    graph: Graph, facts: LocalityFacts, names: tuple[str, ...], known: frozenset[str] = frozenset()
) -> frozenset[str]:
    """Streamable calls that the named values are computed from, themselves included; `known` ones are among them."""
    found = set(known)
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found and facts.is_streamable(name):
            found.add(name)
            pending.extend(graph[name].inputs)
    return frozenset(found)


def _frontier(graph: Graph, streamed: frozenset[str], always: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Streamed values read outside, returned by the model, or named, in graph order."""
    names = []
    for call in graph.calls:
        if call.name not in streamed:
            continue
        outside = any(reader not in streamed for reader in graph.consumers[call.name])
        if outside or call.name in graph.outputs or call.name in always:
            names.append(call.name)
    return tuple(names)
