"""The recorder: what a run of the model's code on tensors without data reports to.

Two classes record: `GraphTracer` writes a graph, `GuardRun` compares the run with the script of an earlier one. What is
a use of a tensor, which modules are entered, and how operands are named is the same for both, and stands here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import is_
from typing import Any

import torch
from torch import nn

from streamplan.errors import TracingError
from streamplan.ir import SourceLocation
from streamplan.trace.facts import tensors_in
from streamplan.trace.fake_proxy import OPERATORS, FakeProxy, TracingMode
from streamplan.trace.leaves import is_compiled, plain_class
from streamplan.trace.locations import place, user_location
from streamplan.trace.modes import AmbientModes
from streamplan.trace.patches import enter_module, tracing_patches
from streamplan.trace.script import OwnedRef
from streamplan.trace.skeleton import Skeleton
from streamplan.trace.state.tokens import ATOMS, Same, Tokens
from streamplan.trace.tensor_uses import (
    METADATA_METHODS,
    REFUSED_METHODS,
    TENSOR_PROPERTIES,
    VALUE_METHODS,
    is_mark,
    is_tensor_method,
    property_name,
)

_CONSTANT = frozenset((*ATOMS, float, complex))


@dataclass(slots=True)
class RunState:
    """Where a run is; a guard run that becomes a trace shares it with the tracer."""

    modes: AmbientModes
    """The switches of torch that it began with."""
    is_running: bool = False
    stack: list[tuple[str, str]] = field(default_factory=list)
    """Path and class name of the modules that are running, the innermost last."""
    failure: tuple[BaseException, str, str] | None = None
    """An exception, with path and class name of the innermost module that it left."""
    refusal: TracingError | None = None
    """The first error about what the model does; its code may have caught it."""


class Recorder(ABC):
    """One run of a model's code.

    Args:
        skeleton: The model, on fake tensors.
        is_leaf: Which modules are called as one, instead of being entered.
    """

    def __init__(self, skeleton: Skeleton, is_leaf: Callable[[nn.Module], bool]) -> None:
        self.state = RunState(AmbientModes.current())
        self.root = skeleton.root
        self._skeleton = skeleton
        self._is_leaf = is_leaf
        self._modules = dict(skeleton.root.named_modules())
        self._module_paths = {id(module): path for path, module in self._modules.items()}
        self._operands = Tokens(self._reference, Same)
        self._settings = Tokens(self._owned, self._members)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the model on proxies; what it returns holds proxies as well."""
        self.state.is_running = True
        try:
            with tracing_patches(self, self._modules.values()), TracingMode(self):
                out = self.root(*args, **kwargs)
        finally:
            self.state.is_running = False
        if self.state.refusal is not None:
            raise self.state.refusal
        return out

    @property
    @abstractmethod
    def executing(self) -> bool:
        """Whether calls are executed on tensors without data at the moment, and not recorded."""

    @abstractmethod
    def record(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call is made.

        Args:
            kind: fx opcode: call_function, call_method or call_module.
            target: Its target.
            args: Positional arguments, with proxies.
            kwargs: Keyword arguments, with proxies.

        Returns:
            A proxy, a tuple, list or dict of proxies, or the result itself if the call makes and writes no tensor.
        """

    @abstractmethod
    def read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Metadata of a tensor, `args[0]`, are read: a property, or what a method tells."""

    @abstractmethod
    def note_output(self, path: str, out: Any) -> None:
        """A call of a module has returned."""

    def torch_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A torch function, method or property of a tensor is used."""
        if self.executing or is_mark(func):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = property_name(func)
            if name in TENSOR_PROPERTIES:
                return self.record("call_function", getattr, (args[0], name), {})
            return self.read(name, args[:1], {})
        if not is_tensor_method(func, name):
            if name == "__set__":
                raise self.error("a property of a traced value is assigned", "the graph has no node for it")
            return self.record("call_function", func, args, kwargs)
        if name in METADATA_METHODS:
            return self.read(name, args, kwargs)
        if name in VALUE_METHODS:
            raise self.error(f"{name} needs the values of a tensor", "a plan is made from sizes alone")
        if name in REFUSED_METHODS:
            raise self.error(f"Tensor.{name} is called on a traced value", "it would have no effect later")
        if name in OPERATORS:
            return self.record("call_function", OPERATORS[name], args, kwargs)
        return self.record("call_method", name, args, kwargs)

    def call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A module of the model is called. One that is not part of it (made in `forward`) is traced into."""
        path = self._module_paths[id(module)]
        self.state.stack.append((path, plain_class(module).__name__))
        try:
            if path and self._is_leaf(module):  # the model itself is traced into: a node cannot be its own graph
                out = self.record("call_module", path, args, kwargs)
            else:
                out = enter_module(module, *args, **kwargs)
        except Exception as error:
            if self.state.failure is None or self.state.failure[0] is not error:
                self.state.failure = (error, *self.state.stack[-1])
            raise
        finally:
            self.state.stack.pop()
        self.note_output(path, out)
        return out

    def involves(self, value: Any) -> bool:
        """Whether a nested tuple, list or dict holds a traced value, or a tensor of the model."""
        return any(isinstance(x, FakeProxy) or id(x) in self._skeleton.tensor_paths for x in tensors_in(value))

    def failing_module(self, error: BaseException) -> tuple[str, str]:
        """Path and class name of the innermost module an exception left."""
        if self.state.failure is not None and self.state.failure[0] is error:
            return self.state.failure[1:]
        return "", type(self.root).__name__

    def error(
        self,
        what: str,
        why: str,
        do: str = "rewrite the line, or register the module that makes the call as a leaf",
        location: SourceLocation | None = None,
    ) -> TracingError:
        """An error about what the running line of the model does."""
        path, type_name = self.state.stack[-1] if self.state.stack else ("", "")
        error = TracingError(what, where=place(path, type_name, location or self.location()), why=why, do=do)
        self.state.refusal = self.state.refusal or error
        return error

    def location(self) -> SourceLocation | None:
        """The running line of the user's code."""
        return user_location(Recorder.run.__code__)

    def operands(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Token of the arguments of a call."""
        if not self.state.is_running:
            raise self.error("a traced value is used after the trace", "the model kept it outside itself")
        return self._operands.of((args, kwargs))

    def settings(self, kind: str, target: Any) -> Any:
        """Token of what a called module is set to; None for other calls."""
        return self._settings.of(self._modules[target]) if kind == "call_module" else None

    def changed_modes(self) -> AmbientModes | None:
        """The switches of torch, if they are not those that the run began with."""
        modes = AmbientModes.current()
        return None if modes == self.state.modes else modes

    def foreign_tensor(self, tensor: torch.Tensor) -> TracingError:
        """The error that a tensor is used which the model does not own."""
        return self.error(
            f"a tensor of shape {tuple(tensor.__dict__.get('fake', tensor).shape)} is used that the model does not own",
            "it is a global, or was kept from elsewhere; the graph can only refer to inputs and attributes",
            "register it as a buffer of the module that uses it",
        )

    def _reference(self, tensor: torch.Tensor) -> Any:
        if isinstance(tensor, FakeProxy):
            if tensor.recorder is not self:
                raise self.error(
                    "a value of an earlier call is used",
                    "the model kept a tensor from one call to the next, which only tiles have computed",
                    "return the tensor, and pass it to the next call",
                )
            return tensor.ref
        if id(tensor) not in self._skeleton.references:
            raise self.foreign_tensor(tensor)
        return self._skeleton.references[id(tensor)]

    def _owned(self, tensor: torch.Tensor) -> Any:
        known = self._skeleton.references.get(id(tensor))
        return OwnedRef("", tuple(tensor.shape), tensor.dtype) if known is None else known

    def _members(self, module: nn.Module) -> Any:
        """What a module holds; of what `torch.compile` made, the mode alone, since nobody looks into it."""
        if is_compiled(module):
            return Same(type(module)), module.training
        members = ((name, value) for name, value in vars(module).items() if name != "_compiled_call_impl")
        held = {name: value for name, value in members if not isinstance(value, dict) or value}
        parts = [type(module), *_parts(held)]
        known = self._skeleton.settings.get(id(module))
        if known is not None and len(known[0]) == len(parts) and all(map(is_, known[0], parts)):
            return known[1]
        token = Same(type(module)), tuple((name, self._settings.of(value)) for name, value in held.items())
        if all(map(self._never_changes, parts)):
            self._skeleton.settings[id(module)] = parts, token
        return token

    def _never_changes(self, value: Any) -> bool:
        """Whether a value has the same token as long as it is the same object."""
        if type(value) is tuple:
            return all(map(self._never_changes, value))
        return type(value) in _CONSTANT or isinstance(value, type) or id(value) in self._skeleton.references


def _parts(held: dict[str, Any]) -> list[Any]:
    """What a module holds, with the items of dicts, lists and sets one by one."""
    parts: list[Any] = []
    for name, value in held.items():
        parts.append(name)
        if isinstance(value, dict | list | set):
            parts.extend((type(value), len(value), *value, *(value.values() if isinstance(value, dict) else ())))
        else:
            parts.append(value)
    return parts
