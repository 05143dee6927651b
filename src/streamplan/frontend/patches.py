"""Patches of torch that are in force while a model is traced, and never longer.

Torch functions are seen by `TracingMode`; five things are not torch functions and are patched instead:

    nn.Module.__call__           leaf modules become one node; the others keep the module path up to date
    nn.Module.__getattr__        parameters and buffers become get_attr nodes
    autograd.Function.apply      becomes one node, since a trace into `forward` would lose the custom backward
    functions marked fx.wrap     become one node, as their authors asked for
    registered functions         become one node (see `registered`)

Recomputing an activation changes no value, so `torch.utils.checkpoint` is reduced to a plain call, both in the trace
and in the eager run it is compared with. Every patch acts on the tracing thread alone and is undone on errors too.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch.fx import _symbolic_trace as fx_trace

from streamplan.frontend.fake_proxy import contains_proxy
from streamplan.frontend.leaves import is_torch_leaf
from streamplan.frontend.registered import registered_functions_patched

if TYPE_CHECKING:
    from streamplan.frontend.reads import ReadMode
    from streamplan.frontend.tracer import GraphTracer

_APPLY = torch.autograd.Function.__dict__["apply"]
_CHECKPOINT_GENERATOR = "_checkpoint_without_reentrant_generator"


class FunctionApply:
    """`SomeFunction.apply` as the target of a node.

    Equal to the bound method it stands for. The bound method itself would do, but claims to be defined in torch, so
    that code printed from an fx graph could not call it.
    """

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        self.__self__ = function
        self.__name__ = f"{function.__name__}_apply"
        self.__qualname__ = f"{function.__qualname__}.apply"
        self.__module__ = function.__module__
        self.__signature__: inspect.Signature | None = None
        self._method = _APPLY.__get__(None, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._method(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return bool(self._method == (other._method if isinstance(other, FunctionApply) else other))

    def __hash__(self) -> int:
        return hash(self._method)

    def __repr__(self) -> str:
        return f"<{self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionApply, (self.__self__,)


@contextmanager
def tracing_patches(tracer: GraphTracer) -> Iterator[None]:
    """Route calls the tracer cannot see as torch functions to it."""
    with ExitStack() as stack:
        stack.enter_context(_set_attribute(nn.Module, "__call__", _module_call(tracer)))
        stack.enter_context(_set_attribute(nn.Module, "__getattr__", _module_getattr(tracer)))
        stack.enter_context(_plain_checkpoint_generator())
        stack.enter_context(registered_functions_patched(tracer))
        stack.enter_context(_set_attribute(torch.autograd.Function, "apply", classmethod(_function_apply(tracer))))
        for (_, name), namespace in list(fx_trace._wrapped_fns_to_patch.items()):
            if name in namespace:
                stack.enter_context(_set_item(namespace, name, _wrapped_function(tracer, namespace[name])))
        yield


@contextmanager
def layers_unseen(mode: ReadMode) -> Iterator[None]:
    """Keep what torch's own layers do inside out of a log of reads."""
    original, thread = nn.Module.__call__, threading.get_ident()

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread or not is_torch_leaf(module):
            return original(module, *args, **kwargs)
        with mode.suspended():
            return original(module, *args, **kwargs)

    with _set_attribute(nn.Module, "__call__", call):
        yield


@contextmanager
def steady_execution() -> Iterator[None]:
    """Let the same call always do the same, and an error be reported once.

    A TorchScript function optimises itself from call to call, so that two runs would differ, and no tracer sees what
    it does; the Python function it was made from is called instead. What `torch.compile` made runs as the Python it was
    made from, in all threads: nothing is compiled for fake tensors. Fake tensors log errors that are raised, with their
    place, all the same.
    """
    script_call = torch.jit.ScriptFunction.__call__
    thread = threading.get_ident()

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        source = getattr(function, "_torchdynamo_inline", None)
        if source is None or threading.get_ident() != thread:
            return script_call(function, *args, **kwargs)
        return source(*args, **kwargs)

    logger = logging.getLogger("torch._subclasses.fake_tensor")
    disabled = logger.disabled
    logger.disabled = True
    try:
        with _set_attribute(torch.jit.ScriptFunction, "__call__", call), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        logger.disabled = disabled


@contextmanager
def plain_checkpoint() -> Iterator[None]:
    """Let `torch.utils.checkpoint` call its function once, and nothing else."""

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])
        return _APPLY.__get__(None, cls)(*args, **kwargs)

    with _plain_checkpoint_generator(), _set_attribute(torch.autograd.Function, "apply", classmethod(apply)):
        yield


@contextmanager
def _plain_checkpoint_generator() -> Iterator[None]:
    def generator(*args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    with _set_attribute(torch.utils.checkpoint, _CHECKPOINT_GENERATOR, generator):
        yield


@contextmanager
def _set_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    missing = object()
    original = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if original is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


@contextmanager
def _set_item(namespace: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    original = namespace[name]
    namespace[name] = value
    try:
        yield
    finally:
        namespace[name] = original


def _module_call(tracer: GraphTracer) -> Callable[..., Any]:
    original = nn.Module.__call__
    thread = threading.get_ident()

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread or tracer.executing:
            return original(module, *args, **kwargs)
        return tracer.call_module(module, args, kwargs, original)

    return call


def _module_getattr(tracer: GraphTracer) -> Callable[..., Any]:
    original = nn.Module.__getattr__
    thread = threading.get_ident()

    def read(module: nn.Module, name: str) -> Any:
        value: Any = original(module, name)
        if isinstance(value, torch.Tensor) and not tracer.executing and threading.get_ident() == thread:
            return tracer.read_attribute(value)
        return value

    return read


def _function_apply(tracer: GraphTracer) -> Callable[..., Any]:
    thread = threading.get_ident()

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is torch.utils.checkpoint.CheckpointFunction and threading.get_ident() == thread:
            return args[0](*args[2:])
        if threading.get_ident() != thread or tracer.executing:
            return _APPLY.__get__(None, cls)(*args, **kwargs)
        return tracer.record("call_function", FunctionApply(cls), args, kwargs)

    return apply


def _wrapped_function(tracer: GraphTracer, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if contains_proxy((args, kwargs)):
            return tracer.record("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return call
