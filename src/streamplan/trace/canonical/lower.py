"""Lower a traced fx graph to the canonical graph: every spelling of an operation becomes the same call.

In: a `Trace`, whose nodes are modules, functions and methods as the user spelled them. Out: a `Graph` of `OpCall`s with
canonical names and arguments. A node without a canonical form keeps its own name and all its inputs, so that nothing
it reads or writes is lost; a later stage finds no rule for it and refuses to stream it.

Calls keep the names of their nodes. Nodes that neither reach the model's result nor write in place are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from streamplan.errors import RuleError
from streamplan.ir import INPUT, AttributeRef, Graph, OpCall, TensorSpec, ValueRef, references
from streamplan.trace.canonical.module_spellings import spelling_of
from streamplan.trace.canonical.rewrites import Canonical, NoCanonicalFormError, canonicalize, multi_output_slices
from streamplan.trace.canonical.signatures import FUNCTIONS, METHODS, Signature
from streamplan.trace.facts import Trace
from streamplan.trace.leaves import is_compiled
from streamplan.trace.locations import place
from streamplan.trace.registered import (
    TARGETS,
    RegisteredTarget,
    is_expressible,
    map_references,
    registered_module,
)

_COMPILED = "what torch.compile makes of a module computes whole maps; stream the plain module"
"""Remark on a module that is no longer one of torch's own or the user's."""


def lower(trace: Trace, before: Graph | None = None) -> Graph:
    """Lower `trace` to a canonical graph.

    Args:
        trace: The trace.
        before: What its graph was lowered to with other sizes; calls whose form no size decides are taken from it.
    """
    return _Lowering(trace, before).run()


class _Lowering:
    """One pass over the nodes."""

    def __init__(self, trace: Trace, before: Graph | None) -> None:
        self._trace = trace
        self._before = before
        self._attributes = dict(before.attributes) if before is not None else {}
        self._calls: list[OpCall] = []
        self._has_asked = False
        """Whether the form of the node at hand was found by looking at sizes."""

    def run(self) -> Graph:
        """Lower all live nodes in order."""
        live = _live_nodes(self._trace)
        for node in self._trace.graph.nodes:
            if node in live and node.op not in ("get_attr", "output") and not _is_unpacked(node):
                self._calls.append(self._lower_node(node))
        names = {call.name for call in self._calls}
        output = next(node for node in self._trace.graph.nodes if node.op == "output")
        outputs = tuple(dict.fromkeys(node.name for node in output.all_input_nodes if node.name in names))
        modules = {path: name for path, name in self._trace.module_outputs.items() if name in names}
        return Graph(tuple(self._calls), outputs, modules, self._attributes)

    def _lower_node(self, node: fx.Node) -> OpCall:
        fact = self._trace.facts[node.name]
        output = fact.output if isinstance(fact.output, TensorSpec) else None
        before = self._before[node.name] if self._before is not None else None
        if before is not None and not before.depends_on_sizes:
            return before.resized(output, fact.flops, fact.activation_bytes)
        target, remark = _target_name(node, self._trace.skeleton), fact.unsafe_write
        self._has_asked = False
        try:
            canonical = INPUT_FORM if node.op == "placeholder" else self._canonical_form(node)
        except (NoCanonicalFormError, TypeError) as problem:
            remark = remark or str(problem)
            canonical = Canonical(target, {"args": self._argument(node.args), "kwargs": self._argument(node.kwargs)})
        return OpCall(
            name=node.name,
            op=canonical.op,
            arguments=canonical.arguments,
            output=output,
            target=target,
            module_path=fact.module_path,
            module_type=fact.module_type,
            location=fact.location,
            flops=fact.flops,
            activation_bytes=fact.activation_bytes,
            remark=remark,
            depends_on_sizes=self._has_asked,
        )

    def _canonical_form(self, node: fx.Node) -> Canonical:
        registered = self._registered_target(node)
        if registered is not None:
            return self._registered_form(node, registered)
        if node.op == "call_module":
            op, arguments = self._module_arguments(node)
        else:
            known = _signature_of(node)
            if known is None:
                raise NoCanonicalFormError("")
            if node.target in ("to", "type_as", "type"):
                op, arguments = "to", {"input": self._argument(node.args[0])}
            elif known.op == "getitem" and _is_item(node):
                return self._item(node)
            else:
                op = known.op
                arguments = known.bind(self._argument(node.args), self._argument(node.kwargs))
                if _is_in_place(node):
                    self._check_dtypes(op, arguments)
        return canonicalize(op, arguments, self._spec_of)

    def _check_dtypes(self, op: str, arguments: dict[str, Any]) -> None:
        """Refuse a write in place whose numbers would have another dtype if they were not written.

        Raises:
            NoCanonicalFormError: They would, or might.
        """
        operands = [arguments[name] for name in _PROMOTED if isinstance(arguments.get(name), ValueRef | AttributeRef)]
        if op in _COMPARISONS or len({self._spec_of(operand).dtype for operand in operands}) > 1:
            raise NoCanonicalFormError("no rule for writing numbers of another dtype in place")

    def _module_arguments(self, node: fx.Node) -> tuple[str, dict[str, Any]]:
        module = self._trace.skeleton.get_submodule(str(node.target))
        spelling = spelling_of(module)
        if spelling is None:
            raise NoCanonicalFormError(_COMPILED if is_compiled(module) else "")
        op, read = spelling
        arguments = read(module, str(node.target))
        for value in arguments.values():
            if isinstance(value, AttributeRef):
                self._note_attribute(value.path)
        return op, {"input": self._argument((*node.args, *node.kwargs.values())[0]), **arguments}

    def _registered_target(self, node: fx.Node) -> RegisteredTarget | None:
        if node.op == "call_module":
            return registered_module(self._trace.skeleton.get_submodule(str(node.target)))
        return TARGETS.get(node.target) if node.op == "call_function" else None

    def _registered_form(self, node: fx.Node, target: RegisteredTarget) -> Canonical:
        """A call of what a user registered a rule for, with the arguments the rule asks for."""
        path = str(node.target) if node.op == "call_module" else ""
        bound = target.bind(self._argument(node.args), self._argument(node.kwargs))
        specs = {name: map_references(value, self._spec_of) for name, value in bound.items()}
        try:
            arguments = target.read_call(self._trace.skeleton.get_submodule(path) if path else None, path, bound, specs)
        except Exception as error:
            fact = self._trace.facts[node.name]
            raise RuleError(
                f"the rule of {_target_name(node, self._trace.skeleton)} does not fit this call of it",
                where=place(fact.module_path, fact.module_type, fact.location),
                why=f"{type(error).__name__}: {error}",
                do="correct the rule that was given to register_rule (docs/rules.md)",
            ) from error
        for name, value in arguments.items():
            if not is_expressible(value):
                raise NoCanonicalFormError(f"its argument {name} is neither a tensor nor a plain value")
            for reference in references(value):
                if isinstance(reference, AttributeRef):
                    self._note_attribute(reference.path)
        return Canonical(target.op, arguments)

    def _item(self, node: fx.Node) -> Canonical:
        """One item of a call that returns several tensors."""
        source, index = node.args
        assert isinstance(source, fx.Node)
        if not _is_unpacked(source):
            raise NoCanonicalFormError(f"it takes an item of {source.name}, which returns several tensors")
        known = _signature_of(source)
        assert known is not None
        arguments = known.bind(self._argument(source.args), self._argument(source.kwargs))
        assert isinstance(index, int)
        return multi_output_slices(known.op, arguments, self._spec_of)[index]

    def _argument(self, value: Any) -> Any:
        """Nodes become references, containers plain tuples and dicts; slices become tuples so references are seen."""
        if isinstance(value, fx.Node):
            if value.op == "get_attr":
                self._note_attribute(str(value.target))
                return AttributeRef(str(value.target))
            if _is_unpacked(value):  # read by an item of it: stands for what it was taken from
                return self._argument(value.args[0])
            return ValueRef(value.name)
        if isinstance(value, slice):
            return slice(*(self._argument(part) for part in (value.start, value.stop, value.step)))
        if isinstance(value, tuple | list):
            return tuple(self._argument(item) for item in value)
        if isinstance(value, Mapping):
            return {key: self._argument(item) for key, item in value.items()}
        return value

    def _note_attribute(self, path: str) -> None:
        tensor = _attribute(self._trace.skeleton, path)
        self._attributes[path] = TensorSpec(tuple(tensor.shape), tensor.dtype)

    def _spec_of(self, reference: ValueRef | AttributeRef) -> TensorSpec:
        if isinstance(reference, AttributeRef):
            return self._attributes[reference.path]
        self._has_asked = True
        output = self._trace.facts[reference.name].output
        if not isinstance(output, TensorSpec):
            raise NoCanonicalFormError(f"it reads {reference.name}, which is not one tensor")
        return output


_PROMOTED = ("input", "other", "end", "tensor1", "tensor2")
"""Operands whose dtypes decide that of the result."""
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")

INPUT_FORM = Canonical(INPUT, {})
"""Canonical form of a placeholder."""


def _live_nodes(trace: Trace) -> frozenset[fx.Node]:
    """Placeholders, nodes that reach the result, and nodes that write something."""
    pending = [
        node
        for node in trace.graph.nodes
        if node.op in ("output", "placeholder") or (node.name in trace.facts and trace.facts[node.name].mutates)
    ]
    live: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node not in live:
            live.add(node)
            pending.extend(node.all_input_nodes)
    return frozenset(live)


def _signature_of(node: fx.Node) -> Signature | None:
    """The signature of a function or method in the tables."""
    if node.op == "call_function":
        return FUNCTIONS.get(node.target)  # type: ignore[arg-type]
    return METHODS.get(str(node.target)) if node.op == "call_method" else None


def _is_in_place(node: fx.Node) -> bool:
    """Whether a node is `x.add_(y)` or `x += y`."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_operator = getattr(node.target, "__module__", "") == "_operator" and name.startswith("i") and name != "invert"
    return is_operator or (node.op == "call_method" and name.endswith("_") and not name.endswith("__"))


def _returns_several(node: fx.Node) -> bool:
    known = _signature_of(node)
    return known is not None and known.op in ("chunk", "split", "unbind")


def _is_item(node: fx.Node) -> bool:
    """Whether a node takes one item, by its number, of a chunk, split or unbind."""
    known = _signature_of(node)
    if known is None or known.op != "getitem" or not isinstance(node.args[1], int):
        return False
    return isinstance(node.args[0], fx.Node) and _returns_several(node.args[0])


def _is_unpacked(node: fx.Node) -> bool:
    """Whether a node is a chunk, split or unbind of which only items are used."""
    return _returns_several(node) and all(_is_item(user) for user in node.users)


def _attribute(root: nn.Module, path: str) -> torch.Tensor:
    value: Any = root
    for name in path.split("."):
        value = getattr(value, name)
    assert isinstance(value, torch.Tensor), path
    return value


def _target_name(node: fx.Node, skeleton: nn.Module) -> str:
    """The callable as a user would write it: `torch.nn.Conv2d`, `torch.relu`, `Tensor.relu_`."""
    if node.op == "call_module":
        cls = type(skeleton.get_submodule(str(node.target)))
        module = "torch.nn" if cls.__module__.startswith("torch.nn.modules") else cls.__module__
        return f"{module}.{cls.__qualname__}"
    if node.op == "call_method":
        return f"Tensor.{node.target}"
    if node.op == "call_function":
        return function_name(node.target)  # type: ignore[arg-type]
    return str(node.target)


def function_name(function: Callable[..., Any]) -> str:
    """A function as a user would write it: `torch.relu`, `torch.nn.functional.pad`, `mypackage.blur`."""
    name = getattr(function, "__name__", type(function).__name__)
    module = getattr(function, "__module__", None) or "torch"
    if module == "_operator":
        module = "operator"
    if module.startswith(("torch._C", "torch.nn.functional")):
        module = "torch.nn.functional" if hasattr(torch.nn.functional, name) else "torch"
    return f"{module}.{name}"
