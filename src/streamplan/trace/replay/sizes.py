"""Replay: the trace of a model at another size, without running the model's code again.

In: a trace and specs of other inputs. Out: the trace that tracing the model anew would give, or None where only that
can tell. The nodes of the graph are executed on meta tensors of the new size, or on fake ones if meta tensors of the
traced size do not give what the trace says; so shapes, FLOPs and bytes are torch's own. The result holds if

    guards       everything the model's code asked of its tensors is answered as before,
    outlines     every call returns as many tensors, in the same containers,
    memory       the same results share memory, and the same are written in place.

Then the model would make the same calls in the same order: up to the first call that differs, its code has seen
nothing that differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.node import map_arg

from streamplan.ir import TensorSpec
from streamplan.trace.aten_stream import AtenStream
from streamplan.trace.facts import NodeFact, Trace, map_structure, specify, tensors_in
from streamplan.trace.patches import steady_execution
from streamplan.trace.reads import Guard, ReadLog
from streamplan.trace.records import CallRecord
from streamplan.trace.replay.known_results import META
from streamplan.trace.replay.meta_run import MetaStream, tensors_on_meta
from streamplan.trace.replay.node_table import NodeTable
from streamplan.trace.script import Ambient

Memory = tuple[tuple[Any, ...], ...]
"""Per node, which tensors its result and its writes are, by number in order of appearance."""


@dataclass(frozen=True, eq=False)
class Replay:
    """What a trace can be replayed with."""

    guards: Mapping[str, tuple[Guard, ...]]
    """What must be answered as before, by the node after which it can be asked."""
    memory: Memory
    fake_mode: FakeTensorMode
    """Mode of the skeleton's tensors."""
    device: torch.device
    """Device of the inputs."""
    switches: tuple[Any, ...]
    """Global switches of torch that the model ran under."""
    ambient: Ambient
    """Circumstances of the trace."""
    modules: Mapping[str, torch.nn.Module]
    """The skeleton's modules that nodes call, by path."""
    is_on_meta: bool = False
    """Whether a run on meta tensors tells the same as one on fake tensors."""


def make_replayable(
    trace: Trace,
    records: Mapping[fx.Node, CallRecord],
    log: ReadLog,
    fake_mode: FakeTensorMode,
    device: torch.device,
    ambient: Ambient,
) -> Trace:
    """A finished trace with what is needed to replay it, if it can be. To be called under the switches of the trace.

    Args:
        trace: The trace.
        records: What each node did.
        log: What the model asked.
        fake_mode: Mode of the trace.
        device: Device of the inputs.
        ambient: Circumstances of the trace.
    """
    guards = _guards(trace.graph, log)
    if guards is None or not log.is_complete or any(_has_changed(records[node]) for node in trace.graph.nodes):
        return trace
    called = [str(node.target) for node in trace.graph.nodes if node.op == "call_module"]
    modules = {path: trace.skeleton.get_submodule(path) for path in called}
    replay = Replay(guards, _memory(trace.graph, records), fake_mode, device, switches(), ambient, modules)
    on_meta = dataclasses.replace(replay, is_on_meta=True)
    specs = [trace.facts[name].output for name in trace.input_names]
    same = _run(dataclasses.replace(trace, replay=on_meta), on_meta, specs)
    agrees = same is not None and same.facts == trace.facts
    return dataclasses.replace(trace, replay=on_meta if agrees else replay)


def _guards(graph: fx.Graph, log: ReadLog) -> dict[str, tuple[Guard, ...]] | None:
    """What the model asked, each by the node after which it can be asked; None if it asked of a dropped node."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    guards: dict[str, list[Guard]] = {}
    for guard in log.guards:
        asked = _nodes_in((guard.args, guard.kwargs))
        if any(node not in order for node in asked):  # it was dropped, since nothing else reads it
            return None
        guards.setdefault(max(asked, key=order.__getitem__).name, []).append(guard)
    return {name: tuple(asked) for name, asked in guards.items()}


def replay_trace(trace: Trace, specs: Sequence[TensorSpec]) -> Trace | None:
    """The trace at other input sizes.

    Args:
        trace: A trace of the model as it still is.
        specs: Shapes and dtypes of the inputs, in the order of `trace.input_names`.

    Returns:
        The trace; None if the model must be traced anew, because the size decides what it does, or because it fails.
    """
    if trace.replay is None:
        return None
    with trace.replay.ambient.modes.entered(), steady_execution():
        return _run(trace, trace.replay, specs) if trace.replay.switches == switches() else None


def _run(trace: Trace, replay: Replay, specs: Sequence[TensorSpec]) -> Trace | None:
    """The trace with the facts of a run on other inputs; None if that fails or differs in more than sizes."""
    try:
        table = _execute(trace, replay, specs)
    except Exception:  # noqa: BLE001 - a call may fail in any way; tracing the model tells where and why
        return None
    if table is None or _memory(trace.graph, table.records) != replay.memory:
        return None
    facts = {node.name: _fact(trace, table, node) for node in trace.graph.nodes}
    return dataclasses.replace(trace, facts=facts, ambients={replay.ambient})


def _execute(trace: Trace, replay: Replay, specs: Sequence[TensorSpec]) -> NodeTable | None:
    """Run the nodes; None as soon as something is not as before."""
    table, stream = NodeTable(), MetaStream() if replay.is_on_meta else AtenStream(keeps_calls=False)
    inputs = dict(zip(trace.input_names, specs, strict=True))
    device = META if replay.is_on_meta else replay.device
    with tensors_on_meta(trace.skeleton) if replay.is_on_meta else replay.fake_mode, stream:
        for node in trace.graph.nodes:
            stream.begin()
            value = _value(node, trace, table, inputs, device, replay.modules)
            if _outline(specify(value)) != _outline(trace.facts[node.name].output):
                return None
            written = table.known_extents(stream.written, node.op)
            table.keep(node, value, ("", ""), None, written).flops = stream.flops
            if not all(_holds(guard, table) for guard in replay.guards.get(node.name, ())):
                return None
    return table


def _value(
    node: fx.Node,
    trace: Trace,
    table: NodeTable,
    inputs: Mapping[str, TensorSpec],
    device: torch.device,
    modules: Mapping[str, torch.nn.Module],
) -> Any:
    if node.op == "placeholder":
        spec = inputs[node.name]
        return torch.empty(spec.shape, dtype=spec.dtype, device=device)
    if node.op == "get_attr":
        return attrgetter(str(node.target))(trace.skeleton)
    if node.op == "output":
        return table.evaluate(node.args[0])
    return _call(node.op, node.target, table.evaluate(node.args), table.evaluate(node.kwargs), modules)


def _call(kind: str, target: Any, args: Any, kwargs: Any, modules: Mapping[str, torch.nn.Module]) -> Any:
    if kind == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    function = modules[target] if kind == "call_module" else target
    return function(*args, **kwargs)


def _holds(guard: Guard, table: NodeTable) -> bool:
    """Whether a question is answered as before."""
    args, kwargs = table.evaluate(guard.args), table.evaluate(guard.kwargs)
    if guard.kind == "property":
        answer = getattr(args[0], guard.target)
    else:
        answer = _call(guard.kind, guard.target, args, kwargs, {})
    return type(answer) is type(guard.answer) and bool(answer == guard.answer)


def _fact(trace: Trace, table: NodeTable, node: fx.Node) -> NodeFact:
    """The fact about a node, with what depends on the size."""
    record = table.records[node]
    return dataclasses.replace(
        trace.facts[node.name],
        output=specify(record.value),
        flops=record.flops,
        activation_bytes=record.activation_bytes,
    )


def _outline(value: Any) -> Any:
    """A specified value without the sizes of its tensors."""
    return TensorSpec if isinstance(value, TensorSpec) else map_structure(_outline, value)


def _memory(graph: fx.Graph, records: Mapping[fx.Node, CallRecord]) -> Memory:
    """Which tensors are the same, and which live in the same storage, node by node.

    Everything that `functionalize` asks of the records is asked of these numbers.
    """
    tensors: dict[Any, int] = {}
    storages: dict[int, int] = {}

    def number(extents: Sequence[Any]) -> tuple[tuple[int, int], ...]:
        return tuple(
            (tensors.setdefault(extent, len(tensors)), storages.setdefault(extent.storage, len(storages)))
            for extent in extents
        )

    found = (records[node] for node in graph.nodes)
    return tuple((number(record.extents), number(record.written), record.is_view) for record in found)


def _has_changed(record: CallRecord) -> bool:
    """Whether a tensor got another shape or other strides after it was made, by a call such as `x.unsqueeze_(0)`."""
    now = [(tuple(t.shape), t.stride()) for t in tensors_in(record.value) if t.layout is torch.strided]
    return now != [(extent.shape, extent.strides) for extent in record.extents]


def _nodes_in(argument: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    map_arg(argument, found.append)
    return found


def switches() -> tuple[Any, ...]:
    """Global settings of torch that decide what calls without tensors make."""
    return torch.get_default_dtype(), torch.get_default_device()
