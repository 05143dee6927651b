"""Leaf modules: which modules become one node.

Layers of torch, because a rule can know them by name, as long as they do what torch's classes say: one whose `forward`
was exchanged, for itself or in its class, is traced into like a module of the user's own. And what `torch.compile` made
of a module, because only a call of the whole runs the compiled program.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from operator import is_
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.utils import parametrize

from streamplan.errors import TracingError

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYER_MODULES = ("torch.nn.modules.", "torch.nn.utils.", "torch.ao.nn.")
_TORCH = os.path.join(torch.__path__[0], "")  # noqa: PTH118 - a path of pathlib's has no separator at its end
"""Folder of torch as its code objects name it, which may be a link."""
_NAMESPACES = (vars(torch), vars(nn.functional))
"""Where the code of torch's layers finds the functions that it calls."""


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Class of a module as its author wrote it, without the subclass `parametrize` puts in front."""
    cls = type(module)
    return cls.__mro__[1] if parametrize.is_parametrized(module) else cls


class TorchLeaves:
    """Tells torch's own layers, as torch wrote them, from containers and the user's modules.

    What a class defines is looked up once: make a new one for each run of a model.
    """

    def __init__(self) -> None:
        self._are_as_written: dict[type[nn.Module], bool] = {}

    def __call__(self, module: nn.Module) -> bool:
        """Whether a module is one of them."""
        cls = plain_class(module)
        if not cls.__module__.startswith(_LAYER_MODULES) or cls is nn.Module or isinstance(module, _CONTAINERS):
            return False
        if cls not in self._are_as_written:
            self._are_as_written[cls] = all(map(is_of_torch, _functions(cls)))
        return self._are_as_written[cls] and not any(name in vars(module) for name in _methods(cls))  # type: ignore[arg-type]


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` made of another one."""
    return isinstance(module, OptimizedModule)


def is_of_torch(function: Any) -> bool:
    """Whether a function is torch's own: written in C, or in a file of torch's."""
    if isinstance(function, FunctionType):
        return is_code_of_torch(function.__code__)
    return isinstance(function, BuiltinFunctionType)


def is_code_of_torch(code: CodeType) -> bool:
    """Whether code is from a file of torch's."""
    return code.co_filename.startswith(_TORCH)


@cache
def _methods(cls: type[nn.Module]) -> tuple[str, ...]:
    """Names of the methods that a call of a layer of torch's may run."""
    bases = cls.__mro__[: cls.__mro__.index(nn.Module)]
    own = [name for base in bases for name, member in vars(base).items() if isinstance(member, FunctionType)]
    return (*own, "_call_impl")


def check_functional() -> None:
    """Refuse to run a model's code while a function of `torch.nn.functional` is exchanged for another one.

    torch's own functions look themselves up there when they report to a tracer, so that the other one would be called
    twice.

    Raises:
        TracingError: One is exchanged.
    """
    namespace = vars(nn.functional)
    if all(map(is_, _FUNCTIONAL.values(), map(namespace.get, _FUNCTIONAL))):
        return
    for name in _FUNCTIONAL:
        if not is_of_torch(namespace.get(name)):
            raise TracingError(
                f"torch.nn.functional.{name} is not torch's own function",
                why="torch's functions look themselves up by name, so the other one would be called twice in a trace",
                do="put torch's function back, or call the other one from the model by a name of its own",
            )


_FUNCTIONAL = {
    name: function if is_of_torch(function) else None
    for name, function in vars(nn.functional).items()
    if isinstance(function, FunctionType | BuiltinFunctionType)
}
"""Functions of `torch.nn.functional`; None for one that was exchanged before streamplan was imported."""


def _functions(cls: type[nn.Module]) -> Iterator[Any]:
    """What a call of a layer may run: its methods, and the functions of torch that they name."""
    for base in cls.__mro__[: cls.__mro__.index(nn.Module)]:
        members = vars(base)
        for method in (*(m for m in members.values() if isinstance(m, FunctionType)), members.get("forward")):
            if method is None:
                continue
            yield method
            for name in getattr(getattr(method, "__code__", None), "co_names", ()):
                for namespace in _NAMESPACES:
                    if isinstance(namespace.get(name), FunctionType | BuiltinFunctionType):
                        yield namespace[name]
