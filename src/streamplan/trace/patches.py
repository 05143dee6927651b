"""Patches that are in force while a model is traced, for the thread that traces and for no other.

Torch functions are seen by `TracingMode`; four things are not torch functions:

    modules of the model            leaf modules become one node; the others keep the module path up to date
    autograd.Function.apply         becomes one node, since a trace into `forward` would lose the custom backward
    functions marked fx.wrap        become one node, as their authors asked for
    registered functions            become one node (see `registered`)

Modules are those of a copy that is the tracer's own. The rest belongs to everybody, and is switched (see `switches`).
Recomputing an activation changes no value, so `torch.utils.checkpoint` is reduced to a plain call, both in the trace
and in the eager run it is compared with. Every patch is undone on errors too.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.utils.checkpoint
from torch import nn
from torch._dynamo import eval_frame
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import _symbolic_trace as fx_trace
from torch.utils._python_dispatch import _disable_current_modes

from streamplan.trace.leaves import TorchLeaves
from streamplan.trace.registered import registered_functions_patched
from streamplan.trace.switches import Attribute, Code, Item, switched

if TYPE_CHECKING:
    from streamplan.trace.reads import ReadMode
    from streamplan.trace.recorder import Recorder

_APPLY = torch.autograd.Function.__dict__["apply"]
_FUNCTION_APPLY = Code(_APPLY.__func__)
_CHECKPOINT_GENERATOR = Code(torch.utils.checkpoint._checkpoint_without_reentrant_generator)
_COMPILER_CALLBACK = Code(eval_frame._callback_from_stance)
_SCRIPT_CALL = Attribute(torch.jit.ScriptFunction, "__call__")
_CALL_IMPL = nn.Module._call_impl
_IS_LOGGED = Attribute(logging.getLogger("torch._subclasses.fake_tensor"), "isEnabledFor")
_MAX_KNOWN_CALLS = 2048
"""Calls on fake tensors, of 2 KiB each, whose results torch may remember; a net of 100 layers makes some 300."""


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
def tracing_patches(recorder: Recorder, modules: Collection[nn.Module]) -> Iterator[None]:
    """Route calls the tracer cannot see as torch functions to it.

    Args:
        recorder: The tracer, or what else is told of the run.
        modules: The modules of its copy of the model.
    """
    with ExitStack() as stack:
        stack.enter_context(_calls_replaced(modules, partial(_call_module, recorder)))
        stack.enter_context(_plain_checkpoint_generator())
        stack.enter_context(registered_functions_patched(recorder))
        stack.enter_context(switched(_FUNCTION_APPLY, partial(_apply, recorder)))
        for (_, name), namespace in list(fx_trace._wrapped_fns_to_patch.items()):
            if name in namespace:
                stack.enter_context(switched(Item(namespace, name), partial(_call_wrapped, recorder)))
        yield


@contextmanager
def layers_unseen(mode: ReadMode, root: nn.Module) -> Iterator[None]:
    """Keep what torch's own layers of a copy of a model do inside out of a log of reads."""

    def call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        with mode.suspended() if is_torch_leaf(module) else nullcontext():
            return enter_module(module, *args, **kwargs)

    is_torch_leaf = TorchLeaves()
    with _calls_replaced(list(root.modules()), call):
        yield


@contextmanager
def steady_execution() -> Iterator[None]:
    """Let the same call always do the same, and an error be reported once.

    A TorchScript function optimises itself from call to call, so that two runs would differ, and no tracer sees what
    it does; the Python function it was made from is called instead. What `torch.compile` made runs as the Python it was
    made from: nothing is compiled for fake tensors. Fake tensors log errors that are raised, with their place, all the
    same. What torch remembers of calls on them is bounded. Modes of the caller, such as a counter of operations, do not
    see them.
    """

    def call_script(original: Callable[..., Any], function: Any, /, *args: Any, **kwargs: Any) -> Any:
        source = getattr(function, "_torchdynamo_inline", None)
        return original(function, *args, **kwargs) if source is None else source(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(switched(_SCRIPT_CALL, call_script))
        stack.enter_context(switched(_COMPILER_CALLBACK, lambda original, callback: None))
        stack.enter_context(switched(_IS_LOGGED, lambda original, level: False))
        stack.callback(_forget_calls)
        stack.enter_context(_disable_current_modes())
        yield


def _forget_calls() -> None:
    """Empty torch's table of calls on fake tensors if it has grown too large; torch keeps it for the process."""
    if len(FakeTensorMode.cache) > _MAX_KNOWN_CALLS:
        FakeTensorMode.cache_clear()


@contextmanager
def plain_checkpoint() -> Iterator[None]:
    """Let `torch.utils.checkpoint` call its function once, and nothing else."""

    def apply(original: Callable[..., Any], cls: Any, /, *args: Any, **kwargs: Any) -> Any:
        if cls is torch.utils.checkpoint.CheckpointFunction:
            return args[0](*args[2:])
        return original(cls, *args, **kwargs)

    with _plain_checkpoint_generator(), switched(_FUNCTION_APPLY, apply):
        yield


@contextmanager
def _plain_checkpoint_generator() -> Iterator[None]:
    def generator(original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    with switched(_CHECKPOINT_GENERATOR, generator):
        yield


@contextmanager
def _calls_replaced(modules: Collection[nn.Module], call: Callable[..., Any]) -> Iterator[None]:
    """Let calls of some modules, which are nobody else's, be calls of `call` with the module in front.

    `nn.Module.__call__` asks each module for such a function, which `torch.compile` would have put there.
    """
    for module in modules:
        vars(module)["_compiled_call_impl"] = partial(call, module)
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("_compiled_call_impl", None)


def enter_module(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """Call a module of a copy of a model; hooks on all modules are for those of the model alone."""
    is_hooked = any(vars(module).get(kind) for kind in ("_forward_hooks", "_forward_pre_hooks"))
    is_exchanged = "_call_impl" in vars(module) or type(module)._call_impl is not _CALL_IMPL
    call: Callable[..., Any] = module._call_impl if is_hooked or is_exchanged else module.forward
    return call(*args, **kwargs)


def _call_module(recorder: Recorder, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    if recorder.executing:
        return enter_module(module, *args, **kwargs)
    return recorder.call_module(module, args, kwargs)


def _apply(recorder: Recorder, original: Callable[..., Any], cls: Any, /, *args: Any, **kwargs: Any) -> Any:
    if cls is torch.utils.checkpoint.CheckpointFunction:
        return args[0](*args[2:])
    if recorder.executing:
        return original(cls, *args, **kwargs)
    return recorder.record("call_function", FunctionApply(cls), args, kwargs)


def _call_wrapped(recorder: Recorder, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    if recorder.involves((args, kwargs)):
        return recorder.record("call_function", original, args, kwargs)
    return original(*args, **kwargs)
