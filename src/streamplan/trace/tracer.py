"""The tracer: runs the skeleton on proxies and builds the graph node by node.

In: a skeleton and fake inputs. Out: an fx graph, and for each node a `CallRecord` of what it evaluated to.

Every call the model makes on a traced value arrives in `record`. It writes the call's arguments as node arguments,
reads them back from the nodes, and executes the call on the fake tensors found there, just as an interpreter of the
finished graph would. So the aten calls recorded meanwhile are those of the graph, and comparing them with a plain run
of the model (`aten_stream`) is a test of the graph rather than of the model against itself.

A call that neither returns a tensor nor writes one (`x.is_contiguous()`, `torch.is_floating_point(x)`) is answered and
leaves no node.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from streamplan.ir import SourceLocation
from streamplan.trace.arguments import lower_argument, rebuild
from streamplan.trace.aten_stream import AtenStream
from streamplan.trace.facts import tensors_in
from streamplan.trace.fake_proxy import FakeProxy, contains_proxy, proxies_in
from streamplan.trace.guard.shadow import are_same
from streamplan.trace.modes import AmbientModes
from streamplan.trace.reads import Guard, ReadLog
from streamplan.trace.recorder import Recorder
from streamplan.trace.replay.node_table import NodeTable
from streamplan.trace.results import plain_containers
from streamplan.trace.script import Event, InputRef, ResultRef, make_template
from streamplan.trace.skeleton import Skeleton
from streamplan.trace.tensor_uses import METADATA_METHODS, reads_spatial_size


class GraphTracer(Recorder):
    """One trace.

    Args:
        skeleton: The model, on fake tensors.
        stream: Active aten recorder.
        is_leaf: Which modules become one node instead of being traced into.
    """

    def __init__(self, skeleton: Skeleton, stream: AtenStream, is_leaf: Callable[[nn.Module], bool]) -> None:
        super().__init__(skeleton, is_leaf)
        self.nodes = NodeTable()
        self.events: list[Event] = []
        self.module_outputs: dict[str, str] = {}
        self.shape_reads: dict[SourceLocation, None] = {}
        self.reads = ReadLog()
        self.stream = stream
        self._attributes: dict[str, fx.Node] = {}
        self._repeated: Event | None = None
        self._is_executing = False

    @property
    def executing(self) -> bool:
        """Whether a call is executed at the moment."""
        return self._is_executing

    def add_input(self, name: str, fake: torch.Tensor) -> FakeProxy:
        """Add a placeholder."""
        proxy = FakeProxy(self, InputRef(name), fake)
        return proxy.stand_for(self, self._placeholder(name, fake), fake)

    def _placeholder(self, name: str, fake: torch.Tensor) -> fx.Node:
        with self._execution():
            node = self.nodes.graph.placeholder(name)
            record = self.nodes.keep(node, fake, self._module())
            record.is_activation = True
            record.carries_gradient = fake.is_floating_point() or fake.is_complex()
            return node

    def add_output(self, value: Any) -> fx.Node:
        """Add the output node; the model has returned."""
        self.events.append(Event("output", "", self._operands.of(value)))
        with self._execution():
            node: fx.Node = self.nodes.graph.output(self._lower(plain_containers(value)))
            self.nodes.keep(node, self.nodes.evaluate(node.args[0]), self._module())
            return node

    # -- what the model does --------------------------------------------------------------------------------------

    def torch_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A torch function, method or property of a tensor is used."""
        if self.executing:
            return func(*args, **kwargs)
        answer = super().torch_function(func, args, kwargs)
        self.reads.add_entry(func, tensors_in([args, kwargs]), answer)
        return answer

    def record(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add a call to the graph and execute it."""
        event = Event(
            kind,
            target,
            self.operands(args, kwargs),
            self.settings(kind, target),
            self.changed_modes(),
            location=self.location(),
            module=self._module(),
        )
        with self._execution():
            node_args = self._lower(args)
            node_kwargs = self._lower(kwargs)
            first_call = len(self.stream.calls)
            self.stream.begin()
            value = self._execute(event, self.nodes.evaluate(node_args), self.nodes.evaluate(node_kwargs))
            written = self.nodes.known_extents(self.stream.written, kind)
            if not written and not tensors_in(value):
                self.nodes.note_span(first_call, None)
                if contains_proxy((args, kwargs)):
                    self.reads.add_guard(Guard(kind, target, node_args, node_kwargs, value))
                self.events.append(replace(event, answer=value))
                return value
            node = self.nodes.graph.create_node(kind, target, node_args, node_kwargs)
            self.nodes.note_span(first_call, node)
            self.nodes.keep(node, value, event.module, event.location, written).flops = self.stream.flops
            self._check_modes(node, event.location)
            self.events.append(replace(event, node=node.name, template=make_template(value)))
            return self._wrap(node, value, ResultRef(len(self.events) - 1, ()))

    def read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a read of metadata."""
        with self._execution():
            tensor = args[0].fake if isinstance(args[0], FakeProxy) else args[0]
            value = getattr(tensor, name)
            if name in METADATA_METHODS:
                value = value(*args[1:], **kwargs)
            self.reads.add_metadata(name, args, kwargs, value, self._skeleton.tensor_paths)
        if isinstance(args[0], FakeProxy):
            self.events.append(Event("read", name, self.operands(args, kwargs), answer=value, location=self.location()))
            self._note_shape_read(args[0], name, args[1:], kwargs)
        return value

    def note_output(self, path: str, out: Any) -> None:
        """Remember the node whose value a module returned."""
        names = [proxy.node.name for proxy in proxies_in(out)]
        if len(names) == 1:
            self.module_outputs[path] = names[0]
        else:
            self.module_outputs.pop(path, None)

    def location(self) -> SourceLocation | None:
        """The running line of the user's code, or that of the event which is repeated."""
        return super().location() if self._repeated is None else self._repeated.location

    # -- repeating ------------------------------------------------------------------------------------------------

    def repeat_input(self, proxy: FakeProxy, fake: torch.Tensor) -> None:
        """Add a placeholder for a proxy that another recorder made."""
        proxy.stand_for(self, self._placeholder(str(proxy.ref[0]), fake), fake)

    def repeat(self, event: Event, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Make a call, or a read, that the model made earlier in this run.

        Args:
            event: The call, as another recorder compared it.
            args: Its arguments.
            kwargs: Its keyword arguments.
            result: What it returned; the proxies in it become this tracer's.
        """
        self._repeated = event
        try:
            with self._execution(), (event.modes or self.state.modes).entered():
                made = self._make(event, args, kwargs)
        finally:
            self._repeated = None
        for old, new in zip(proxies_in(result), proxies_in(made), strict=True):
            old.stand_for(self, new.node, new.fake)

    def _make(self, event: Event, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if event.kind == "read":
            return self.read(event.target, args, kwargs)
        return self.record(event.kind, event.target, args, kwargs)

    # -- executing ------------------------------------------------------------------------------------------------

    @contextmanager
    def _execution(self) -> Iterator[None]:
        """While it is open, calls are executed, not recorded."""
        before = self._is_executing
        self._is_executing = True
        try:
            yield
        except BaseException:
            self.reads.give_up()  # the model may catch it, and at another size it might not be raised
            raise
        finally:
            self._is_executing = before

    def _execute(self, event: Event, args: Any, kwargs: Any) -> Any:
        target = event.target
        try:
            if event.kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            if event.kind == "call_module":
                with _attributes_kept(self._modules[target]):
                    return self._modules[target](*args, **kwargs)
            return target(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            name = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
            raise self.error(
                f"{name} needs the values of a tensor",
                "a plan is made from sizes alone, so neither control flow nor sizes may depend on values",
                "move the computation behind the network, or replace it by one on sizes",
                event.location,
            ) from error

    def _wrap(self, node: fx.Node, value: Any, ref: ResultRef) -> Any:
        """The value as the model sees it, with a proxy for each tensor in it."""

        def wrap_item(key: Any, item: Any) -> Any:
            child = self.nodes.graph.call_function(operator.getitem, (node, key))
            self.nodes.keep(child, item, self._module(), self.nodes.records[node].location)
            return self._wrap(child, item, ResultRef(ref.event, (*ref.path, key)))

        if isinstance(value, torch.Tensor):
            return FakeProxy(self, ref, value).stand_for(self, node, value)
        return rebuild(value, wrap_item)

    def _lower(self, value: Any) -> Any:
        return lower_argument(value, self._node_of)

    def _node_of(self, tensor: torch.Tensor) -> fx.Node:
        if isinstance(tensor, FakeProxy):
            return tensor.node
        path = self._skeleton.tensor_paths.get(id(tensor))
        if path is None:
            raise self.foreign_tensor(tensor)
        if path not in self._attributes:
            if not self._is_attribute(path, tensor):
                raise self.error(
                    f"{path} is a tensor in a plain Python container",
                    "the graph refers to tensors by attribute path",
                    "make it a registered buffer or a parameter",
                )
            node = self.nodes.graph.get_attr(path)
            record = self.nodes.keep(node, tensor, self._module(), self.location())
            record.carries_gradient = tensor.requires_grad
            self._attributes[path] = node
        return self._attributes[path]

    def _is_attribute(self, path: str, tensor: torch.Tensor) -> bool:
        """Whether a path leads to a tensor by attributes alone; names may look like items of containers."""
        if "[" not in path:
            return True
        owner, _, name = path.rpartition(".")
        module = self._modules.get(owner)
        tables = () if module is None else (module._parameters, module._buffers, vars(module))
        return any(table.get(name) is tensor for table in tables)

    # -- places ---------------------------------------------------------------------------------------------------

    def _module(self) -> tuple[str, str]:
        """Path and class name of the innermost module that is running."""
        if self._repeated is not None:
            return self._repeated.module
        return self.state.stack[-1] if self.state.stack else ("", type(self.root).__name__)

    def _note_shape_read(self, proxy: FakeProxy, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        is_activation = self.nodes.records[proxy.node].is_activation
        location = self.location()
        if location is not None and is_activation and reads_spatial_size(name, args, kwargs, proxy.fake.dim()):
            self.shape_reads[location] = None

    def _check_modes(self, node: fx.Node, location: SourceLocation | None) -> None:
        ignore_gradient = not self.nodes.gradient_enters(node)
        difference = self.state.modes.difference(AmbientModes.current(), ignore_gradient=ignore_gradient)
        if difference:
            raise self.error(
                f"{node.name} runs {difference}",
                "a graph has no such regions: the call would run as if it stood outside",
                "move the switch outside the model, or write it without (x.detach(), x.float())",
                location,
            )


@contextmanager
def _attributes_kept(module: nn.Module) -> Iterator[None]:
    """Undo what a module that is called as one sets in itself: the model's does so when the program calls it."""
    before = [(inner, dict(vars(inner))) for inner in module.modules()]
    try:
        yield
    finally:
        for inner, attributes in before:
            if not are_same(vars(inner), attributes):
                vars(inner).clear()
                vars(inner).update(attributes)
