"""What a run of a shadow has done to the model's Python state, done to the model itself.

Attributes that the run has set or deleted are set or deleted; what it put into the model's own containers is there
already. A tensor that the run has kept is refused, since it has no data: the plain net would find it in its next call,
or its user after this one. Two kinds are not refused. Tensors that depend on nothing, such as a grid of positions, are
left out: the next run makes the same ones. In lists and dicts of the model that held a tensor in the same place before,
such as the heads of a DynUNet, a tensor on the meta device is put: whoever uses it is told that it has no data.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence, MutableSet
from itertools import chain
from typing import Any

import torch
from torch import nn

from streamplan.errors import TracingError
from streamplan.trace.copying import TABLES, copy_value, reachable
from streamplan.trace.fake_proxy import FakeProxy
from streamplan.trace.guard.shadow import Place, Shadow, identities, leads_to_twin
from streamplan.trace.locations import place
from streamplan.trace.script import InputRef, ResultRef
from streamplan.trace.skeleton import walk_tensors
from streamplan.trace.state.outside import OutsideState

IsConstant = Callable[[InputRef | ResultRef], bool]
_MISSING = object()


def refuse_kept(root: nn.Module, model: nn.Module, is_constant: IsConstant) -> None:
    """Refuse a run that left a tensor in an attribute of a module, or in what such an attribute leads to.

    Args:
        root: The copy of the model that was run.
        model: The model.
        is_constant: Whether a value depends on no input, parameter, buffer or random number.

    Raises:
        TracingError: It did.
    """
    originals = dict(model.named_modules())
    for path, module in root.named_modules():
        for name, value in vars(module).items():
            if name in TABLES or not _proxies(value):
                continue
            exchanged = _exchanged_items(vars(originals[path]).get(name) if path in originals else None, value)
            left = value if not exchanged else [item for key, item in _items(value) if key not in exchanged]
            if not all(is_constant(proxy.ref) for proxy in _proxies(left)):
                raise _kept(module, (path, name))


def refuse_kept_outside(before: OutsideState, model: nn.Module, is_constant: IsConstant) -> None:
    """Refuse a run that left a tensor outside the model: in a global, a closure, a default argument or a class.

    Args:
        before: What was there before the run; what the run has left is taken out again.
        model: The model, or what was run in its place.
        is_constant: Whether a value depends on no input, parameter, buffer or random number.

    Raises:
        TracingError: It did, and the tensor is not constant.
    """
    if not all(isinstance(left, FakeProxy) and is_constant(left.ref) for left in before.left_in(model)):
        raise TracingError(
            "forward keeps a tensor outside the model",
            where=type(model).__name__,
            why="the program has its values tile by tile at most, so they cannot be kept as the plain net keeps them",
            do="return the tensor, or make it outside forward",
        )


def write_back(shadow: Shadow, before: Mapping[Place, Any], is_constant: IsConstant) -> None:
    """Bring the model into the state that a run has left its shadow in.

    Args:
        shadow: The shadow that was run.
        before: Copies of the mutable values from before the run.
        is_constant: Whether a traced value depends on no input, parameter, buffer or random number.

    Raises:
        TracingError: The run has kept a tensor, or changed what leads to one; the model's containers are as before.
    """
    try:
        exchanged = _take_exchanged(shadow)
        _check_tables(shadow)
        _clear_shared(shadow, before, is_constant)
        changes = {path: _changes(shadow, path, is_constant) for path in shadow.twins}
    except TracingError:
        _restore(shadow, before)
        raise
    originals = _originals(shadow) if any(map(_leads, chain(*(c.values() for c in changes.values())))) else {}
    for path, changed in changes.items():
        for name, value in changed.items():
            copied = copy_value(value, originals, dict(originals)) if _leads(value) else value
            _set(vars(shadow.modules[path]), name, copied)
        if changed:
            shadow.note_changes(path, changed)
    for container, key, tensor in exchanged:
        with torch._C.DisableTorchFunctionSubclass():
            container[key] = torch.empty(tuple(tensor.shape), dtype=tensor.dtype, device="meta")


def _originals(shadow: Shadow) -> dict[int, Any]:
    """The model's modules and tensors, by the `id` of what stands for them in a shadow."""
    tensors = {id(shadow.fakes[id(tensor)]): tensor for _, tensor in walk_tensors(shadow.modules[""])}
    return {**tensors, **{id(twin): shadow.modules[path] for path, twin in shadow.twins.items()}}


def _set(attributes: dict[str, Any], name: str, value: Any) -> None:
    if value is _MISSING:
        attributes.pop(name, None)
    else:
        attributes[name] = value


def _leads(value: Any) -> bool:
    return value is not _MISSING and leads_to_twin(value)


def _changes(shadow: Shadow, path: str, is_constant: IsConstant) -> dict[str, Any]:
    """Attributes that the run has set to other values; constant tensors are taken out of the twin again."""
    now, before = vars(shadow.twins[path]), shadow.twin_attributes[path]
    changed = dict.fromkeys(before.keys() - now.keys(), _MISSING)
    for name, value in now.items():
        if value is not before.get(name, _MISSING):
            changed[name] = value
    for name, value in list(changed.items()):
        proxies = _proxies(value)
        if proxies and all(is_constant(proxy.ref) for proxy in proxies):
            _set(vars(shadow.twins[path]), name, before.get(name, _MISSING))
            del changed[name]
        elif proxies:
            raise _kept(shadow.modules[path], (path, name))
    return changed


def _clear_shared(shadow: Shadow, before: Mapping[Place, Any], is_constant: IsConstant) -> None:
    """Take constant tensors out of the model's own containers."""
    for where, value in shadow.shared.items():
        if not leads_to_twin(value):
            continue
        for key, item in list(value.items()) if isinstance(value, dict) else ():
            proxies = _proxies(item)
            if proxies and all(is_constant(proxy.ref) for proxy in proxies):
                del value[key]
        if leads_to_twin(value):
            raise _kept(shadow.modules[where[0]], where)


def _check_tables(shadow: Shadow) -> None:
    """Refuse a run that exchanged a parameter, a buffer or a module, or changed what leads to one."""
    for path, twin in shadow.twins.items():
        for table, before in shadow.twin_tables[path].items():
            now = vars(twin)[table]
            for name in before.keys() | now.keys():
                if now.get(name, _MISSING) is not before.get(name, _MISSING):
                    raise _exchanged(shadow, (path, name), table)
    now = identities({where: vars(shadow.twins[where[0]]).get(where[1]) for where in shadow.copied})
    for (where, token), (_, before) in zip(now, shadow.copied_twins, strict=True):
        if token != before:
            raise _kept(shadow.modules[where[0]], where)


def _take_exchanged(shadow: Shadow) -> list[tuple[Any, Any, FakeProxy]]:
    """Take the tensors of the run out of the places where the model's lists and dicts had tensors before.

    Returns:
        The list or dict of the model, the place in it, and the tensor.
    """
    found = []
    for (path, name), original in shadow.copied.items():
        value: Any = vars(shadow.twins[path]).get(name)
        for key in _exchanged_items(original, value):
            found.append((original, key, value[key]))
            value[key] = shadow.fakes[id(original[key])]
    return found


def _exchanged_items(before: Any, now: Any) -> list[Any]:
    """Places of a list or dict that hold a traced value now, and held a tensor before."""
    if type(before) is not type(now) or not isinstance(now, list | dict) or len(before) != len(now):
        return []
    places = dict(_items(before))
    return [
        key for key, item in _items(now) if isinstance(item, FakeProxy) and isinstance(places.get(key), torch.Tensor)
    ]


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items() if isinstance(value, dict) else enumerate(value))


def _proxies(value: Any) -> list[FakeProxy]:
    """The traced values that can be reached from a value."""
    return [item for item in reachable(value) if isinstance(item, FakeProxy)]


def _restore(shadow: Shadow, before: Mapping[Place, Any]) -> None:
    """Put the contents that the model's containers had before a run into them again."""
    for where, copied in before.items():
        value = shadow.shared[where]
        if not leads_to_twin(value):
            continue
        if isinstance(value, MutableMapping | MutableSet):
            value.clear()
            value.update(copied) if isinstance(value, MutableMapping) else value.__ior__(copied)
        elif isinstance(value, MutableSequence | deque):
            value.clear()
            value.extend(copied)
        elif hasattr(value, "__dict__"):
            vars(value).clear()
            vars(value).update(vars(copied))


def _kept(module: nn.Module, where: Place) -> TracingError:
    path, name = where
    return TracingError(
        f"forward keeps a tensor in {name}",
        where=place(path, type(module).__name__, None),
        why="the program has its values tile by tile at most, so it cannot be set as the plain net sets it",
        do="return the tensor, or make it outside forward",
    )


def _exchanged(shadow: Shadow, where: Place, table: str) -> TracingError:
    path, name = where
    kind = {"_parameters": "parameter", "_buffers": "buffer", "_modules": "module"}[table]
    return TracingError(
        f"forward assigns the {kind} {name}",
        where=place(path, type(shadow.modules[path]).__name__, None),
        why="the graph of a model has no node that stores a value in a module",
        do=f"update the {kind} outside forward, or register the module as a leaf",
    )
