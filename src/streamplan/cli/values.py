"""From one word of the command line to a value; argparse puts the name of the option before what is raised here."""

from __future__ import annotations

import ast
from argparse import ArgumentTypeError
from typing import Any

import torch


def parse_size(text: str) -> tuple[int, ...]:
    """The size of an input. How many numbers, and which, streamplan itself checks.

    >>> parse_size("1,3,8192,8192")
    (1, 3, 8192, 8192)

    Raises:
        ArgumentTypeError: It is not integers with commas between them.
    """
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is not a size: give batch, channels and extents, such as 1,3,8192,8192"
        ) from None


def parse_tile_size(text: str) -> int | tuple[int, ...]:
    """A tile size, for all axes or one number for each.

    >>> parse_tile_size("2048"), parse_tile_size("1024,2048")
    (2048, (1024, 2048))

    Raises:
        ArgumentTypeError: It is not positive integers with commas between them.
    """
    numbers = [word.strip() for word in text.split(",")]
    if not all(number.isdecimal() and int(number) > 0 for number in numbers):
        raise ArgumentTypeError(f"{text!r} is not a tile size: give 2048, or one number per axis, such as 1024,2048")
    sizes = tuple(map(int, numbers))
    return sizes[0] if len(sizes) == 1 else sizes


def parse_assignment(text: str) -> tuple[str, Any]:
    """A keyword argument of the factory; what is no Python literal is a string.

    >>> parse_assignment("widths=[8, 16]"), parse_assignment("norm=batch")
    (('widths', [8, 16]), ('norm', 'batch'))

    Raises:
        ArgumentTypeError: There is no name before an equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ArgumentTypeError(f"{text!r} is not an argument: give its name and its value, such as num_classes=5")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return name, value


def parse_dtype(text: str) -> torch.dtype:
    """A dtype by its name.

    >>> parse_dtype("bfloat16")
    torch.bfloat16

    Raises:
        ArgumentTypeError: torch has none of this name.
    """
    dtype = getattr(torch, text.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ArgumentTypeError(f"{text!r} is not a dtype: give float32, say")
    return dtype


def parse_device(text: str) -> str:
    """The name of a device, checked.

    Raises:
        ArgumentTypeError: torch does not know it.
    """
    try:
        torch.device(text)
    except RuntimeError:
        raise ArgumentTypeError(f"{text!r} is not a device: give cpu or cuda, say") from None
    return text
