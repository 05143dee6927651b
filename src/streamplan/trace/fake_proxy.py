"""The proxy: a tensor that knows its shape, has no data, and writes down what is done to it.

While a model is traced its activations are `FakeProxy` objects. Each stands for one node of the graph and carries the
fake tensor that node evaluates to. Two kinds of use are told apart:

    x.shape[-1] > 7, len(x), x.dtype        answered from the fake tensor: real numbers, no node
    x + 1, F.relu(x), x[:, :3], x.T         a node, evaluated on fake tensors, and a new proxy

It is a `torch.Tensor`, so `isinstance(x, torch.Tensor)` holds as it does in a plain run. It is not a `torch.fx.Proxy`:
code that asks for one does so to behave differently under a tracer, which is what must not happen.

`TracingMode` sees every torch function the model calls, with or without a proxy among its arguments, so that
`torch.zeros(...)` becomes a node as well instead of a constant without data.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from streamplan.trace.recorder import Recorder
    from streamplan.trace.script import InputRef, ResultRef, TensorTemplate

_UNARY = ("neg", "pos", "invert", "abs")
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift", "and_", "or_", "xor")
_INPLACE = (
    "iadd",
    "isub",
    "imul",
    "itruediv",
    "ifloordiv",
    "imod",
    "ipow",
    "ilshift",
    "irshift",
    "iand",
    "ior",
    "ixor",
)

OPERATORS: dict[str, Callable[..., Any]] = {
    f"__{name.rstrip('_')}__": getattr(operator, name)
    for name in (*_UNARY, *_COMPARISONS, *_BINARY, *_INPLACE, "getitem", "setitem")
}
"""Special method to the operator that calls it."""


class FakeProxy(torch.Tensor):
    """Stands for the value of one node while the model is traced."""

    recorder: Recorder
    ref: InputRef | ResultRef
    node: fx.Node
    fake: torch.Tensor

    @staticmethod
    def __new__(cls, recorder: Recorder, ref: InputRef | ResultRef, like: torch.Tensor | TensorTemplate) -> FakeProxy:
        """A value of a running trace: who is told of its uses, where it came from, and its shape and dtype."""
        device = like.device if isinstance(like, torch.Tensor) else None
        shape = tuple(like.shape)
        proxy: FakeProxy = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=like.dtype, device=device)
        proxy.recorder = recorder
        proxy.ref = ref
        return proxy

    def stand_for(self, recorder: Recorder, node: fx.Node, fake: torch.Tensor) -> FakeProxy:
        """Become the value of a node, which evaluates to a fake tensor, in a run that another recorder is told of."""
        self.recorder = recorder
        self.node = node
        self.fake = fake
        if isinstance(fake, torch.nn.Parameter):
            self._is_param = True
        return self

    def __init__(self, *args: Any) -> None:
        """Everything is set in `__new__`."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Reached where no `TracingMode` is active, such as from a mode the model pushed itself."""
        for proxy in proxies_in((args, kwargs or {})):
            return _recorder(proxy).torch_function(func, args, kwargs or {})
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Reached if a call bypassed the recording; it must not compute anything unrecorded."""
        what = f"{func} was called on a traced value behind the tracer's back"
        why, do = (
            "the caller switched torch function overrides off",
            "register the module that makes the call as a leaf",
        )
        raise next(_recorder(proxy).error(what, why, do) for proxy in proxies_in((args, kwargs or {})))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.unbind(0))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        state = self.__dict__
        return f"FakeProxy({state['ref']}, dtype={self.dtype})"

    def __format__(self, format_spec: str) -> str:
        return format(repr(self), format_spec)


class TracingMode(TorchFunctionMode):
    """Hands every torch function the model calls to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return self.recorder.torch_function(func, args, kwargs or {})


def _recorder(proxy: FakeProxy) -> Recorder:
    recorder: Recorder = proxy.__dict__["recorder"]
    return recorder


def proxies_in(value: Any) -> Iterator[FakeProxy]:
    """All proxies in a nested tuple, list or dict, depth first."""
    if isinstance(value, FakeProxy):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from proxies_in(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from proxies_in(item)


def contains_proxy(value: Any) -> bool:
    """Whether a nested tuple, list or dict holds a proxy."""
    return next(proxies_in(value), None) is not None


def _forward(target: Callable[..., Any]) -> Callable[..., Any]:
    def special_method(self: FakeProxy, *args: Any) -> Any:
        return _recorder(self).record("call_function", target, (self, *args), {})

    return special_method


def _reflected(target: Callable[..., Any]) -> Callable[..., Any]:
    def special_method(self: FakeProxy, other: Any) -> Any:
        return _recorder(self).record("call_function", target, (other, self), {})

    return special_method


for _name, _target in OPERATORS.items():
    setattr(FakeProxy, _name, _forward(_target))
for _name in _BINARY:
    setattr(FakeProxy, f"__r{_name.rstrip('_')}__", _reflected(getattr(operator, _name)))
