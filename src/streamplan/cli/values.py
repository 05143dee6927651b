"""From one word of the command line to a value; argparse puts the name of the option before what is raised here.

Nothing here imports torch, which takes seconds: a mistake is told at once.
"""

from __future__ import annotations

import ast
import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from streamplan.cli.failures import UsageError

DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "double", "float", "half"),
    *("complex64", "complex128", "uint8", "int8", "int16", "int32", "int64", "bool"),
)
"""Names of dtypes that an image may have."""
DEVICES = ("cpu", "cuda", "mps", "xpu", "meta")
"""Kinds of devices that may be planned for."""
MODEL_FORMS = "name it as pkg.mod:factory or path/to/net.py:factory"
_LARGEST = 2**63 - 1
"""Torch counts in 64 bits."""


def parse_target(text: str) -> str:
    """The name of a model, which has a module or a file, a colon and an attribute.

    Raises:
        UsageError: A part is missing, or the file.
    """
    source, _ = split_target(text)
    if source.endswith(".py") and not _is_file(source):
        raise UsageError(f"there is no file {source}", do=MODEL_FORMS)
    return text


def split_target(text: str) -> tuple[str, str]:
    """The module or file of a model's name, and the attribute.

    >>> split_target("monai.networks.nets:resnet18")
    ('monai.networks.nets', 'resnet18')

    Raises:
        UsageError: A part is missing.
    """
    source, _, path = text.rpartition(":")
    if not source or not path:
        raise UsageError(
            f"{text!r} names no model", why="it has no module and attribute around a colon", do=MODEL_FORMS
        )
    return source, path


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # in a folder that may not be read, or longer than names may be
        return False


def parse_size(text: str) -> tuple[int, ...]:
    """The size of an input. How many numbers there must be, streamplan itself checks.

    >>> parse_size("1,3,8192,8192")
    (1, 3, 8192, 8192)

    Raises:
        ArgumentTypeError: It is not positive integers with commas between them.
    """
    return _positive(text, "a size: give batch, channels and extents, such as 1,3,8192,8192")


def parse_tile_size(text: str) -> int | tuple[int, ...]:
    """A tile size, for all axes or one number for each.

    >>> parse_tile_size("2048"), parse_tile_size("1024,2048")
    (2048, (1024, 2048))

    Raises:
        ArgumentTypeError: It is not positive integers with commas between them.
    """
    sizes = _positive(text, "a tile size: give 2048, or one number per axis, such as 1024,2048")
    return sizes[0] if len(sizes) == 1 else sizes


def _positive(text: str, wanted: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and word.strip("0") for word in words):
        raise ArgumentTypeError(f"{text!r} is not {wanted}")
    return tuple(_within(word, 1, _LARGEST) for word in words)


def _within(digits: str, least: int, most: int) -> int:
    """An integer that torch can hold; Python itself reads no more than some thousand digits."""
    if len(digits) > len(str(least)) + len(str(most)) or not least <= (number := int(digits)) <= most:
        raise ArgumentTypeError(f"{digits[:30]} is not between {least} and {most}")
    return number


def parse_seed(text: str) -> int:
    """A seed, as `torch.manual_seed` takes it.

    Raises:
        ArgumentTypeError: It is no integer, or one that does not fit.
    """
    return _integer(text, -(2**63), 2**64 - 1)


def parse_count(text: str) -> int:
    """A number of things; whether there can be as many, streamplan itself checks.

    Raises:
        ArgumentTypeError: It is no integer, or one that does not fit.
    """
    return _integer(text, -_LARGEST, _LARGEST)


def _integer(text: str, least: int, most: int) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ArgumentTypeError(f"{text!r} is not an integer")
    return _within(text, least, most)


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


def parse_dtype(text: str) -> str:
    """The name of a dtype, as an attribute of torch.

    >>> parse_dtype("torch.bfloat16")
    'bfloat16'

    Raises:
        ArgumentTypeError: An image has no dtype of this name.
    """
    name = text.removeprefix("torch.")
    if name not in DTYPES:
        raise ArgumentTypeError(f"{text!r} is not a dtype: give float32, say")
    return name


def parse_device(text: str) -> str:
    """The name of a device; whether it is there, planning finds out.

    Raises:
        ArgumentTypeError: It has not the form of one.
    """
    if not re.fullmatch(rf"({'|'.join(DEVICES)})(:[0-9]{{1,2}})?", text):
        raise ArgumentTypeError(f"{text!r} is not a device: give cpu or cuda, say")
    return text
