"""Leaf modules: which modules become one node.

Layers of torch, because a rule can know them by name; what `torch.compile` made of a module, because only a call of the
whole runs the compiled program.
"""

from __future__ import annotations

from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.utils import parametrize

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LAYER_MODULES = ("torch.nn.modules.", "torch.nn.utils.", "torch.ao.nn.")


def plain_class(module: nn.Module) -> type[nn.Module]:
    """Class of a module as its author wrote it, without the subclass `parametrize` puts in front."""
    cls = type(module)
    return cls.__mro__[1] if parametrize.is_parametrized(module) else cls


def is_torch_leaf(module: nn.Module) -> bool:
    """Whether a module is one of torch's own layers rather than a container or a class of the user."""
    cls = plain_class(module)
    return cls.__module__.startswith(_LAYER_MODULES) and cls is not nn.Module and not isinstance(module, _CONTAINERS)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` made of another one."""
    return isinstance(module, OptimizedModule)
