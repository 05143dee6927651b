"""Values that users pass: how messages show them, and what several functions ask of them.

    shown("x" * 400)   ->  'xxxxxxxxxxxxxxx...xxxxxxxxxxxxxxxx'

A value may be anything: too long to show, without a usable `repr`, or equal to nothing.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

from streamplan.errors import OptionError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40
_SHORT.maxtuple = _SHORT.maxlist = 12


def shown(value: object) -> str:
    """A value as Python writes it, shortened; of one that cannot be written its type."""
    try:
        return _SHORT.repr(value)
    except Exception:  # noqa: BLE001 - a `__repr__` of the user's may do anything
        return f"an object of type {type(value).__name__}"


def is_one_of(value: object, choices: Iterable[str]) -> bool:
    """Whether a value is one of some names."""
    return isinstance(value, str) and value in choices


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse what is not one of the names that an option takes.

    Raises:
        OptionError: It is not.
    """
    if not is_one_of(value, choices):
        known = ", ".join(map(repr, choices))
        raise OptionError(
            f"{name}={shown(value)} is not known", why=f"{name} is one of {known}", do=f"pass one of {known}"
        )


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        OptionError: It is not.
    """
    if not isinstance(value, bool):
        raise OptionError(
            f"{name}={shown(value)} is neither True nor False",
            why=f"{name} is a switch, and an object of type {type(value).__name__} could mean either",
            do="pass True or False",
        )


def check_instance(name: str, value: Any, kind: type, do: str) -> None:
    """Refuse an option that is not an instance of a class.

    Args:
        name: The option.
        value: What was passed for it.
        kind: The class.
        do: What to pass.

    Raises:
        OptionError: It is not.
    """
    if not isinstance(value, kind):
        wanted = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        raise OptionError(
            f"{name}={shown(value)} is not a {wanted}", why=f"it is of type {type(value).__name__}", do=do
        )
