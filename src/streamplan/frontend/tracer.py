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
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from streamplan.errors import TracingError
from streamplan.frontend.arguments import lower_argument, plain_containers, rebuild
from streamplan.frontend.aten_stream import AtenStream
from streamplan.frontend.facts import tensors_in
from streamplan.frontend.fake_proxy import OPERATORS, FakeProxy, TracingMode, contains_proxy, proxies_in
from streamplan.frontend.leaves import plain_class
from streamplan.frontend.locations import place, user_location
from streamplan.frontend.modes import AmbientModes
from streamplan.frontend.node_table import NodeTable
from streamplan.frontend.patches import tracing_patches
from streamplan.frontend.reads import Guard, ReadLog
from streamplan.frontend.skeleton import Skeleton
from streamplan.frontend.tensor_uses import (
    METADATA_METHODS,
    REFUSED_METHODS,
    TENSOR_PROPERTIES,
    is_tensor_method,
    property_name,
    reads_spatial_size,
)
from streamplan.ir import SourceLocation


class GraphTracer:
    """One trace.

    Args:
        skeleton: The model, on fake tensors.
        stream: Active aten recorder.
        is_leaf: Which modules become one node instead of being traced into.
    """

    def __init__(self, skeleton: Skeleton, stream: AtenStream, is_leaf: Callable[[nn.Module], bool]) -> None:
        self.nodes = NodeTable()
        self.module_outputs: dict[str, str] = {}
        self.shape_reads: dict[SourceLocation, None] = {}
        self.reads = ReadLog()
        self.executing = False
        self._active = False
        self.root = skeleton.root
        self.stream = stream
        self._skeleton = skeleton
        self._is_leaf = is_leaf
        self._modules = dict(skeleton.root.named_modules())
        self._module_paths = {id(module): path for path, module in self._modules.items()}
        self._attributes: dict[str, FakeProxy] = {}
        self._stack: list[tuple[str, str]] = []
        self._modes = AmbientModes.current()
        self._failure: tuple[BaseException, str, str] | None = None

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the model on proxies; what it returns holds proxies as well."""
        self._active = True
        try:
            with tracing_patches(self), TracingMode(self):
                return self.root(*args, **kwargs)
        finally:
            self._active = False

    def add_input(self, name: str, fake: torch.Tensor) -> FakeProxy:
        """Add a placeholder."""
        with self._execution():
            node = self.nodes.graph.placeholder(name)
            record = self.nodes.keep(node, fake, self._module())
            record.is_activation = True
            record.carries_gradient = fake.is_floating_point() or fake.is_complex()
            return FakeProxy(self, node, fake)

    def add_output(self, value: Any) -> fx.Node:
        """Add the output node."""
        with self._execution():
            node: fx.Node = self.nodes.graph.output(self._lower(plain_containers(value)))
            self.nodes.keep(node, self.nodes.evaluate(node.args[0]), self._module())
            return node

    def failing_module(self, error: BaseException) -> tuple[str, str]:
        """Path and class name of the innermost module an exception left."""
        if self._failure is not None and self._failure[0] is error:
            return self._failure[1:]
        return "", type(self.root).__name__

    # -- what the model does --------------------------------------------------------------------------------------

    def torch_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A torch function, method or property of a tensor is used."""
        if self.executing:
            return func(*args, **kwargs)
        answer = self._use(func, args, kwargs)
        self.reads.add_entry(func, tensors_in([args, kwargs]), answer)
        return answer

    def _use(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = property_name(func)
            if name in TENSOR_PROPERTIES:
                return self.record("call_function", getattr, (args[0], name), {})
            return self._read(name, args[:1], {})
        if not is_tensor_method(func, name):
            if name == "__set__":
                raise self._error("a property of a traced value is assigned", "the graph has no node for it")
            return self.record("call_function", func, args, kwargs)
        if name in METADATA_METHODS:
            return self._read(name, args, kwargs)
        if name in REFUSED_METHODS:
            raise self._error(f"Tensor.{name} is called on a traced value", "it would have no effect later")
        if name in OPERATORS:
            return self.record("call_function", OPERATORS[name], args, kwargs)
        return self.record("call_method", name, args, kwargs)

    def call_module(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], original: Callable[..., Any]
    ) -> Any:
        """A module is called. One that is not part of the model (made in `forward`) is traced into."""
        path = self._module_paths.get(id(module))
        self._stack.append((self._stack[-1][0] if path is None else path, plain_class(module).__name__))
        try:
            if path and self._is_leaf(module):  # the model itself is traced into: a node cannot be its own graph
                out = self.record("call_module", path, args, kwargs)
            else:
                out = original(module, *args, **kwargs)
        except Exception as error:
            if self._failure is None or self._failure[0] is not error:
                self._failure = (error, *self._stack[-1])
            raise
        finally:
            self._stack.pop()
        if path is not None:
            self._note_output(path, out)
        return out

    def read_attribute(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter, buffer or tensor attribute of the model is read."""
        path = self._skeleton.tensor_paths.get(id(tensor))
        if path is None or isinstance(tensor, FakeProxy):
            return tensor
        if path not in self._attributes:
            with self._execution():
                if "[" in path:
                    raise self._error(
                        f"{path} is a tensor in a plain Python container",
                        "the graph refers to tensors by attribute path",
                        "make it a registered buffer or a parameter",
                    )
                node = self.nodes.graph.get_attr(path)
                record = self.nodes.keep(node, tensor, self._module(), self._location())
                record.carries_gradient = tensor.requires_grad
                self._attributes[path] = FakeProxy(self, node, tensor)
        return self._attributes[path]

    def record(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Add a call to the graph and execute it.

        Args:
            kind: fx opcode: call_function, call_method or call_module.
            target: Its target.
            args: Positional arguments, with proxies.
            kwargs: Keyword arguments, with proxies.

        Returns:
            A proxy, a tuple, list or dict of proxies, or the result itself if the call makes and writes no tensor.
        """
        if not self._active:
            raise self._error("a traced value is used after the trace", "the model kept it outside itself")
        with self._execution():
            location = self._location()
            node_args = self._lower(args)
            node_kwargs = self._lower(kwargs)
            first_call = len(self.stream.calls)
            self.stream.begin()
            value = self._execute(
                kind, target, self.nodes.evaluate(node_args), self.nodes.evaluate(node_kwargs), location
            )
            written = self.nodes.known_extents(self.stream.written, kind)
            if not written and not tensors_in(value):
                self.nodes.note_span(first_call, None)
                if contains_proxy((args, kwargs)):
                    self.reads.add_guard(Guard(kind, target, node_args, node_kwargs, value))
                return value
            node = self.nodes.graph.create_node(kind, target, node_args, node_kwargs)
            self.nodes.note_span(first_call, node)
            self.nodes.keep(node, value, self._module(), location, written).flops = self.stream.flops
            self._check_modes(node, location)
            return self._wrap(node, value)

    # -- executing ------------------------------------------------------------------------------------------------

    @contextmanager
    def _execution(self) -> Iterator[None]:
        """While it is open, calls are executed, not recorded."""
        before = self.executing
        self.executing = True
        try:
            yield
        except BaseException:
            self.reads.give_up()  # the model may catch it, and at another size it might not be raised
            raise
        finally:
            self.executing = before

    def _execute(self, kind: str, target: Any, args: Any, kwargs: Any, location: SourceLocation | None) -> Any:
        try:
            if kind == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            if kind == "call_module":
                return self._modules[target](*args, **kwargs)
            return target(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            name = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
            raise self._error(
                f"{name} needs the values of a tensor",
                "a plan is made from sizes alone, so neither control flow nor sizes may depend on values",
                "move the computation behind the network, or replace it by one on sizes",
                location,
            ) from error

    def _wrap(self, node: fx.Node, value: Any) -> Any:
        """The value as the model sees it, with a proxy for each tensor in it."""

        def wrap_item(key: Any, item: Any) -> Any:
            child = self.nodes.graph.call_function(operator.getitem, (node, key))
            self.nodes.keep(child, item, self._module(), self.nodes.records[node].location)
            return self._wrap(child, item)

        if isinstance(value, torch.Tensor):
            return FakeProxy(self, node, value)
        return rebuild(value, wrap_item)

    def _lower(self, value: Any) -> Any:
        return lower_argument(value, self._node_of)

    def _node_of(self, tensor: torch.Tensor) -> fx.Node:
        proxy = self.read_attribute(tensor)
        if isinstance(proxy, FakeProxy) and proxy.tracer is self:
            return proxy.node
        raise self._error(
            f"a tensor of shape {tuple(proxy.__dict__.get('fake', proxy).shape)} is used that the model does not own",
            "it is a global, or was kept from elsewhere; the graph can only refer to inputs and attributes",
            "register it as a buffer of the module that uses it",
        )

    def _read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a read of metadata: of a property, or by calling a method."""
        with self._execution():
            tensor = args[0].fake if isinstance(args[0], FakeProxy) else args[0]
            value = getattr(tensor, name)
            if name in METADATA_METHODS:
                value = value(*args[1:], **kwargs)
            self.reads.add_metadata(name, args, kwargs, value, self._skeleton.tensor_paths)
            is_activation = isinstance(args[0], FakeProxy) and self.nodes.records[args[0].node].is_activation
            if is_activation and reads_spatial_size(name, args[1:], kwargs, tensor.dim()):
                location = self._location()
                if location is not None:
                    self.shape_reads[location] = None
            return value

    # -- places ---------------------------------------------------------------------------------------------------

    def _module(self) -> tuple[str, str]:
        """Path and class name of the innermost module that is running."""
        return self._stack[-1] if self._stack else ("", type(self.root).__name__)

    def _location(self) -> SourceLocation | None:
        return user_location(GraphTracer.run.__code__)

    def _note_output(self, path: str, out: Any) -> None:
        names = [proxy.node.name for proxy in proxies_in(out)]
        if len(names) == 1:
            self.module_outputs[path] = names[0]
        else:
            self.module_outputs.pop(path, None)

    def _check_modes(self, node: fx.Node, location: SourceLocation | None) -> None:
        ignore_gradient = not self.nodes.gradient_enters(node)
        difference = self._modes.difference(AmbientModes.current(), ignore_gradient=ignore_gradient)
        if difference:
            raise self._error(
                f"{node.name} runs {difference}",
                "a graph has no such regions: the call would run as if it stood outside",
                "move the switch outside the model, or write it without (x.detach(), x.float())",
                location,
            )

    def _error(
        self,
        what: str,
        why: str,
        do: str = "rewrite the line, or register the module that makes the call as a leaf",
        location: SourceLocation | None = None,
    ) -> TracingError:
        path, type_name = self._stack[-1] if self._stack else ("", "")
        return TracingError(what, where=place(path, type_name, location or self._location()), why=why, do=do)
