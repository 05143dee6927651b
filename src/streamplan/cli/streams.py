"""Standard output carries the outcome and nothing else, whatever the user's code and its subprocesses print.

While a command runs, file descriptor 1 leads to standard error. In a process of its own it does so to the end, since
threads, functions of `atexit` and buffers of C libraries write later than the command ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from streamplan.cli.failures import OutputError

STDOUT, STDERR = 1, 2
"""File descriptors."""


@contextlib.contextmanager
def own_output(*, is_process: bool) -> Iterator[TextIO]:
    """The stream for the outcome; in the block, everything else goes to standard error.

    Args:
        is_process: Whether the process ends with the command: what is diverted then stays so.

    Raises:
        OutputError: Standard output is closed.
    """
    if sys.stdout is None:
        raise OutputError("the result has nowhere to go", why="standard output is closed", do="leave it open")
    if is_process:
        sys.stdout.flush()
        encoding = sys.stdout.encoding
        kept = _divert(STDOUT)
        sys.stdout = sys.stderr or _nowhere()
        yield open(kept, "w", encoding=encoding, errors="backslashreplace")  # noqa: PTH123, SIM115 - a descriptor, used later
        return
    stream = sys.stdout
    kept = _divert(STDOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr or _nowhere()):
            yield stream
    finally:
        if sys.__stdout__ is not None:
            sys.__stdout__.flush()
        os.dup2(kept, STDOUT)
        os.close(kept)


def _divert(descriptor: int) -> int:
    """Let a descriptor lead to standard error, or nowhere if that is closed; returns one that leads where it led."""
    kept = os.dup(descriptor)
    try:
        os.dup2(STDERR, descriptor)
    except OSError:
        discard(descriptor)
    return kept


def discard(descriptor: int) -> None:
    """Let a descriptor lead nowhere, so that what waits to be written fails no more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


@contextlib.contextmanager
def writing(stream: TextIO) -> Iterator[None]:
    """A block that writes on a stream, with all that waits to be written.

    Raises:
        BrokenPipeError: Who reads it has left.
        OutputError: It cannot be written.
    """
    try:
        yield
        stream.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            discard(stream.fileno())  # else what is left is tried again as Python ends
        if isinstance(error, BrokenPipeError):
            raise
        raise OutputError(
            "the result cannot be written", why=str(error), do="make room, or write it elsewhere"
        ) from error


def tell(text: str) -> None:
    """Write a line on standard error, if that can be written."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        discard(STDERR)
