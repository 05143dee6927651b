"""The shadow: a model's modules on tensors without data, which share the model's Python state.

The skeleton of a trace is a copy to itself. A shadow is run once per call, and what the model's code does to its own
state must happen to the model: a counter in a dict is that of the model, and an attribute that the run has set is set
on the model afterwards (`write_back`). Parameters, buffers and modules are twins; so is each container or object that
leads to one of them. Everything else is the model's own.

    model.conv  --twin-->  shadow.conv     its own attributes, fake parameters
    model.log   == shadow.log              the same list
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import is_
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from streamplan.trace.copying import TABLES, reachable
from streamplan.trace.leaves import TorchLeaves, is_compiled
from streamplan.trace.skeleton import Skeleton, copy_with, make_fakes
from streamplan.trace.state.tokens import ATOMS, Same, Tokens, tensor_metadata

_CONSTANT = frozenset((*ATOMS, float, complex, type, ModuleType))
"""Types of values that never change, and lead to nothing else."""

_OF_TORCH = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called", "_compiled_call_impl")
"""Ends of the names of what `nn.Module` keeps besides `TABLES`."""

Place = tuple[str, str]
"""Path of a module, and name of an attribute."""


@dataclass(eq=False)
class Shadow:
    """Twins of a model's modules."""

    skeleton: Skeleton
    fake_mode: FakeTensorMode
    """Mode of the fake tensors."""
    device: torch.device | None
    """Device of the fake tensors; None for that of each tensor."""
    twins: Mapping[str, nn.Module]
    """By path."""
    modules: Mapping[str, nn.Module]
    """The model's, by path."""
    attributes: dict[str, dict[str, Any]]
    """Attributes of the modules when the shadow was made, or last written to."""
    twin_attributes: dict[str, dict[str, Any]]
    """Those of the twins."""
    twin_tables: Mapping[str, Mapping[str, dict[str, Any]]]
    """Their parameters, buffers and modules, by the name of the table."""
    fakes: Mapping[int, Any]
    """Fake tensors by the `id` of the model's tensors."""
    metadata: tuple[Any, ...]
    """What the fake tensors were made like."""
    shared: dict[Place, Any]
    """Mutable values that are the model's own."""
    copied: Mapping[Place, Any]
    """Values of the model that lead to twins and were copied."""
    copied_token: Any
    """What they led to."""
    copied_twins: Any
    """What their copies led to."""

    def is_current(self, model: nn.Module, device: torch.device | None) -> bool:
        """Whether a shadow made now, for a device, would be the same."""
        modules = dict(model.named_modules())
        if device != self.device or not are_same(modules, self.modules):
            return False
        if any(type(module) is not type(self.twins[path]) for path, module in modules.items()):
            return False
        if not all(are_same(vars(module), self.attributes[path]) for path, module in modules.items()):
            return False
        if _tensors_token(modules) != self.metadata or self.copied_token != identities(self.copied):
            return False
        return not any(map(leads_to_twin, self.shared.values()))

    def changed_paths(self) -> frozenset[str]:
        """Modules whose attributes a run has set."""
        twins = self.twins.items()
        return frozenset(path for path, twin in twins if not are_same(vars(twin), self.twin_attributes[path]))

    def note_changes(self, path: str, names: Iterable[str]) -> None:
        """Attributes of a module were written; if that takes other twins, the shadow stays behind the model."""
        places = {(path, name): vars(self.modules[path]).get(name) for name in names}
        if any(place in self.copied or leads_to_twin(value) for place, value in places.items()):
            return
        self.attributes[path] = dict(vars(self.modules[path]))
        self.twin_attributes[path] = dict(vars(self.twins[path]))
        for place, value in places.items():
            self.shared.pop(place, None)
            if not _is_constant(value):
                self.shared[place] = value

    def before_run(self) -> dict[Place, Any]:
        """Copies of the mutable values that a run may change; what cannot be copied is left out."""
        copies = {}
        memo: dict[int, Any] = {}
        for where, value in self.shared.items():
            try:
                copies[where] = copy.deepcopy(value, memo)
            except Exception:  # noqa: BLE001 - an object may fail to be copied in any way
                continue
        return copies

    def skeleton_before(self, copies: Mapping[Place, Any]) -> Skeleton:
        """The model as it was before a run, as a copy to itself.

        Args:
            copies: What `before_run` returned then; to be called before anything is written back.

        Raises:
            TracingError: The model cannot be copied.
        """
        shared = {id(self.shared[where]): value for where, value in copies.items()}
        return copy_with(self.modules[""], {**self.fakes, **shared})


def make_shadow(model: nn.Module, device: torch.device | None = None) -> Shadow:
    """Make the twins of a model's modules.

    Args:
        model: The model.
        device: Device of the fake tensors; None keeps each tensor's own.

    Raises:
        TracingError: The model cannot be copied, or has parameters that are not initialised yet.
    """
    fake_mode = FakeTensorMode()
    fakes = make_fakes(model, fake_mode, device)
    modules = dict(model.named_modules())
    shared: dict[Place, Any] = {}
    copied: dict[Place, Any] = {}
    for where, value in _mutable_values(modules):
        (copied if leads_to_twin(value) else shared)[where] = value
    skeleton = copy_with(model, {**fakes, **{id(value): value for value in shared.values()}})
    twins = dict(skeleton.root.named_modules())
    return Shadow(
        skeleton=skeleton,
        fake_mode=fake_mode,
        device=device,
        twins=twins,
        modules=modules,
        attributes={path: dict(vars(module)) for path, module in modules.items()},
        twin_attributes={path: dict(vars(twin)) for path, twin in twins.items()},
        twin_tables={path: {name: dict(vars(twin)[name]) for name in TABLES} for path, twin in twins.items()},
        fakes=fakes,
        metadata=_tensors_token(modules),
        shared=shared,
        copied=copied,
        copied_token=identities(copied),
        copied_twins=identities({where: vars(twins[where[0]])[where[1]] for where in copied}),
    )


def tensors_token(model: nn.Module) -> tuple[Any, ...]:
    """What code can learn of a model's registered tensors without their values, which are the same ones included."""
    return _tensors_token(dict(model.named_modules()))


def _tensors_token(modules: Mapping[str, nn.Module]) -> tuple[Any, ...]:
    numbers: dict[int, int] = {}
    return tuple(
        (path, name, value if value is None else (numbers.setdefault(id(value), len(numbers)), tensor_metadata(value)))
        for path, module in modules.items()
        for table in (module._parameters, module._buffers)
        for name, value in table.items()
    )


def leads_to_twin(value: Any) -> bool:
    """Whether a module or tensor can be reached from a value."""
    return any(isinstance(item, nn.Module | torch.Tensor) for item in reachable(value))


def _mutable_values(modules: Mapping[str, nn.Module]) -> Iterator[tuple[Place, Any]]:
    """Attributes that may change, or lead to what may, but for those that torch keeps for itself."""
    is_torch_leaf = TorchLeaves()
    for path, module in modules.items():
        for name, value in vars(module).items() if not (is_torch_leaf(module) or is_compiled(module)) else ():
            is_own = name in TABLES or name.endswith(_OF_TORCH)
            if not is_own and not _is_constant(value) and not isinstance(value, torch.Tensor | nn.Module):
                yield (path, name), value


def _is_constant(value: Any) -> bool:
    if isinstance(value, FunctionType):
        return not leads_to_twin(value)
    return type(value) in _CONSTANT or (type(value) is tuple and all(map(_is_constant, value)))


def are_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two mappings have the very same values under the same keys."""
    return one.keys() == other.keys() and all(map(is_, one.values(), map(other.__getitem__, one)))


def identities(values: Mapping[Place, Any]) -> Any:
    """What values hold, of modules and tensors which they are."""
    tokens = Tokens(Same, Same)
    return tuple((where, tokens.of(value)) for where, value in values.items())
