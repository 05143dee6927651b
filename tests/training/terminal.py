"""A terminal for programs that draw bars: runs one in a pseudo-terminal and works out what stays on the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[2]
COLUMNS = 120
ROWS = 40
_TOKEN = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)", re.DOTALL)
_IGNORED = frozenset("mhl")
"""Colours, and whether the cursor is shown."""


class Screen:
    """What a terminal shows after some output; it knows the few codes that bars use, and refuses others."""

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self.row = 0
        self.column = 0

    def feed(self, output: str) -> None:
        """Draw output."""
        position = 0
        for token in _TOKEN.finditer(output):
            assert token.start() == position, f"unknown code {output[position : position + 10]!r}"
            position = token.end()
            numbers, code, control, text = token.groups()
            if text:
                self._write(text)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self._move(self.row + 1)
            elif code not in _IGNORED:
                self._obey(code, int(numbers or 0))
        assert position == len(output), f"unknown code {output[position : position + 10]!r}"

    def text(self) -> str:
        """All lines, without blanks at their ends."""
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")

    def _write(self, text: str) -> None:
        for letter in text:
            if self.column == COLUMNS:
                self._move(self.row + 1)
                self.column = 0
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + letter + line[self.column + 1 :]
            self.column += 1

    def _move(self, row: int) -> None:
        self.row = max(0, row)
        self.lines += [""] * (self.row + 1 - len(self.lines))

    def _obey(self, code: str, number: int) -> None:
        if code == "A":
            self._move(self.row - (number or 1))
        elif code == "B":
            self._move(self.row + (number or 1))
        elif code == "K":
            line = self.lines[self.row]
            self.lines[self.row] = {0: line[: self.column], 1: " " * self.column + line[self.column :], 2: ""}[number]
        else:
            raise AssertionError(f"unknown code {code!r}")


def run_in_terminal(script: str, *arguments: str, pipe_output: bool = False) -> tuple[str, str, str]:
    """Run Python code with a terminal for its output.

    Args:
        script: The code.
        *arguments: Its `sys.argv[1:]`.
        pipe_output: Whether standard output is a pipe, and standard error alone the terminal.

    Returns:
        Everything that was sent to the terminal, what its screen shows at the end, and what came out of the pipe.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if pipe_output else terminal,
        stderr=terminal,
    )
    os.close(terminal)
    sent = b""
    while True:
        try:
            chunk = os.read(controller, 4096)
        except OSError:  # Linux reports the end of a terminal this way
            break
        if not chunk:
            break
        sent += chunk
    os.close(controller)
    output, _ = process.communicate(timeout=60)
    text = sent.decode().replace("\r\n", "\n\r")
    assert process.returncode == 0, text
    screen = Screen()
    screen.feed(text)
    return text, screen.text(), "" if output is None else output.decode()
