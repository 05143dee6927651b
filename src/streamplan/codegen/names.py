"""Names that users chose, in the text of a program: data, never code.

    conv1       self.conv1(x)                                w["conv1.weight"]
    class       call(attribute(self, 'class'), (x,), {})     w["class.weight"]
    say "hi"    call(attribute(self, 'say "hi"'), (x,), {})  w['say "hi".weight']

torch takes nearly any text as the name of a parameter or a module, and Python nearly any as a keyword. What is an
ordinary name stands in the program as it is; any other one stands there as a string, and is looked up.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from torch import fx

_ATTRIBUTE = re.compile(r"[A-Za-z0-9_]+")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IN_QUOTES = re.compile(r"[\w.:/+-]*")


def is_identifier(name: str) -> bool:
    """Whether a name may stand in the text as a variable or a keyword: ASCII, since Python normalises the rest."""
    return bool(_IDENTIFIER.fullmatch(name)) and not keyword.iskeyword(name) and name != "__debug__"


def is_dotted(path: str) -> bool:
    """Whether a path may stand in the text as attributes; numbers may be among them: `layer1.0.conv1`."""
    return all(_ATTRIBUTE.fullmatch(part) and not keyword.iskeyword(part) for part in path.split("."))


def quoted(name: str) -> str:
    """A name as a string of the program."""
    return f'"{name}"' if name.isascii() and _IN_QUOTES.fullmatch(name) else ascii(name)


def attribute(root: Any, path: str) -> Any:
    """What a path leads to, whatever the names on it are."""
    return attrgetter(path)(root)


def call(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function by keywords of any name."""
    return function(*args, **kwargs)


class Renamed:
    """A function whose own name cannot stand in a program, or stands there for another function.

    Args:
        function: The function.
        name: Its name in the program.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self._function = function
        self.__name__ = self.__qualname__ = name
        self.__module__ = "renamed"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self._function(*args, **kwargs)


def renamed_functions(graph: fx.Graph) -> Mapping[Any, Renamed]:
    """The functions that a graph calls and that need another name."""
    known: dict[str, Any] = {}
    renamed: dict[Any, Renamed] = {}
    for node in graph.nodes:
        function: Any = node.target
        if node.op != "call_function" or function in renamed:
            continue
        name = str(getattr(function, "__name__", type(function).__name__))
        path = f"{getattr(function, '__module__', None) or 'builtins'}.{name}"
        other = known.setdefault(re.sub(r"\W", "_", path), function)
        is_writable = path.isascii() and all(map(is_identifier, path.split(".")))
        if not is_writable or (other is not function and other != function):
            plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
            renamed[function] = Renamed(function, f"function_{len(renamed) + 1}_{plain}".rstrip("_"))
    return renamed
