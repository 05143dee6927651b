"""A progress bar over tiles."""

from __future__ import annotations

import sys
import threading

from rich.console import Console
from rich.control import Control
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import ControlType

_TERMINAL = threading.Lock()
"""Held while a bar is shown, since it takes the standard streams of the whole process."""


class ProgressBar:
    """Shows one bar per phase of a pass on standard error, where that is a terminal; gone when the phase is done.

    While a pass in another thread shows its bar, this one is not shown.

    A bar of somebody else (tqdm's, a trainer's) may stand in the line where the cursor is. The bar takes the whole line
    for the time of its phase and leaves it empty, so that the other one appears again when it is next drawn.
    """

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Tiles done so far; the first call of a phase starts its bar, the last ends it."""
        if self._progress is None:
            console = Console(stderr=True)
            if not (console.is_interactive or console.is_jupyter) or not _TERMINAL.acquire(blocking=False):
                return
            console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            # What is printed meanwhile goes above the bar, unless standard output is not the terminal the bar is on.
            self._progress = Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())
            self._task = self._progress.add_task(f"{phase} tiles", total=total)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=done)
        if done == total:
            self.close()

    def close(self) -> None:
        """Take the bar down; also after an exception in the middle of a phase."""
        if self._progress is not None:
            self._progress.stop()
            _TERMINAL.release()
        self._progress = self._task = None
