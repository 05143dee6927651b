"""Emit the program of a cut net.

Four functions, whatever the tile: what differs between tiles is data, handed in as `t`.

    prologue(self, ...)      small tensors the tiles need, by name; ordinary autograd runs through it
    derive(w)                tensors that the tiles need in another form, such as folded weights; differentiable too
    tile(t, w, image)        the streamed part on one tile's region; returns the tile's blocks of the cut
    head(self, cut, ...)     the resident part

The text is a function of graph, cut and layout alone: equal inputs give equal bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from streamplan.analysis.carrying import Carrying
from streamplan.analysis.cuts import Cut
from streamplan.analysis.locality import LocalityFacts, rule_context
from streamplan.codegen.derived import derive_source
from streamplan.codegen.names import Renamed, renamed_functions
from streamplan.codegen.subgraph import FunctionSource, function_source, import_lines
from streamplan.codegen.writer import GlobalNames, TileWriter, identifier
from streamplan.ir import Graph, OpCall, escaped
from streamplan.planning.passes import LoweredPart
from streamplan.rules import ADDEND, Locality, rule_for

_REMARK_COLUMN = 100
"""Column the remarks of the tile function start at, where the code leaves room."""


@dataclass(frozen=True)
class Program:
    """Source of a cut net, and how its functions are called."""

    source: str
    """The whole text."""
    code: str
    """The same line by line, without what names sizes: the title and the remarks on the lines of `tile`."""
    globals: Mapping[str, Any]
    """Objects that global names stand for."""
    attributes: tuple[str, ...]
    """Model attributes that the streamed part reads, by path."""
    derived: tuple[str, ...]
    """Tensors that `derive` computes, by name."""
    smalls: tuple[str, ...]
    """All small tensors that the tiles read: attributes, prologue values, derived tensors, random numbers."""
    early: frozenset[str]
    """Calls that `prologue` makes."""
    prologue_inputs: tuple[str, ...]
    """Model inputs that `prologue` takes."""
    prologue_values: tuple[str, ...]
    """Values that `prologue` returns, in order."""
    prologue_smalls: tuple[str, ...]
    """Those of them that the tiles read, and model inputs that the tiles read as small tensors."""
    head_inputs: tuple[str, ...]
    """Values that `head` takes: cut values, model inputs, prologue values."""


def emit_program(
    graph: Graph,
    facts: LocalityFacts,
    cut: Cut,
    lowered: LoweredPart,
    traced: fx.Graph,
    title: str,
    carrying: Carrying | None = None,
    observed: frozenset[str] = frozenset(),
) -> Program:
    """Write the program of `graph` cut at `cut`.

    Args:
        graph: The canonical graph.
        facts: Its localities.
        cut: The cut.
        lowered: Its streamed part as the tiles run it.
        traced: The fx graph that `graph` was lowered from; node names are call names.
        title: First line of the program: model and input size.
        carrying: What is carried from tile to tile; None if halos are computed again.
        observed: Cut values that `tile` hands to `t.observe` as soon as it has computed them; then it returns no block
            of any.
    """
    part = lowered.part
    streamed = [call for call in graph.calls if call.name in cut.streamed]
    attributes = tuple(dict.fromkeys(path for call in streamed for path in call.attributes))
    smalls = tuple(dict.fromkeys(n for call in streamed for n in call.inputs if n not in facts.maps))
    early = _independent_ancestors(graph, facts, smalls)
    renamed = renamed_functions(traced)
    prologue, prologue_inputs, prologue_values = _prologue(graph, cut, traced, early, smalls, renamed)
    head, head_inputs = _head(graph, cut, traced, early, renamed)
    names = {**prologue.globals, **head.globals}
    called = GlobalNames([*names, *map(identifier, (*part.input_maps, *part.order))])
    tile = _tile_lines(lowered, carrying, called, observed)
    names |= called.table
    before, behind = [prologue.text, derive_source(lowered.folds)], [head.text]
    imports = _imports(names, "".join([*before, *(code for code, _ in tile), *behind]))
    source = _text([_header(title, imports), *before, "\n".join(map(_with_remark, tile)), *behind])
    code = _text([_header("", imports), *before, "\n".join(code for code, _ in tile), *behind])
    derived = tuple(name for fold in lowered.folds for name in (fold.weight_name, fold.bias_name))
    read = _read_by_tiles(lowered)
    base = tuple(name for name in (*attributes, *smalls) if name in read)
    return Program(
        source,
        code,
        names,
        attributes,
        derived,
        (*base, *derived, *lowered.draws),
        early,
        prologue_inputs,
        prologue_values,
        smalls,
        head_inputs,
    )


def _read_by_tiles(lowered: LoweredPart) -> frozenset[str]:
    calls = [lowered.graph[name] for name in lowered.part.order]
    return frozenset(name for call in calls for name in (*call.attributes, *call.inputs))


def _text(sections: Sequence[str]) -> str:
    return "\n\n".join(section.rstrip() + "\n" for section in sections)


def _header(title: str, imports: Sequence[str]) -> str:
    """Title and imports."""
    text = escaped(title).replace("\\", "\\\\").replace('"', '\\"')
    return "\n".join([f'"""{text}"""', "", *imports])


def _imports(names: Mapping[str, Any], body: str) -> tuple[str, ...]:
    """The imports that the functions use."""
    read = _names_in(body)
    used = {name: value for name, value in {"inf": math.inf, "nan": math.nan, **names}.items() if name in read}
    return (*import_lines(used), "import torch", "import torch.nn.functional as F")


def _names_in(body: str) -> frozenset[str]:
    """Identifiers that are neither attributes nor strings."""
    return frozenset(re.findall(r"(?<![\w.\"])[^\W\d]\w*(?![\w\"])", body))


def _independent_ancestors(graph: Graph, facts: LocalityFacts, names: Sequence[str]) -> frozenset[str]:
    """Calls without the image that the given values are computed from, model inputs excluded."""
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found and graph[name].op != "input":
            assert facts.verdicts[name].locality is Locality.INDEPENDENT, name
            found.add(name)
            pending.extend(graph[name].inputs)
    return frozenset(found)


def _prologue(
    graph: Graph,
    cut: Cut,
    traced: fx.Graph,
    early: frozenset[str],
    smalls: Sequence[str],
    renamed: Mapping[Any, Renamed],
) -> tuple[FunctionSource, tuple[str, ...], tuple[str, ...]]:
    """The function that computes the small tensors, its inputs, and the values it returns."""
    late = [c for c in graph.calls if c.name not in early and c.name not in cut.streamed]
    read_late = {name for call in late for name in call.inputs} | set(graph.outputs)
    wanted = read_late | set(smalls)
    values = tuple(call.name for call in graph.calls if call.name in early and call.name in wanted)
    inputs = tuple(call.name for call in graph.inputs if any(call.name in graph[name].inputs for name in early))
    nodes = _closure(traced, early, stop=frozenset(inputs))
    by_name = {node.name: node for node in traced.nodes}
    result = tuple(by_name[name] for name in values)
    return function_source(traced, "prologue", inputs, nodes.__contains__, result, renamed), inputs, values


def _head(
    graph: Graph, cut: Cut, traced: fx.Graph, early: frozenset[str], renamed: Mapping[Any, Renamed]
) -> tuple[FunctionSource, tuple[str, ...]]:
    """The function that computes the rest of the net, and its inputs."""
    known = cut.streamed | early | {call.name for call in graph.inputs}
    late = [call for call in graph.calls if call.name not in known]
    needed = {name for call in late for name in call.inputs} | set(graph.outputs)
    inputs = tuple(call.name for call in graph.calls if call.name in known and call.name in needed)
    output = next(node for node in traced.nodes if node.op == "output")
    wanted = {call.name for call in late} | {node.name for node in output.all_input_nodes}
    nodes = _closure(traced, frozenset(wanted), stop=frozenset(known))
    return function_source(traced, "head", inputs, nodes.__contains__, output.args[0], renamed), inputs


def _closure(traced: fx.Graph, names: frozenset[str], stop: frozenset[str]) -> frozenset[fx.Node]:
    """The named nodes and the attribute reads and container items among the nodes they are computed from."""
    pending = [node for node in traced.nodes if node.name in names]
    found: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node in found or node.name in stop:
            continue
        found.add(node)
        pending.extend(node.all_input_nodes)
    return frozenset(found)


def _tile_lines(
    lowered: LoweredPart, carrying: Carrying | None, names: GlobalNames, observed: frozenset[str]
) -> list[tuple[str, str]]:
    """Lines of the tile function, each with its remark or ""."""
    part = lowered.part
    kept = () if observed else part.frontier
    freed: dict[str, list[str]] = {}
    for source, reader in {edge.source: edge.reader for edge in part.edges}.items():
        if source not in kept:
            freed.setdefault(reader, []).append(source)
    arguments = ", ".join(("t", "w", *(identifier(name) for name in part.input_maps)))
    lines = [(f"def tile({arguments}):", "")]
    for name in part.order:
        call = lowered.graph[name]
        lines.append(_call_line(lowered, call, freed.get(name, ()), carrying, names))
        if carrying is not None and name in carrying.carried and ADDEND not in call.arguments:
            lines.append((f'    {identifier(name)} = t.join({identifier(name)}, "{name}")', ""))
        if name in observed:
            lines.append((f'    t.observe({identifier(name)}, "{name}")', ""))
    blocks = ", ".join(f't.block({identifier(name)}, "{name}")' if kept else "None" for name in part.frontier)
    return [*lines, (f"    return ({blocks},)", "")]


def _with_remark(line: tuple[str, str]) -> str:
    code, remark = line
    return f"{code:<{_REMARK_COLUMN}}  # {escaped(remark)}" if remark else code


def _call_line(
    lowered: LoweredPart,
    call: OpCall,
    freed: Sequence[str],
    carrying: Carrying | None,
    names: GlobalNames,
) -> tuple[str, str]:
    """The line that makes a call, and what a reader wants to know of it."""
    graph, facts = lowered.graph, lowered.facts
    rule = rule_for(call.op)
    assert rule is not None
    expression = rule.emit(rule_context(graph, call, facts.maps), TileWriter(call, lowered, carrying, names))
    if carrying is not None and call.name in carrying.sometimes_empty:
        joins = ADDEND in call.arguments and call.name in carrying.carried
        nothing = f't.join(None, "{call.name}")' if joins else "None"
        expression = f'{expression} if t.has("{call.name}") else {nothing}'
    code = f"    {identifier(call.name)} = {expression}"
    code += "".join(f"; {identifier(name)} = None" for name in freed if identifier(name) != identifier(call.name))
    shape = facts.maps[call.name].shape
    reason = facts.verdicts[call.name].reason if facts.verdicts[call.name].locality is Locality.WINDOWED else ""
    kind = call.module_type if call.target.endswith(call.module_type or "\0") else call.op
    return code, "  ".join(text for text in (call.module_path, str(shape), f"{kind} {reason}".strip()) if text)
