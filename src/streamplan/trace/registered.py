"""Modules and functions that users registered a rule for: each call of one is one node, and one call of the graph.

A module of a registered class is a leaf. A registered Python function is traced into by nature: nothing tells a tracer
that it is entered. While a model is traced its *code* is therefore exchanged for one that asks the tracer, so that a
call is seen however the function is reached: as a global, as an attribute of a module or an object, out of a closure, a
table or a `functools.partial`. Functions of torch, and `autograd.Function`s, become nodes anyway.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import get_overridable_functions
from torch.utils import _pytree as pytree

from streamplan.ir import AttributeRef, TensorSpec, ValueRef
from streamplan.trace.facts import map_structure
from streamplan.trace.leaves import plain_class
from streamplan.trace.switches import Code, switched

if TYPE_CHECKING:
    from streamplan.trace.recorder import Recorder

_CONSTANTS = (torch.Tensor, bool, int, float, complex, str, type(None), torch.dtype, torch.device, slice, type(...))

ReadCall = Callable[[nn.Module | None, str, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
"""Canonical arguments of a call, from its module and path, its arguments by name, and those with specs for tensors."""


@dataclass(frozen=True)
class RegisteredTarget:
    """How calls of a registered module class or function are lowered."""

    op: str
    """Canonical operation."""
    signature: inspect.Signature
    """Parameters of a call; a module's without `self`."""
    read_call: ReadCall

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name, defaults filled in.

        Raises:
            TypeError: They do not fit the signature.
        """
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


TARGETS: dict[Any, RegisteredTarget] = {}
"""Registered module classes and functions; an `autograd.Function` by its `FunctionApply`."""


def registered_module(module: nn.Module) -> RegisteredTarget | None:
    """What is registered for the very class of a module, parametrized or not."""
    return TARGETS.get(plain_class(module))


def is_registered_leaf(module: nn.Module) -> bool:
    """Whether calls of a module are one node because its class is registered."""
    return plain_class(module) in TARGETS


def map_references(argument: Any, spec_of: Callable[[ValueRef | AttributeRef], TensorSpec]) -> Any:
    """An argument with specs in place of references."""
    if isinstance(argument, ValueRef | AttributeRef):
        return spec_of(argument)
    return map_structure(lambda item: map_references(item, spec_of), argument)


def is_expressible(argument: Any) -> bool:
    """Whether an argument has a source text in a program: references, plain constants, and tuples of those."""
    if isinstance(argument, tuple | list):
        return all(map(is_expressible, argument))
    return argument is None or isinstance(argument, ValueRef | AttributeRef | bool | int | float | str | torch.dtype)


@cache
def _torch_functions() -> frozenset[int]:
    return frozenset(id(function) for group in get_overridable_functions().values() for function in group)


def is_torch_function(target: Any) -> bool:
    """Whether calls of a function reach the tracer by torch's own override protocol."""
    return id(target) in _torch_functions()


@contextmanager
def registered_functions_patched(recorder: Recorder) -> Iterator[None]:
    """Let every registered Python function ask the tracer when it is called."""
    with ExitStack() as stack:
        for function in list(TARGETS):
            if isinstance(function, FunctionType) and not is_torch_function(function):
                stack.enter_context(switched(Code(function), partial(_call, recorder, function)))
        yield


def _call(
    recorder: Recorder, function: FunctionType, original: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    is_traced = not recorder.executing and recorder.involves((args, kwargs))
    if is_traced and all(isinstance(leaf, _CONSTANTS) for leaf in pytree.tree_leaves((args, kwargs))):
        return recorder.record("call_function", function, args, kwargs)
    return original(*args, **kwargs)
