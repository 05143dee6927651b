"""Functions that some threads replace by others, while all other threads go on with what was there.

In: the place where a function is kept, and what to call instead. While at least one thread wants it, a dispatcher
stands in that place:

    thread 1    with switched(Code(blur), record):
                    blur(x)                                       record(blur as it was, x)
    thread 2    blur(x)                                           blur as it was, x

The last thread to leave puts back what was there, unless somebody else has put something there meanwhile.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, MutableMapping
from contextlib import contextmanager
from functools import wraps
from types import FunctionType
from typing import Any

Instead = Callable[..., Any]
"""Called with the function it stands for, and with the arguments of the call."""

_PLACEHOLDER = "the dispatcher stands here"


class Place(ABC):
    """Where a function is kept."""

    key: Hashable
    """Equal for equal places."""

    @abstractmethod
    def read(self) -> Any:
        """What is there; a function, or what holds one."""

    @abstractmethod
    def write(self, kept: Any) -> None:
        """Put something there."""

    @abstractmethod
    def function(self, kept: Any) -> Callable[..., Any]:
        """The function that calls reach, if `kept` is there."""

    def stand_in(self, kept: Any, dispatch: Callable[..., Any]) -> Any:
        """What is to be there in the place of `kept`, so that calls reach `dispatch`."""
        return dispatch


class Attribute(Place):
    """An attribute of a class, a module or an object; of an object it may be one that its class gives it."""

    def __init__(self, owner: Any, name: str) -> None:
        self.key = id(owner), name
        self._owner, self._name = owner, name
        self._inherited = object()

    def read(self) -> Any:
        """See `Place`."""
        return vars(self._owner).get(self._name, self._inherited)

    def write(self, kept: Any) -> None:
        """See `Place`."""
        if kept is self._inherited:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, kept)

    def function(self, kept: Any) -> Callable[..., Any]:
        """See `Place`."""
        found: Callable[..., Any] = getattr(self._owner, self._name)
        return found


class Item(Place):
    """An item of a namespace."""

    def __init__(self, namespace: MutableMapping[str, Any], name: str) -> None:
        self.key = id(namespace), name
        self._namespace, self._name = namespace, name

    def read(self) -> Any:
        """See `Place`."""
        return self._namespace.get(self._name)

    def write(self, kept: Any) -> None:
        """See `Place`."""
        self._namespace[self._name] = kept

    def function(self, kept: Any) -> Callable[..., Any]:
        """See `Place`."""
        found: Callable[..., Any] = kept
        return found


class Code(Place):
    """The code of a Python function: calls are seen however it is reached, and nothing else of it changes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        assert isinstance(function, FunctionType)
        self.key = id(function), "__code__"
        self._function = function

    def read(self) -> Any:
        """See `Place`."""
        return self._function.__code__

    def write(self, kept: Any) -> None:
        """See `Place`."""
        self._function.__code__ = kept

    def function(self, kept: Any) -> Callable[..., Any]:
        """See `Place`; the function with its own code."""
        f = self._function
        copy = FunctionType(kept, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
        copy.__kwdefaults__ = f.__kwdefaults__
        vars(copy).update(vars(f))
        return copy

    def stand_in(self, kept: Any, dispatch: Callable[..., Any]) -> Any:
        """See `Place`; code that calls `dispatch`, which is one of its constants."""

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            call: Any = "the dispatcher stands here"
            return call(*args, **kwargs)

        code = stand_in.__code__
        constants = tuple(dispatch if constant == _PLACEHOLDER else constant for constant in code.co_consts)
        # Python accepts code for a function only if it has as many free variables; these are never read.
        return code.replace(co_consts=constants, co_freevars=kept.co_freevars)


class _Switch:
    """A place with a dispatcher in it."""

    def __init__(self, place: Place) -> None:
        self.num_users = 0
        self._place = place
        self._kept = place.read()
        self._threads = threads = threading.local()
        self.original = original = place.function(self._kept)

        @wraps(original)
        def dispatch(*args: Any, **kwargs: Any) -> Any:
            wanted = getattr(threads, "wanted", None)
            return wanted[-1](original, *args, **kwargs) if wanted else original(*args, **kwargs)

        self._stand_in = place.stand_in(self._kept, dispatch)
        place.write(self._stand_in)

    @property
    def wanted(self) -> list[Instead]:
        """What this thread wants to be called; the last one counts."""
        if not hasattr(self._threads, "wanted"):
            self._threads.wanted = []
        found: list[Instead] = self._threads.wanted
        return found

    def take_away(self) -> None:
        """Put back what was there."""
        if self._place.read() is self._stand_in:
            self._place.write(self._kept)


_SWITCHES: dict[Hashable, _Switch] = {}
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child process must not find it taken by a thread that it does not have
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


@contextmanager
def switched(place: Place, instead: Instead) -> Iterator[None]:
    """Inside the `with` block, calls that this thread makes of the function in a place are calls of `instead`.

    Raises:
        AttributeError: There is no such attribute.
    """
    with _LOCK:
        if place.key not in _SWITCHES:
            _SWITCHES[place.key] = _Switch(place)
        switch = _SWITCHES[place.key]
        switch.num_users += 1
    switch.wanted.append(instead)
    try:
        yield
    finally:
        switch.wanted.pop()
        with _LOCK:
            switch.num_users -= 1
            if not switch.num_users:
                del _SWITCHES[place.key]
                switch.take_away()


def unswitched(function: FunctionType) -> FunctionType:
    """A function with its own code, whatever code stands in its place just now."""
    with _LOCK:
        switch = _SWITCHES.get((id(function), "__code__"))
        return function if switch is None else switch.original  # type: ignore[return-value]
