"""Which calls of a graph are local, and why the others are not.

Calls are visited in order. A call that reads no map is INDEPENDENT; one that reads a map behind a barrier is RESIDENT;
any other is asked of its rule. A call without a rule is UNKNOWN: it is never treated as local and never as free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from streamplan.ir import INPUT, Graph, OpCall, TensorSpec, ValueRef
from streamplan.rules import REASONS, Locality, MapSpec, RuleContext, Verdict, rule_for


@dataclass(frozen=True)
class LocalityFacts:
    """What `classify_locality` found out."""

    verdicts: Mapping[str, Verdict]
    """One verdict per call."""
    maps: Mapping[str, MapSpec]
    """Layout of every value of the maximal local prefix, the input maps included."""
    input_maps: tuple[str, ...]
    """The model's inputs that are maps; the others are small tensors."""

    @property
    def num_axes(self) -> int:
        """Number of image axes."""
        return len(self.maps[self.input_maps[0]].dims)

    def is_streamable(self, name: str) -> bool:
        """Whether the value lies in the maximal local prefix (input maps excluded)."""
        return name in self.maps and name not in self.input_maps


def classify_locality(graph: Graph) -> LocalityFacts:
    """Classify every call of `graph`; a model without a map among its inputs has no local prefix."""
    verdicts: dict[str, Verdict] = {}
    maps: dict[str, MapSpec] = {}
    input_maps = _input_maps(graph)
    for name in input_maps:
        spec = graph[name].output
        assert spec is not None
        maps[name] = MapSpec(spec.shape, tuple(range(2, len(spec.shape))))
        verdicts[name] = Verdict(Locality.POINTWISE, "the image")
    for call in graph.calls:
        if call.name in verdicts:
            continue
        context = rule_context(graph, call, maps)
        verdict = _classify_call(call, context, verdicts)
        verdicts[call.name] = verdict
        if verdict.locality.is_local and call.output is not None:
            rule = rule_for(call.op)
            assert rule is not None
            maps[call.name] = MapSpec(call.output.shape, rule.output_dims(context))
    return LocalityFacts(verdicts, maps, input_maps)


def rule_context(graph: Graph, call: OpCall, maps: Mapping[str, MapSpec]) -> RuleContext:
    """The context a rule sees of a call: the maps it reads, and the shapes of the other tensors."""
    smalls: dict[str, TensorSpec] = {path: graph.attributes[path] for path in call.attributes}
    for name in call.inputs:
        spec = graph[name].output
        if name not in maps and spec is not None:
            smalls[name] = spec
    return RuleContext(call, {name: maps[name] for name in call.inputs if name in maps}, smalls)


def freeze_batch_norms(graph: Graph) -> Graph:
    """The graph with every BatchNorm that keeps running statistics in eval mode."""

    def frozen(call: OpCall) -> OpCall:
        if call.op != "batch_norm" or call.arguments["running_mean"] is None:
            return call
        return dataclasses.replace(call, arguments={**call.arguments, "training": False})

    return dataclasses.replace(graph, calls=tuple(frozen(call) for call in graph.calls))


def _input_maps(graph: Graph) -> tuple[str, ...]:
    """Inputs of the rank of the first one, from three dimensions on: (batch, channels, axis 0, ...)."""
    safe = [call for call in graph.inputs if not call.remark]
    ranked = [call for call in safe if call.output is not None and len(call.output.shape) >= 3]
    if not ranked:
        return ()
    first = ranked[0].output
    assert first is not None
    return tuple(call.name for call in ranked if call.output and len(call.output.shape) == len(first.shape))


def _classify_call(call: OpCall, context: RuleContext, verdicts: Mapping[str, Verdict]) -> Verdict:
    if call.op == INPUT:
        if call.remark:
            return Verdict(Locality.UNKNOWN, call.remark)
        return Verdict(Locality.INDEPENDENT, "an argument without the image's axes")
    behind = [name for name in call.inputs if name not in context.maps and not _is_independent(verdicts[name])]
    if behind:
        return Verdict(Locality.RESIDENT, f"it reads {behind[0]}, which is not local")
    if not context.maps:
        return Verdict(Locality.INDEPENDENT, "it does not read the image")
    return _ask_rule(call, context)


def _ask_rule(call: OpCall, context: RuleContext) -> Verdict:
    """The verdict on a call that reads the local part: that of its rule, if it has one that applies."""
    if call.op in REASONS and not call.remark:
        return Verdict(Locality.GLOBAL, REASONS[call.op])
    rule = rule_for(call.op)
    problem = call.remark
    if rule is None:
        problem = problem or "no locality rule is registered, so its output may read the whole input"
        return Verdict(Locality.UNKNOWN, problem)
    axes = call.arguments.get("num_axes", context.num_axes)
    if call.output is None:
        has_indices = bool(call.arguments.get("return_indices"))
        reason = "its indices count positions of the whole map" if has_indices else "it does not return one tensor"
        problem = problem or reason
    elif axes != context.num_axes:
        problem = problem or f"it takes maps of {axes} axes, this one has {context.num_axes}"
    elif not rule.joins_maps and (
        len(context.maps) > 1 or call.arguments["input"] != ValueRef(next(iter(context.maps)))
    ):
        problem = problem or "a tensor computed from the image is one of its parameters"
    return Verdict(Locality.UNKNOWN, problem) if problem else rule.classify(context)


def _is_independent(verdict: Verdict) -> bool:
    return verdict.locality is Locality.INDEPENDENT
