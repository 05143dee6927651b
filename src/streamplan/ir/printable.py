"""Names for people to read: a name may hold any character, a line of a report or a program only what can be printed."""

from __future__ import annotations


def escaped(text: str) -> str:
    r"""The text on one line: line breaks and what cannot be printed as Python would write it in a string.

    >>> escaped("a b\nc")
    'a b\\nc'
    """
    if text.isprintable():
        return text
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode("ascii") for x in text)
